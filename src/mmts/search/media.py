"""What an index covers: the images or clips anywhere in a folder, or the media of a data set."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mmts.console import console
from mmts.data.formats.collect import read_lines
from mmts.data.formats.imagefolder import metadata_files, read_imagefolder
from mmts.data.formats.shards import read_shards, tars_in
from mmts.data.formats.table import has_usual_column
from mmts.data.media.suffixes import is_medium, is_typescript, left_out
from mmts.data.read import reader_of
from mmts.data.records import Medium
from mmts.errors import DataError, counted, listed
from mmts.recipe.sections import Data
from mmts.training.splits import open_data, resolved

_OTHER = {"image": "video", "video": "image"}


def find_media(path: Path, kind: str, settings: Data) -> tuple[Path, list[Medium]]:
    """Return the folder that paths start from, and the media of `kind` ("image" or "video") at `path`.

    A data set gives its media with their captions, of all splits; `settings`, the data section of the run's recipe, say
    how to read it. Any other folder gives all files below it with a suffix of that kind, except hidden files and links
    that lead out of it. So does a folder of such files that also has a .tar, or a metadata file without file names.
    Prints what is left out. Raises DataError if there are no such media, and what the readers raise.
    """
    path = resolved(path)
    files = list(_files(path)) if path.is_dir() else []
    paths = [file for file in files if is_medium(file, kind) and not is_typescript(file)]
    strays = _strays(path) if paths else []
    if path.is_dir() and (strays or reader_of(path) is None):
        if strays:
            names = listed(stray.name for stray in strays)
            console.print(f"note: {path} is read as a folder of {kind}s, without {names}")
        root, places = path, [file.relative_to(path).as_posix() for file in paths]
        media = [Medium(place, path / place, (place,), kind=kind) for place in places]
        notes = left_out(files)
        others = sum(is_medium(file, _OTHER[kind]) and not is_typescript(file) for file in files)
    else:
        dataset = open_data(settings, path)
        root, media, notes = dataset.root, [medium for medium in dataset.media if medium.kind == kind], []
        others = len(dataset.media) - len(media)
    if others:
        notes.append(f"left out {counted(others, _OTHER[kind])}: this run's model takes {kind}s")
    for note in notes:
        console.print(f"note: {note}")
    if not media:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"{path} holds no {kind}s, which this run's model takes{why}")
    return root, media


def _strays(folder: Path) -> list[Path]:
    """Return the files that make a folder of media look like a data set, if they say nothing about these media."""
    reader = reader_of(folder)
    if reader is read_shards:
        return tars_in(folder)
    files = list(metadata_files(folder)) if reader is read_imagefolder else []
    return [] if any(map(_names_files, files)) else files


def _names_files(metadata: Path) -> bool:
    try:
        first = next((line for _, line in read_lines(metadata) if line.strip()), "")
    except DataError:  # not even text
        return False
    return has_usual_column(re.findall(r"[\w -]+", first), "media")


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, ordered by name; linked folders are not entered."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and os.path.isfile(path) and path.resolve().is_relative_to(folder):
                yield path
