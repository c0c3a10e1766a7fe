"""Flickr30K and MSCOCO as published, in small: Karpathy's json files and folders of drawn JPEG images."""

import json
import re
from itertools import count, product
from pathlib import Path

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
)
_SIXTH = "Something {colour}, a {shape} perhaps."


def draw_flickr30k(folder: Path) -> Path:
    """Draw 24 images for train, 4 for val and 10 for test, and write dataset_flickr30k.json; return the folder."""
    return _draw(folder, "flickr30k", ["train"] * 24 + ["val"] * 4 + ["test"] * 10)


def draw_coco(folder: Path) -> Path:
    """Draw 24 images for train (8 of them restval), 4 for val, 10 for test; write dataset_coco.json, return the folder.

    The first test image has six captions, the others five.
    """
    return _draw(folder, "coco", ["train"] * 16 + ["restval"] * 8 + ["val"] * 4 + ["test"] * 10)


def _draw(folder: Path, name: str, splits: list[str]) -> Path:
    train = [kind for kind, times in zip(_KINDS, _TRAIN, strict=True) for _ in range(times)]
    kinds = [*train, *(_KINDS[at % len(_KINDS)] for at in range(len(splits) - len(train)))]
    sentids = count()
    rows = []
    for imgid, (split, (colour, shape)) in enumerate(zip(splits, kinds, strict=True)):
        side = imgid % len(_SIDES)
        texts = (*_TEXTS, _SIXTH) if name == "coco" and imgid == splits.index("test") else _TEXTS
        sentences = []
        for text in texts:
            raw = text.format(colour=colour, shape=shape, side=_SIDES[side])
            tokens = re.findall(r"\w+", raw.lower())
            sentences.append({"tokens": tokens, "raw": raw, "imgid": imgid, "sentid": next(sentids)})
        numbers = [sentence["sentid"] for sentence in sentences]
        row = {"sentids": numbers, "imgid": imgid, "sentences": sentences, "split": split}
        if name == "flickr30k":
            part = "flickr30k-images"
            row |= {"filename": f"{1_000_000_000 + 7 * imgid}.jpg"}
        else:
            part, cocoid = "train2014" if split == "train" else "val2014", 9 + 11 * imgid
            row |= {"filepath": part, "filename": f"COCO_{part}_{cocoid:012d}.jpg", "cocoid": cocoid}
        write_image(folder / part / str(row["filename"]), picture(colour, shape, side / 2))
        rows.append(row)
    (folder / f"dataset_{name}.json").write_text(json.dumps({"images": rows, "dataset": name}), encoding="utf-8")
    return folder
