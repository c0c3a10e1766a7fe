"""COCO's own captions: annotations/captions_train2017.json and the like, beside the folders of images."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import Collector
from mmts.data.formats.json_file import a_row, beginning, field, read_json_object
from mmts.data.formats.karpathy import ANNOTATIONS, JUDGED_CAPTIONS
from mmts.data.records import Dataset
from mmts.errors import DataError, listed

_PART = re.compile(r"(?<![A-Za-z])(train|val|test)(20\d\d)(?!\d)")
_YEARS = ("2017", "2014")
_SPLITS = ("train", "val")


def read_coco_captions(path: str | Path) -> Dataset:
    """Read COCO's own captions (Chen et al., 2015): a whole folder, or one captions_*.json file.

    A folder's splits are train and val, and val keeps five captions an image. A file by itself keeps all captions; it
    is one split, named by the file (captions_val2017.json: val), and its images need not be there.

    Raises:
        DataError: no such file, or one of another kind; a row that cannot be, naming it; a folder without images.
    """
    path = Path(path)
    if not path.is_dir():
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        collector = Collector(path, root)
        part = _PART.search(path.name)
        # Without a folder of images beside it the file still serves for its captions.
        images = _images(root, part[0]) if part else None
        _add_file(collector, path, part[1] if part else None, images or path.parent.relative_to(root).as_posix(), None)
        return replace(collector.finish(), name="coco")
    collector = Collector(path, path)
    year, others = _year(path)
    for split, file in _files(path, year).items():
        folder = _images(path, f"{split}{year}")
        if folder is None:
            raise DataError(f"{path}: no folder of images: looked for {split}{year}/ and images/{split}{year}/")
        _add_file(collector, file, split, folder, None if split == "train" else JUDGED_CAPTIONS)
    collector.notes.extend(f"left out the files of {other}; those of {year} were read" for other in others)
    return replace(collector.finish(), name="coco")


def looks_like_coco_captions(path: Path) -> bool:
    """Return whether a folder holds captions_train2017.json or the like, or a json file begins like one."""
    if path.is_dir():
        return any(_files(path, year) for year in _YEARS)
    return path.suffix == ".json" and all(key in beginning(path) for key in (b'"images"', b'"file_name"'))


def _files(folder: Path, year: str) -> dict[str, Path]:
    """Return the captions files of a year by split."""
    places = [(split, folder / inner / f"captions_{split}{year}.json") for split in _SPLITS for inner in ANNOTATIONS]
    return {split: file for split, file in places if file.is_file()}


def _year(folder: Path) -> tuple[str, list[str]]:
    """Return the year to read and the others there are: the newest with images, since both years hold the same ones."""
    years = [year for year in _YEARS if _files(folder, year)]
    if not years:
        raise DataError(
            f"{folder}: looked for captions_train2017.json, captions_val2017.json and those of 2014, found none"
        )
    with_images = [year for year in years if any(_images(folder, f"{split}{year}") for split in _SPLITS)]
    chosen = (with_images or years)[0]
    return chosen, [year for year in years if year != chosen]


def _images(root: Path, name: str) -> str | None:
    """Return the folder of images inside `root`, None where there is none."""
    return next((each for each in (name, f"images/{name}") if (root / each).is_dir()), None)


def _add_file(collector: Collector, file: Path, split: str | None, folder: str, keep: int | None) -> None:
    """Hand all images of a file to `collector`, each with its captions in the order of the annotations."""
    document = read_json_object(file)
    for name in ("images", "annotations"):
        if not isinstance(document.get(name), list):
            raise DataError(
                f"{file}: {name!r}, a list, is missing; found {listed(document)}. "
                "COCO's captions are in files like captions_val2017.json"
            )
    captions: dict[int, list[str]] = {}
    images: list[tuple[str, int, str]] = []
    for where, row in _rows(file, document, "images"):
        identity = field(where, row, "id", int, "a whole number")
        name = field(where, row, "file_name", str, "a file name")
        images.append((where, identity, collector.inner_path(name, where, folder)))
        if identity in captions:
            raise DataError(f"{where}: the id {identity} is there already")
        captions[identity] = []
    seen: set[int] = set()
    for where, row in _rows(file, document, "annotations"):
        identity = field(where, row, "id", int, "a whole number")
        if identity in seen:
            raise DataError(f"{where}: the id {identity} is there already")
        seen.add(identity)
        image = field(where, row, "image_id", int, "a whole number")
        if image not in captions:
            raise DataError(f"{where}: there is no image with the id {image}")
        captions[image].append(field(where, row, "caption", str, "a string"))
    for where, identity, place in images:
        collector.add(where, str(identity), place, captions[identity], kind="image", labels={}, split=split, keep=keep)


def _rows(file: Path, document: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for at, row in enumerate(document[name]):
        where = f"{file}, {name}[{at}]"
        yield where, a_row(where, row)
