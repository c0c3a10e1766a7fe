"""Flickr30K and MSCOCO in Karpathy's splits: dataset_flickr30k.json or dataset_coco.json beside the official images."""

import os
from dataclasses import replace
from pathlib import Path

from mmts.data.formats.collect import Collector, find_file
from mmts.data.formats.json_file import Record, beginning, kind_in_words, read_json_object
from mmts.data.records import SPLITS, Dataset, split_name
from mmts.errors import DataError, listed, nearest, quoted

JUDGED_CAPTIONS = 5  # per image, in the published tables
ANNOTATIONS = ("", "annotations")  # folders of annotation files in a data set's folder
_FILES = {"flickr30k": "dataset_flickr30k.json", "coco": "dataset_coco.json"}
_IMAGES = {
    "flickr30k": ("flickr30k-images/*", "flickr30k_images/*", "images/*", "*.jpg"),
    "coco": ("train2014", "val2014", "images/train2014", "images/val2014"),
}
_RESTVAL = "restval"  # images of COCO's val2014 that are neither in val nor in test
_ID = {"flickr30k": "imgid", "coco": "cocoid"}


def read_karpathy(path: str | Path) -> Dataset:
    """Read Flickr30K or MSCOCO in Karpathy's splits (Karpathy and Fei-Fei, CVPR 2015); "restval" counts as train.

    `path` is the folder, with the json file in it or in annotations/, or the json file. In val and test each image
    keeps five captions, as in the published protocol. The images are not looked for here.

    Raises DataError: a missing or wrong file, an invalid row, naming it, or no folder of images.
    """
    path = Path(path)
    file = karpathy_file(path) if path.is_dir() else path
    document = read_json_object(file)
    name = _name(file, document)
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    folder = _image_folder(root, name)
    if folder is None:
        raise DataError(f"{root}: no folder of images: looked for {', '.join(_IMAGES[name])}")
    collector = Collector(file, root)
    restval = sum(_add(collector, row, name, folder) for row in document.records("images"))
    if restval:
        collector.notes.append(f"{restval:,} images of restval count as train")
    return replace(collector.finish(), name=name, folds=5 if name == "coco" else 1)


def karpathy_file(folder: Path, name: str | None = None) -> Path:
    """Return the json file of a data set's folder; of both, the one whose images are there (the zip holds both).

    `name` is flickr30k, coco, or None for either. Raises DataError if there is no such file, or both have images.
    """
    names = _FILES if name is None else {name: _FILES[name]}
    files = {key: file for key in names if (file := find_file(folder, ANNOTATIONS, _FILES[key])) is not None}
    if len(files) > 1:
        files = {key: file for key, file in files.items() if _image_folder(folder, key) is not None} or files
    if len(files) > 1:
        raise DataError(f"{folder}: it holds {' and '.join(map(str, files.values()))}; give one of these files")
    if not files:
        raise DataError(f"{folder}: looked for {' and '.join(names.values())} there and in annotations/, found neither")
    return next(iter(files.values()))


def looks_like_karpathy(path: Path) -> bool:
    """Return whether a folder holds one of the json files, or a json file begins like one."""
    if path.is_dir():
        return any(find_file(path, ANNOTATIONS, file) for file in _FILES.values())
    return path.suffix == ".json" and (path.name in _FILES.values() or b'"sentences"' in beginning(path))


def _name(file: Path, document: Record) -> str:
    """Return which data set a file holds."""
    if "annotations" in document.fields:
        raise DataError(f"{file}: these are COCO's own captions; Karpathy's splits are in {_FILES['coco']}")
    if "images" not in document.fields:
        raise DataError(
            f"{file}: 'images', a list, is missing; found {listed(document.fields)}. "
            f"Karpathy's files are {' and '.join(_FILES.values())}"
        )
    by_file = {known: name for name, known in _FILES.items()}.get(file.name)
    name = document.fields.get("dataset") or by_file
    if not isinstance(name, str) or name not in _FILES:
        raise DataError(f"{file}: 'dataset' should be {' or '.join(_FILES)}, not {kind_in_words(name)}")
    return name


def _add(collector: Collector, row: Record, name: str, folder: str) -> bool:
    """Hand one image to `collector` and return whether it is of restval."""
    written: str = row.get("split", str, "a string")
    is_restval = written.strip().lower() == _RESTVAL
    split = "train" if is_restval else split_name(written)
    if split not in SPLITS:
        raise DataError(f"{row.where}: the split {quoted(written)} is unknown; {nearest(written, (*SPLITS, _RESTVAL))}")
    image = row.get("filename", str, "a file name")
    if name == "coco":
        image = os.path.join(row.get("filepath", str, "the folder train2014 or val2014"), image)
    captions = [sentence.get("raw", str, "a string") for sentence in row.records("sentences")]
    if not any(caption.strip() for caption in captions):
        raise DataError(f"{row.where}: it has no caption; 'sentences' should hold at least one 'raw' that is not empty")
    identity = str(row.get(_ID[name], (int, str), "a whole number"))
    keep = None if split == "train" else JUDGED_CAPTIONS
    collector.add(row.where, identity, image, captions, kind="image", split=split, folder=folder, keep=keep)
    return is_restval


def _image_folder(root: Path, name: str) -> str | None:
    """Return the folder of images inside `root` ("" for `root` itself), or None."""
    return next((os.path.dirname(pattern) for pattern in _IMAGES[name] if any(root.glob(pattern))), None)
