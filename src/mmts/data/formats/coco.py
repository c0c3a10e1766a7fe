"""Flickr30K and MSCOCO: Karpathy's splits in one json file, or COCO's own captions, beside the official images."""

import os
import re
from dataclasses import replace
from pathlib import Path

from mmts.data.formats.collect import Collector, find_file
from mmts.data.formats.json_file import Record, beginning, kind_in_words, read_json_object
from mmts.data.records import SPLITS, Dataset, split_name
from mmts.errors import DataError, nearest, quoted

_JUDGED_CAPTIONS = 5  # per image, in the published tables
_ANNOTATIONS = ("", "annotations")  # folders of annotation files in a data set's folder
_FILES = {"flickr30k": "dataset_flickr30k.json", "coco": "dataset_coco.json"}
_IMAGES = {
    "flickr30k": ("flickr30k-images/*", "flickr30k_images/*", "images/*", "*.jpg"),
    "coco": ("train2014", "val2014", "images/train2014", "images/val2014"),
}
_RESTVAL = "restval"  # images of COCO's val2014 that are neither in val nor in test
_ID = {"flickr30k": "imgid", "coco": "cocoid"}
_PART = re.compile(r"(?<![A-Za-z])(train|val|test)(20\d\d)(?!\d)")
_YEARS = ("2017", "2014")  # both hold the same images


def read_karpathy(path: str | Path) -> Dataset:
    """Read Flickr30K or MSCOCO in Karpathy's splits (Karpathy and Fei-Fei, CVPR 2015); "restval" counts as train.

    `path` is the folder or the json file. In val and test each image keeps five captions, as in the published protocol.
    Raises DataError: a missing or wrong file, an invalid row, naming it, or no folder of images.
    """
    path = Path(path)
    file = karpathy_file(path) if path.is_dir() else path
    document = read_json_object(file)
    name = _name(file, document)
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    folder = _image_folder(root, _IMAGES[name])
    if folder is None:
        raise DataError(f"{root}: no folder of images: looked for {', '.join(_IMAGES[name])}")
    collector = Collector(file, root)
    restval = 0
    for row in document.records("images"):
        written: str = row.get("split", str, "a string")
        is_restval = written.strip().lower() == _RESTVAL
        restval += is_restval
        split = "train" if is_restval else split_name(written)
        if split not in SPLITS:
            near = nearest(written, (*SPLITS, _RESTVAL))
            raise DataError(f"{row.where}: the split {quoted(written)} is unknown; {near}")
        image = row.get("filename", str, "a file name")
        if name == "coco":
            image = os.path.join(row.get("filepath", str, "the folder train2014 or val2014"), image)
        captions = [sentence.get("raw", str, "a string") for sentence in row.records("sentences")]
        if not any(caption.strip() for caption in captions):
            raise DataError(f"{row.where}: it has no caption: every 'raw' in 'sentences' is empty")
        identity = str(row.get(_ID[name], (int, str), "a whole number"))
        keep = None if split == "train" else _JUDGED_CAPTIONS
        collector.add(
            row.where, identity, image, captions, kind="image", split=split, keep=keep, folder=os.path.dirname(folder)
        )
    if restval:
        collector.notes.append(f"{restval:,} images of restval count as train")
    return replace(collector.finish(), name=name, folds=5 if name == "coco" else 1)


def karpathy_file(folder: Path, name: str | None = None) -> Path:
    """Return the json file of a data set's folder; of both, the one whose images are there (the zip holds both).

    `name` is flickr30k, coco, or None for either. Raises DataError if there is no such file, or both have images.
    """
    names = _FILES if name is None else {name: _FILES[name]}
    files = {key: file for key in names if (file := find_file(folder, _ANNOTATIONS, _FILES[key])) is not None}
    if len(files) > 1:
        files = {key: file for key, file in files.items() if _image_folder(folder, _IMAGES[key]) is not None} or files
    if len(files) > 1:
        raise DataError(f"{folder}: it holds {' and '.join(map(str, files.values()))}; give one of these files")
    if not files:
        raise DataError(f"{folder}: looked for {' and '.join(names.values())} there and in annotations/, found neither")
    return next(iter(files.values()))


def looks_like_karpathy(path: Path) -> bool:
    """Return whether a folder holds one of the json files, or a json file begins like one."""
    if path.is_dir():
        return any(find_file(path, _ANNOTATIONS, file) for file in _FILES.values())
    return path.suffix == ".json" and (path.name in _FILES.values() or b'"sentences"' in beginning(path))


def _name(file: Path, document: Record) -> str:
    """Return which data set a file in Karpathy's format holds."""
    if "annotations" in document.fields:
        raise DataError(f"{file}: these are COCO's own captions; Karpathy's splits are in {_FILES['coco']}")
    document.get("images", list, "a list")
    by_file = {known: name for name, known in _FILES.items()}.get(file.name)
    name = document.fields.get("dataset") or by_file
    if not isinstance(name, str) or name not in _FILES:
        raise DataError(f"{file}: 'dataset' should be {' or '.join(_FILES)}, not {kind_in_words(name)}")
    return name


def _image_folder(root: Path, patterns: tuple[str, ...]) -> str | None:
    """Return the first of the patterns in `root` that something matches."""
    return next((pattern for pattern in patterns if any(root.glob(pattern))), None)


def read_coco_captions(path: str | Path) -> Dataset:
    """Read COCO's own captions (Chen et al., 2015): a whole folder, or one captions_*.json file.

    A folder's splits are train and val, and val keeps five captions per image. A file by itself keeps all captions; it
    is one split, named by the file (captions_val2017.json: val), and its images may be missing. Raises DataError: a
    missing or wrong file, an invalid row, naming it, or a folder without images.
    """
    path = Path(path)
    if not path.is_dir():
        root = path.parent.parent if path.parent.name == "annotations" else path.parent
        collector = Collector(path, root)
        part = _PART.search(path.name)
        images = _image_folder(root, (part[0], f"images/{part[0]}")) if part else None
        _add_file(collector, path, part[1] if part else None, images or path.parent.relative_to(root).as_posix(), None)
        return replace(collector.finish(), name="coco")
    years = {year: files for year in _YEARS if (files := _captions_files(path, year))}
    if not years:
        raise DataError(f"{path}: no captions_train2017.json, no captions_val2017.json, and none of those of 2014")
    folders = {name: (name, f"images/{name}") for year in years for name in (f"train{year}", f"val{year}")}
    there = {name: folder for name, places in folders.items() if (folder := _image_folder(path, places)) is not None}
    chosen = next((name[-4:] for name in there), next(iter(years)))
    collector = Collector(path, path)
    for split, file in years.pop(chosen).items():
        name = f"{split}{chosen}"
        if name not in there:
            raise DataError(f"{path}: no folder of images: looked for {name}/ and images/{name}/")
        _add_file(collector, file, split, there[name], None if split == "train" else _JUDGED_CAPTIONS)
    collector.notes.extend(f"left out the files of {year}; those of {chosen} were read" for year in years)
    return replace(collector.finish(), name="coco")


def looks_like_coco_captions(path: Path) -> bool:
    """Return whether a folder holds captions_train2017.json or the like, or a json file begins like one."""
    if path.is_dir():
        return any(_captions_files(path, year) for year in _YEARS)
    return path.suffix == ".json" and all(key in beginning(path) for key in (b'"images"', b'"file_name"'))


def _captions_files(folder: Path, year: str) -> dict[str, Path]:
    """Return COCO's own files of captions of a year by split."""
    files = {split: find_file(folder, _ANNOTATIONS, f"captions_{split}{year}.json") for split in ("train", "val")}
    return {split: file for split, file in files.items() if file is not None}


def _add_file(collector: Collector, file: Path, split: str | None, folder: str, keep: int | None) -> None:
    """Hand all images of a file to `collector`, each with its captions in the order of the annotations."""
    document = read_json_object(file)
    captions: dict[int, list[str]] = {}
    for row in document.records("annotations"):
        image = row.get("image_id", int, "a whole number")
        captions.setdefault(image, []).append(row.get("caption", str, "a string"))
    for row in document.records("images"):
        identity, image_name = row.get("id", int, "a whole number"), row.get("file_name", str, "a file name")
        texts = captions.pop(identity, [])
        collector.add(row.where, str(identity), image_name, texts, kind="image", split=split, folder=folder, keep=keep)
    if captions:
        raise DataError(f"{file}, annotations: no image has the id {next(iter(captions))}")
