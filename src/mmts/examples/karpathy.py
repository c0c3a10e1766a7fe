"""Flickr30K and MSCOCO as published, in small: Karpathy's json files and folders of drawn JPEG images."""

import json
from collections.abc import Iterator, Sequence
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.examples.drawing import COLOURS, SHAPES, picture, write_image

_KINDS = tuple(product(COLOURS, SHAPES))  # 12
_TRAIN = (6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1)  # how often each kind is drawn for training: a long tail
_SIDES = ("on the left", "in the middle", "on the right")
_TEXTS = (
    "A {colour} {shape} {side} of the picture.",
    "The {shape} is {colour}.",
    "There is one {colour} {shape} on grey.",
    "{colour} {shape} {side}",
    "A photo of a {shape}, {colour}.",
    "Something {colour}, a {shape} perhaps.",
)


def draw_flickr30k(folder: Path) -> Path:
    """Draw 24 images for train, 4 for val and 10 for test, and write dataset_flickr30k.json; return the folder."""
    rows = []
    for row, pixels in _rows(["train"] * 24 + ["val"] * 4 + ["test"] * 10):
        name = f"{1_000_000_000 + 7 * row['imgid']}.jpg"
        write_image(folder / "flickr30k-images" / name, pixels)
        rows.append({**row, "filename": name})
    return _finish(folder, rows, "flickr30k")


def draw_coco(folder: Path) -> Path:
    """Draw 24 images for train (8 of them restval), 4 for val, 10 for test; write dataset_coco.json, return the folder.

    The first test image has six captions, the others five.
    """
    rows = []
    for row, pixels in _rows(["train"] * 16 + ["restval"] * 8 + ["val"] * 4 + ["test"] * 10, six="test"):
        part = "train2014" if row["split"] == "train" else "val2014"
        cocoid = 9 + 11 * row["imgid"]
        name = f"COCO_{part}_{cocoid:012d}.jpg"
        write_image(folder / part / name, pixels)
        rows.append({**row, "filepath": part, "filename": name, "cocoid": cocoid})
    return _finish(folder, rows, "coco")


def _rows(splits: Sequence[str], six: str | None = None) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.uint8]]]:
    """Yield the fields that both files share, and the picture; the first image of split `six` has six captions."""
    train = [kind for kind, times in zip(_KINDS, _TRAIN, strict=True) for _ in range(times)]
    others = [_KINDS[at % len(_KINDS)] for at in range(len(splits) - len(train))]
    sentids = count()
    for imgid, (split, (colour, shape)) in enumerate(zip(splits, [*train, *others], strict=True)):
        side = imgid % len(_SIDES)
        texts = _TEXTS if split == six and split not in splits[:imgid] else _TEXTS[:5]
        raws = [text.format(colour=colour, shape=shape, side=_SIDES[side]) for text in texts]
        sentences = [
            {"tokens": _tokens(raw), "raw": raw, "imgid": imgid, "sentid": sentid}
            for raw, sentid in zip(raws, sentids, strict=False)
        ]
        numbers = [sentence["sentid"] for sentence in sentences]
        row = {"sentids": numbers, "imgid": imgid, "sentences": sentences, "split": split}
        yield row, picture(colour, shape, side / 2)


def _tokens(raw: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in raw.lower()).split()


def _finish(folder: Path, rows: list[dict[str, Any]], name: str) -> Path:
    (folder / f"dataset_{name}.json").write_text(json.dumps({"images": rows, "dataset": name}), encoding="utf-8")
    return folder
