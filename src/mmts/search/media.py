"""What is to be indexed: the images or clips anywhere in a folder, or the media of a data set."""

import os
from collections.abc import Iterator
from pathlib import Path

from mmts.data.collect import VIDEO_SUFFIXES
from mmts.data.read import IMAGE_SUFFIXES, holds_dataset
from mmts.data.records import Medium
from mmts.errors import DataError
from mmts.training.recipe import Data
from mmts.training.splits import open_data, resolved

_SUFFIXES = {"image": frozenset(IMAGE_SUFFIXES), "video": VIDEO_SUFFIXES}


def find_media(path: Path, kind: str, settings: Data) -> tuple[Path, list[Medium]]:
    """Return the folder that paths start from, and the media of `kind` ("image" or "video") at `path`.

    `settings` is the data section of the run's recipe: data sets are read by it.

    A data set gives its media with their captions, whatever their split. Any other folder gives every file below it
    that is named like one of that kind; links that lead out of it and hidden files are left alone. Raises DataError
    where there is none, and what the readers raise.
    """
    path = resolved(path)
    if path.is_dir() and not holds_dataset(path):
        root, media = path, list(_files_as_media(path, kind))
    else:
        dataset = open_data(settings, path)
        root, media = dataset.root, [medium for medium in dataset.media if medium.kind == kind]
    if not media:
        raise DataError(f"{path} holds no {kind}s, which this run's model takes")
    return root, media


def _files_as_media(folder: Path, kind: str) -> Iterator[Medium]:
    for path in _files(folder):
        if path.suffix.lower() in _SUFFIXES[kind] and path.resolve().is_relative_to(folder):
            name = path.relative_to(folder).as_posix()
            yield Medium(name, path, (name,), kind=kind)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, in order of their names; folders that are links are not entered."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.isfile(path := os.path.join(parent, name)):
                yield Path(path)
