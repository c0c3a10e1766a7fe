"""COCO's own captions: annotations/captions_train2017.json and the like, beside the folders of images."""

import re
from dataclasses import replace
from pathlib import Path

from mmts.data.formats.collect import Collector, find_file
from mmts.data.formats.json_file import beginning, read_json_object
from mmts.data.formats.karpathy import ANNOTATIONS, JUDGED_CAPTIONS
from mmts.data.records import Dataset
from mmts.errors import DataError, listed

_PART = re.compile(r"(?<![A-Za-z])(train|val|test)(20\d\d)(?!\d)")
_YEARS = ("2017", "2014")
_SPLITS = ("train", "val")


def read_coco_captions(path: str | Path) -> Dataset:
    """Read COCO's own captions (Chen et al., 2015): a whole folder, or one captions_*.json file.

    A folder's splits are train and val, and val keeps five captions per image. A file by itself keeps all captions; it
    is one split, named by the file (captions_val2017.json: val), and its images may be missing.

    Raises DataError: a missing or wrong file, an invalid row, naming it, or a folder without images.
    """
    path = Path(path)
    if not path.is_dir():
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        collector = Collector(path, root)
        part = _PART.search(path.name)
        images = _images(root, part[0]) if part else None
        _add_file(collector, path, part[1] if part else None, images or path.parent.relative_to(root).as_posix(), None)
        return replace(collector.finish(), name="coco")
    years = {year: files for year in _YEARS if (files := _files(path, year))}
    if not years:
        raise DataError(f"{path}: no captions_train2017.json, no captions_val2017.json, and none of those of 2014")
    with_images = [year for year in years if any(_images(path, f"{split}{year}") for split in _SPLITS)]
    chosen = [*with_images, *years][0]  # both years hold the same images
    collector = Collector(path, path)
    for split, file in years.pop(chosen).items():
        folder = _images(path, f"{split}{chosen}")
        if folder is None:
            raise DataError(f"{path}: no folder of images: looked for {split}{chosen}/ and images/{split}{chosen}/")
        _add_file(collector, file, split, folder, None if split == "train" else JUDGED_CAPTIONS)
    collector.notes.extend(f"left out the files of {year}; those of {chosen} were read" for year in years)
    return replace(collector.finish(), name="coco")


def looks_like_coco_captions(path: Path) -> bool:
    """Return whether a folder holds captions_train2017.json or the like, or a json file begins like one."""
    if path.is_dir():
        return any(_files(path, year) for year in _YEARS)
    return path.suffix == ".json" and all(key in beginning(path) for key in (b'"images"', b'"file_name"'))


def _files(folder: Path, year: str) -> dict[str, Path]:
    """Return the captions files of a year by split."""
    files = {split: find_file(folder, ANNOTATIONS, f"captions_{split}{year}.json") for split in _SPLITS}
    return {split: file for split, file in files.items() if file is not None}


def _images(root: Path, name: str) -> str | None:
    """Return the folder of images inside `root`, or None."""
    return next((folder for folder in (name, f"images/{name}") if (root / folder).is_dir()), None)


def _add_file(collector: Collector, file: Path, split: str | None, folder: str, keep: int | None) -> None:
    """Hand all images of a file to `collector`, each with its captions in the order of the annotations."""
    document = read_json_object(file)
    for name in ("images", "annotations"):
        if not isinstance(document.fields.get(name), list):
            raise DataError(
                f"{file}: {name!r}, a list, is missing; found {listed(document.fields)}. "
                "COCO's captions are in files like captions_val2017.json"
            )
    images: dict[int, tuple[str, str, list[str]]] = {}
    annotations: set[int] = set()
    for row in document.records("images"):
        identity = row.get("id", int, "a whole number")
        if identity in images:
            raise DataError(f"{row.where}: the id {identity} is there already")
        images[identity] = row.where, row.get("file_name", str, "a file name"), []
    for row in document.records("annotations"):
        identity, image = row.get("id", int, "a whole number"), row.get("image_id", int, "a whole number")
        if identity in annotations:
            raise DataError(f"{row.where}: the id {identity} is there already")
        annotations.add(identity)
        if image not in images:
            raise DataError(f"{row.where}: no image has the id {image}")
        images[image][2].append(row.get("caption", str, "a string"))
    for identity, (where, file_name, captions) in images.items():
        collector.add(where, str(identity), file_name, captions, kind="image", split=split, folder=folder, keep=keep)
