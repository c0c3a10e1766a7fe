"""Data and processes that tests in several folders need."""

import json
import multiprocessing
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mmts.data.media.load import load_medium
from mmts.data.records import Medium, Split

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (250, 250, 250)}
SHAPES = ("square", "bar", "stripe")
IMPORTED = [
    "mmts.training.run", "torch._dynamo", "sklearn.decomposition", "sklearn.feature_extraction.text", "faiss"
]  # fmt: skip


def ready_processes() -> ForkServerContext:
    """Return a context whose new processes have everything imported already, so that each starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def load_pixels(path: str | Path, *settings: Any, member: tuple[int, int] | None = None, **options: Any) -> Tensor:
    """Return `load_medium` of the image in a file."""
    return load_medium(Medium("image", Path(path), ("x",), member=member), *settings, **options)


def captioned_split(captions: Sequence[Sequence[str]], name: str = "test") -> Split:
    """Return a split of media 0, 1, ... with these captions; the files of the media do not exist."""
    return Split(name, [Medium(str(i), Path(f"{i}.png"), tuple(texts)) for i, texts in enumerate(captions)])


def draw_shapes(folder: Path, count: int = 48) -> Path:
    """Draw `count` colored shapes with captions; every sixth goes to val, every seventh to test."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = []
    for i in range(count):
        color, shape = list(COLORS)[int(rng.integers(4) ** 2 / 3)], SHAPES[i % 3]
        picture = np.full((24, 20, 3), 10 * (i % 7), dtype=np.uint8)
        rows, columns = {"square": (slice(4, 18), slice(4, 16)), "bar": (slice(8, 12), slice(None))}.get(
            shape, (slice(None), slice(i % 10, i % 10 + 4))
        )
        picture[rows, columns] = COLORS[color]
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        line: dict[str, Any] = {"id": str(i), "image": f"images/{i}.png", "labels": {"shape": shape}}
        line["captions"] = [f"a {color} {shape} number {i}", f"{shape} in {color}"]
        line["split"] = "val" if i % 6 == 0 else "test" if i % 7 == 0 else "train"
        lines.append(json.dumps(line))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder
