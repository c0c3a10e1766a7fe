"""Flickr30K and MSCOCO in Karpathy's splits: dataset_flickr30k.json or dataset_coco.json beside the official images."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import Collector, inner_path
from mmts.data.formats.json_file import a_row, beginning, field, kind_in_words, read_json_object
from mmts.data.records import SPLITS, Dataset, split_name
from mmts.errors import DataError, listed, nearest, quoted

JUDGED_CAPTIONS = 5  # what the published tables judge each image with
ANNOTATIONS = ("", "annotations")  # where annotation files may lie in a data set's folder
_FILES = {"flickr30k": "dataset_flickr30k.json", "coco": "dataset_coco.json"}
_IMAGES = {
    "flickr30k": ("flickr30k-images/*", "flickr30k_images/*", "images/*", "*.jpg"),
    "coco": ("train2014", "val2014", "images/train2014", "images/val2014"),
}
_RESTVAL = "restval"  # images of COCO's val2014 that are neither in val nor in test
_ID = {"flickr30k": "imgid", "coco": "cocoid"}


def read_karpathy(path: str | Path) -> Dataset:
    """Read Flickr30K or MSCOCO in Karpathy's splits (Karpathy and Fei-Fei, CVPR 2015); "restval" counts as train.

    In val and test a sixth and further caption is dropped, as the published protocol does. Whether each image is there
    is not looked at here.

    Args:
        path: the folder, with the json file in it or in annotations/; or the json file.

    Raises:
        DataError: no such file, or one of another kind; a row that cannot be, naming it; no folder of images.
    """
    path = Path(path)
    file = karpathy_file(path) if path.is_dir() else path
    document = read_json_object(file)
    name = _name(file, document)
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    folder = _image_folder(root, name)
    collector = Collector(file, root)
    restval = 0
    for at, row in enumerate(document["images"]):
        restval += _add(collector, f"{file}, images[{at}]", row, name, folder)
    if restval:
        collector.notes.append(f"{restval:,} images of restval count as train")
    return replace(collector.finish(), name=name, folds=5 if name == "coco" else 1)


def karpathy_file(folder: Path, name: str | None = None) -> Path:
    """Return the json file of a data set's folder; of both, the one whose images are there (the zip holds both).

    `name` is flickr30k or coco where that is known. Raises DataError where there is none, or both with images.
    """
    names = _FILES if name is None else {name: _FILES[name]}
    found = {each: file for each in names for inner in ANNOTATIONS if (file := folder / inner / _FILES[each]).is_file()}
    if len(found) > 1:
        found = {each: file for each, file in found.items() if _find_images(folder, each) is not None} or found
    if len(found) > 1:
        raise DataError(f"{folder}: it holds {' and '.join(map(str, found.values()))}; give one of these files")
    if not found:
        raise DataError(f"{folder}: looked for {' and '.join(names.values())} there and in annotations/, found neither")
    return next(iter(found.values()))


def looks_like_karpathy(path: Path) -> bool:
    """Return whether a folder holds one of the json files, or a json file begins like one."""
    if path.is_dir():
        return any((path / inner / file).is_file() for inner in ANNOTATIONS for file in _FILES.values())
    return path.suffix == ".json" and (path.name in _FILES.values() or b'"sentences"' in beginning(path))


def _name(file: Path, document: dict[str, Any]) -> str:
    """Return which data set a file holds."""
    if "annotations" in document:
        raise DataError(f"{file}: these are COCO's own captions; Karpathy's splits are in {_FILES['coco']}")
    if "images" not in document:
        raise DataError(
            f"{file}: 'images', a list, is missing; found {listed(document)}. "
            f"Karpathy's files are {' and '.join(_FILES.values())}"
        )
    field(str(file), document, "images", list, "a list")
    written = document.get("dataset")
    name = next((each for each, known in _FILES.items() if known == file.name), None) if written is None else written
    if not isinstance(name, str) or name not in _FILES:
        raise DataError(f"{file}: 'dataset' should be {' or '.join(_FILES)}, not {kind_in_words(name)}")
    return name


def _add(collector: Collector, where: str, row: object, name: str, folder: str) -> bool:
    """Hand one image to `collector` and return whether it is of restval."""
    row = a_row(where, row)
    written: str = field(where, row, "split", str, "a string")
    is_restval = written.strip().lower() == _RESTVAL
    split = "train" if is_restval else split_name(written)
    if split not in SPLITS:
        raise DataError(f"{where}: the split {quoted(written)} is unknown; {nearest(written, (*SPLITS, _RESTVAL))}")
    image = inner_path(field(where, row, "filename", str, "a file name"), where)
    if name == "coco":
        image = f"{field(where, row, 'filepath', str, 'the folder train2014 or val2014')}/{image}"
    captions = _captions(where, row)
    if not any(caption.strip() for caption in captions):
        raise DataError(f"{where}: it has no caption; 'sentences' should hold at least one 'raw' that is not empty")
    identity = str(field(where, row, _ID[name], (int, str), "a whole number"))
    place = collector.inner_path(image, where, folder)
    keep = None if split == "train" else JUDGED_CAPTIONS
    collector.add(where, identity, place, captions, kind="image", labels={}, split=split, keep=keep)
    return is_restval


def _captions(where: str, row: dict[str, Any]) -> list[str]:
    sentences = field(where, row, "sentences", list, "a list")
    named = ((f"{where}.sentences[{at}]", sentence) for at, sentence in enumerate(sentences))
    return [field(here, a_row(here, sentence), "raw", str, "a string") for here, sentence in named]


def _find_images(root: Path, name: str) -> str | None:
    """Return the folder of images inside `root` ("" is `root` itself), None where there is none."""
    there = (pattern for pattern in _IMAGES[name] if any(root.glob(pattern)))
    return next((os.path.dirname(pattern) for pattern in there), None)


def _image_folder(root: Path, name: str) -> str:
    folder = _find_images(root, name)
    if folder is None:
        raise DataError(f"{root}: no folder of images: looked for {', '.join(_IMAGES[name])}")
    return folder
