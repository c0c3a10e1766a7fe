"""Data and processes that tests in several folders need."""

import io
import json
import multiprocessing
import shutil
import tarfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from mmts.data.media.load import load_medium
from mmts.data.records import Medium, Split
from mmts.examples.drawing import write_film, write_image
from mmts.examples.sets import _VIDEOS, _film, _is_downloaded, _sample, draw_ek100

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


def draw_shards(folder: Path) -> Path:
    """Write three shards with the files that img2dataset puts beside them, and return the folder.

    A failed download is counted in the statistics and has no file in the tar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(3):
        numbers = range(shard * 12, (shard + 1) * 12)
        good = list(filter(_is_downloaded, numbers))
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for number in good:
                # img2dataset numbers samples by shard and place in it.
                _add_sample(archive, f"{shard:05d}{number - numbers[0]:04d}", number)
        failed = len(numbers) - len(good)
        statistics = {"count": len(numbers), "successes": len(good), "failed_to_download": failed}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(statistics, indent=4))
    return folder


def _add_sample(archive: tarfile.TarFile, key: str, number: int) -> None:
    caption, pixels = _sample(number)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG")
    about = {"caption": caption, "url": f"http://example.com/{key}.jpg", "key": key, "status": "success"}
    contents = {"jpg": jpeg.getvalue(), "json": json.dumps(about, indent=4).encode(), "txt": caption.encode()}
    for suffix, data in contents.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        member.mtime = 1_700_000_000.25  # a fraction, as webdataset writes: a PAX header
        archive.addfile(member, io.BytesIO(data))


def draw_clips(folder: Path, layout: str) -> Path:
    """Draw the small EPIC-KITCHENS-100 with its videos in chunks, as whole videos or as frames, or with features."""
    draw_ek100(folder, features=layout == "features")
    if layout in ("videos", "frames"):
        shutil.rmtree(folder / "videos")
        for video, actions in (_VIDEOS["train"] | _VIDEOS["test"]).items():
            if layout == "videos":
                write_film(folder / "videos" / video[:3] / f"{video}.MP4", _film(actions), 10)
                continue
            for number, pixels in enumerate(_film(actions), 1):
                write_image(folder / video[:3] / "rgb_frames" / video / f"frame_{number:010d}.jpg", pixels)
    return folder


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def command_of(pid: int) -> str:
    """Return a process's command; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()  # empty if it has ended and nobody has waited for it
    except OSError:
        return ""
