"""`mmts prepare cut`: a part of a data set with an exponential long tail over a label."""

import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmts.apps.prepare import manifest_row
from mmts.console import console
from mmts.data.read import CAPTIONS_NAME, read_dataset
from mmts.data.records import Medium, one_value
from mmts.errors import DataError, nearest
from mmts.files import atomic_folder


def write_cut(
    data: str | Path, out: Path, label: str, imbalance: float, num_classes: int | None = None, total: int | None = None
) -> None:
    """Write a folder with a captions.jsonl and copies of its files: the `num_classes` largest classes of train.

    The number of training media of class k = 0, 1, ... falls as imbalance^(-k / (K - 1)), so that the last class gets
    1 / imbalance as many as the first, and all of them together are `total` (default: as many as there can be). Other
    splits keep all their media of these classes, so that every cut is evaluated on the same queries; a split without
    the label keeps all its media, which is printed.

    data: as `--data` takes it. Raises DataError for data that are not enough, or that lack the label.
    """
    dataset = read_dataset(data)
    media = cut(dataset.split("train").media, label, imbalance, num_classes, total)
    class_of = partial(one_value, label=label, needed_by="a cut")
    sizes = Counter(map(class_of, media))
    labeled = {each.split for each in dataset.media if label in each.labels}
    for split in (name for name in dataset.split_names if name not in labeled):
        console.print(f"note: nothing in {split} has the label {label!r}, so all of it is kept")
    for each in dataset.media:
        if each.split != "train" and (each.split not in labeled or class_of(each) in sizes):
            media.append(each)
    with atomic_folder(out) as folder:
        for path in dict.fromkeys(medium.path for medium in media):
            if not path.is_relative_to(dataset.root):
                raise DataError(f"{path} is not in {dataset.root}, so it has no place in a copy of that folder")
            target = folder / path.relative_to(dataset.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target)
        lines = [json.dumps(manifest_row(medium, dataset.root), ensure_ascii=False) for medium in media]
        (folder / CAPTIONS_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits = ", ".join(f"{split} {size:,}" for split, size in Counter(medium.split for medium in media).items())
    largest, smallest = max(sizes.values()), min(sizes.values())
    console.print(f"{out}: {splits}; {len(sizes)} classes, from {largest:,} training media down to {smallest:,}")


def cut(
    train: Sequence[Medium], label: str, imbalance: float, num_classes: int | None = None, total: int | None = None
) -> list[Medium]:
    """Return the training media to keep, in their order; raises DataError if there are too few."""
    names = [one_value(medium, label, "a cut") for medium in train]
    available = Counter(name for name in names if name is not None)
    if not available:
        known = {name for medium in train for name in medium.labels}
        raise DataError(f"train has no label {label!r}; {nearest(label, known)}")
    ordered = sorted(available.items(), key=lambda item: (-item[1], item[0]))[:num_classes]
    if num_classes is not None and len(ordered) < num_classes:
        raise DataError(f"{label} has {len(ordered)} classes in train, fewer than --classes {num_classes}")
    if total is None:
        total = largest_total([size for _, size in ordered], imbalance)
    kept = set[int]()
    for (name, there), size in zip(ordered, class_sizes(len(ordered), imbalance, total), strict=True):
        if size > there:
            raise DataError(f"{name} has {there} training media but needs {size}; lower --total")
        if size == 0:
            raise DataError(f"{name} would keep no training media; raise --total, or lower --classes or --imbalance")
        places = {train[at].id: at for at, other in enumerate(names) if other == name}
        kept |= {places[identity] for identity in random.Random(f"0/{name}").sample([*places], size)}
    return [train[at] for at in sorted(kept)]


def class_sizes(num_classes: int, imbalance: float, total: int) -> list[int]:
    """Return the sizes of K classes, largest first, rounded such that their sum is `total`.

    >>> class_sizes(3, 1, 30), class_sizes(3, 100, 111)
    ([10, 10, 10], [100, 10, 1])
    """
    exact = [total * share for share in _shares(num_classes, imbalance)]
    sizes = [int(size) for size in exact]
    by_remainder = sorted(range(num_classes), key=lambda k: sizes[k] - exact[k])  # largest remainder first
    for k in by_remainder[: total - sum(sizes)]:
        sizes[k] += 1
    return sizes


def largest_total(available: Sequence[int], imbalance: float) -> int:
    """Return the largest sum of `class_sizes` for which no class needs more than there are, largest first.

    >>> largest_total([500, 40, 5], 100)
    449
    """
    K = len(available)
    shares = _shares(K, imbalance)
    total = math.ceil(min((there + 1) / share for there, share in zip(available, shares, strict=True)))
    while any(size > there for size, there in zip(class_sizes(K, imbalance, total), available, strict=True)):
        total -= 1
    return total


def _shares(num_classes: int, imbalance: float) -> list[float]:
    parts = [imbalance ** (-k / max(num_classes - 1, 1)) for k in range(num_classes)]
    return [part / sum(parts) for part in parts]
