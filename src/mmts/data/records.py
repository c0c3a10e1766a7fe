"""The records of a data set: media with captions, and a split as flat tables."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.graded import Graded, numbered
from mmts.errors import DataError, InputError, listed, nearest, quoted

SPLITS = ("train", "val", "test")
_SAME_SPLIT = {
    "training": "train",
    **dict.fromkeys(("validation", "valid", "dev", "development"), "val"),
    "testing": "test",
}


Label = str | list[str]
"""A label of a medium: one value, or a list of several."""


def values_of(label: Label | None) -> list[str]:
    """Return the values of a label; none for a medium without it.

    >>> values_of("cup"), values_of(["cup", "dog"]), values_of(None)
    (['cup'], ['cup', 'dog'], [])
    """
    return [] if label is None else [label] if isinstance(label, str) else label


@dataclass(frozen=True)
class Medium:
    """One image or video with its captions.

    `path` is an image; a video file; a folder with a video's 15-second chunks (0.MP4, 15.MP4, ...) or its frames
    (frame_0000000001.jpg, ...); a .npy file of precomputed features; or a tar file, whose `member` is the byte offset
    and length of the image. `kind` is "image" or "video", also for features. `start` and `end` are the seconds of a
    clip; `frames` is its first and last frame if `path` is a folder of frames.
    """

    id: str
    path: Path
    captions: tuple[str, ...]
    labels: Mapping[str, Label] = field(default_factory=dict)
    split: str | None = None
    kind: str = "image"
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    member: tuple[int, int] | None = None

    @property
    def is_features(self) -> bool:
        """Whether `path` holds precomputed features, (W,) or (T, W), instead of pixels."""
        return self.path.suffix == ".npy"

    @property
    def place(self) -> str:
        """The path and the part of the file, for messages.

        >>> Medium("7", Path("a.mp4"), ("a cat",), kind="video", start=1.5).place
        'a.mp4, from 1.5 s'
        """
        if self.member is not None:
            return f"{self.path}, sample {self.id}"
        if self.frames is not None:
            return f"{self.path}, frames {self.frames[0]} to {self.frames[1]}"
        if self.start is None and self.end is None:
            return str(self.path)
        return f"{self.path}, from {self.start or 0:g}{'' if self.end is None else f' to {self.end:g}'} s"


def one_value(medium: Medium, label: str, needed_by: str) -> str | None:
    """Return the value of a label, None for a medium without one; raise DataError for a medium with several."""
    values = values_of(medium.labels.get(label))
    if len(values) > 1:
        raise DataError(
            f"medium {medium.id!r} has {len(values)} values of {label}, {listed(values)}; "
            f"{needed_by} needs a label with one value per medium"
        )
    return str(values[0]) if values else None


@dataclass(frozen=True)
class Coverage:
    """Clips of a published split: how many can be evaluated, how many are annotated, how many the papers used."""

    judged: int
    annotated: int
    published: int | None = None


class Split:
    """One split as tables: media (M,) and the captions of all of them (N,), both in file order.

    Attributes:
        graded: texts with graded relevance, or None.
        media_checked: whether every medium was decoded when the data set was indexed.
        shard_sizes: how many consecutive media each file holds; None if every medium has its own file.

    >>> cat, dog = Medium("1", Path("1.jpg"), ("a cat", "a pet")), Medium("2", Path("2.jpg"), ("a dog", "a pet"))
    >>> split = Split("train", [cat, dog])
    >>> split.captions, split.owner.tolist(), split.first.tolist(), split.text.tolist()
    (['a cat', 'a pet', 'a dog', 'a pet'], [0, 0, 1, 1], [0, 2], [0, 1, 2, 1])
    """

    media_checked = False
    shard_sizes: Sequence[int] | None = None

    def __init__(self, name: str, media: Sequence[Medium], graded: Graded | None = None) -> None:
        """Raises InputError without media, or for a medium without captions."""
        if not media:
            raise InputError(f"split {name!r} needs at least one medium")
        if bare := [medium.id for medium in media if not medium.captions]:
            raise InputError(f"split {name!r}: medium {bare[0]!r} has no caption")
        self.name = name
        self.media: Sequence[Medium] = tuple(media)
        self.graded = graded
        self.captions: Sequence[str] = [caption for medium in media for caption in medium.captions]

    @property
    def num_media(self) -> int:
        """M."""
        return len(self.media)

    @property
    def num_captions(self) -> int:
        """N."""
        return len(self.captions)

    @cached_property
    def _counts(self) -> Tensor:
        one_each = self.num_media == self.num_captions
        return torch.tensor([1] if one_each else [len(medium.captions) for medium in self.media]).expand(self.num_media)

    @cached_property
    def owner(self) -> Tensor:
        """(N,) int64, the position in `media` of each caption's medium."""
        return torch.repeat_interleave(torch.arange(self.num_media), self._counts)

    @cached_property
    def first(self) -> Tensor:
        """(M,) int64, the position of each medium's first caption; -1 if `captions` are texts of graded relevance."""
        return self._counts.cumsum(0) - self._counts

    @cached_property
    def text(self) -> Tensor:
        """(N,) int64: equal numbers mean equal caption strings."""
        return torch.from_numpy(numbered(self.captions))

    def ids(self) -> Iterator[str]:
        """Yield the id of each medium (M,)."""
        return (medium.id for medium in self.media)

    def text_numbers(self, captions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return a number for each of these captions (n,): equal numbers mean equal strings."""
        numbers: npt.NDArray[np.int64] = self.text.numpy()[captions]
        return numbers

    def judged(self, relevance: str) -> "Split":
        """Return the split to evaluate: this one, or for "graded" the same media with the graded texts as captions.

        Raises DataError if `relevance` is "graded" and the split has no graded relevance.
        """
        if relevance != "graded":
            return self
        if self.graded is None:
            raise DataError(f"split {self.name!r} has no graded relevance: set data.relevance to text or own")
        view = copy(self)
        view.captions = self.graded.captions
        view.__dict__ |= {"owner": self.graded.owner, "first": torch.full((len(self.media),), -1)}
        view.__dict__.pop("text", None)
        return view

    def without(self, indices: Iterable[int]) -> "Split":
        """Return this split without the media at these positions. Raises DataError if no medium remains."""
        dropped = np.unique(np.fromiter(indices, dtype=np.int64))
        if len(dropped) == self.num_media:
            raise DataError(f"nothing remains of split {self.name!r}: all of its {self.num_media} media were dropped")
        return self._drop(dropped) if len(dropped) else self

    def _drop(self, dropped: npt.NDArray[np.int64]) -> "Split":
        graded = None if self.graded is None else self.graded.without(dropped)
        kept = np.delete(np.arange(self.num_media), dropped).tolist()
        return Split(self.name, [self.media[at] for at in kept], graded)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {self.num_media} media, {self.num_captions} captions)"


@dataclass(frozen=True)
class Dataset:
    """The media of one path, each with its split.

    Attributes:
        path: the file or folder that was read; relative paths in it start from `root`.
        notes: what to print about the data (merged lines, dropped captions, ...).
        graded, coverage, missing: by split, its graded relevance, its coverage, the ids of media without a file.
        folds: evaluate a test split also in this many equal parts, as MSCOCO's 5,000 images in five times 1,000.
        unreadable: the number of media left out because they cannot be decoded, and the file that lists them.
        renamed: the new name of each split that `with_splits` renamed.
    """

    name: str
    path: Path
    root: Path
    media: Sequence[Medium]
    notes: tuple[str, ...] = ()
    empty_captions: int = 0
    graded: Mapping[str, Graded] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)
    folds: int = 1
    unreadable: tuple[int, Path] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of media by split: train, val and test first, others in file order."""
        sizes = Counter(medium.split or "" for medium in self.media)
        ordered = sorted(sizes, key=lambda name: SPLITS.index(name) if name in SPLITS else len(SPLITS))
        return {name: sizes[name] for name in ordered}

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of the splits: train, val and test first."""
        return tuple(self.split_sizes)

    def split(self, name: str) -> Split:
        """Return a split as tables, by any name that `find_split` knows. Raises DataError if there is no such split."""
        if known := self.find_split(name):
            return self._tables(known)
        raise self.no_split(name)

    def find_split(self, name: str) -> str | None:
        """Return the current name of a split, given that name, a usual one ("dev") or its old one, in any case."""
        known = {**self.renamed, **{split: split for split in self.split_names}}
        lower = {written.lower(): split for written, split in known.items()}
        return known.get(name) or known.get(split_name(name)) or lower.get(name.strip().lower())

    def with_splits(self, wanted: Mapping[str, str]) -> "Dataset":
        """Return the same data with renamed splits; `wanted` maps each new name to the data's own name.

        A split that already has such a new name becomes "own NAME". Raises DataError for a name that does not exist, or
        for two new names of one split.
        """
        new: dict[str, str] = {}
        for name, own in wanted.items():
            if (known := self.find_split(own)) is None:
                near = nearest(own, self.split_names)
                raise DataError(f"data.splits.{name}: {self.path} has no split {quoted(own)}; {near}")
            if known in new:
                raise DataError(f"data.splits: {quoted(own)} cannot be both {new[known]} and {name}")
            new[known] = name
        notes = [*self.notes]
        for name in [name for name in self.split_names if name in wanted and name not in new]:
            new[name] = f"own {name}"
            notes.append(
                f"data.splits uses {quoted(wanted[name])} as {name}; the data's own {name} "
                f"({self.split_sizes[name]:,} media) is called 'own {name}' and is not used"
            )
        changes = self._renamed_media(new)
        for part in ("graded", "coverage", "missing"):
            changes[part] = {new.get(name, name): value for name, value in getattr(self, part).items()}
        return replace(self, **changes, notes=tuple(notes), renamed=new)

    def _tables(self, name: str | None) -> Split:
        if name is None:
            return Split("all", self.media)
        return Split(name, [medium for medium in self.media if medium.split == name], self.graded.get(name))

    def _renamed_media(self, new: Mapping[str, str]) -> dict[str, Any]:
        return {"media": tuple(replace(item, split=new.get(item.split or "", item.split)) for item in self.media)}

    def whole(self) -> Split:
        """Return all media as one split named "all"."""
        return self._tables(None)

    def no_split(self, name: str) -> DataError:
        """Return the error for a missing split; it lists the splits and says how to use one of them instead."""
        sizes = ", ".join(f"{split} ({size:,} media)" for split, size in self.split_sizes.items())
        ours = split_name(name)
        message = f"{self.path}: nothing is in split {ours!r}; the splits are: {sizes or 'none'}"
        others = [split for split in self.split_names if split not in SPLITS]
        if ours in SPLITS and others:
            like = next((split for part in (ours, "val") for split in others if part in split.lower()), others[-1])
            use = f"--set data.splits.{ours}={like}; evaluate and analyze also take --split {like}"
            message += f". To use one of them as {ours}: {use}"
        return DataError(message)


def split_name(name: str) -> str:
    """Return train, val or test for its usual names in any case, and any other name unchanged.

    >>> split_name("validation"), split_name("Train "), split_name("restval")
    ('val', 'train', 'restval')
    """
    lower = name.strip().lower()
    lower = _SAME_SPLIT.get(lower, lower)
    return lower if lower in SPLITS else name.strip()
