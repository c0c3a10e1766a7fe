"""What a data set is: media with captions, and a split of it as flat tables."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.graded import Graded
from mmts.errors import DataError, InputError, nearest, quoted

SPLITS = ("train", "val", "test")
_SAME_SPLIT = {
    "training": "train",
    **dict.fromkeys(("validation", "valid", "dev", "development"), "val"),
    "testing": "test",
}


@dataclass(frozen=True)
class Medium:
    """One image or video with its captions.

    Attributes:
        path: an image; a video file, or a folder of its 15-second chunks (0.MP4, 15.MP4, ...) or of its frames
            (frame_0000000001.jpg, ...); a .npy file of features computed beforehand; or a tar file, see `member`.
        kind: "image" or "video", also where `path` holds features.
        start, end: seconds that cut a clip out of a video.
        frames: first and last frame of the clip where `path` is a folder of frames.
        member: byte offset and length of the image inside `path`, where that is a tar file.
    """

    id: str
    path: Path
    captions: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    kind: str = "image"
    start: float | None = None
    end: float | None = None
    frames: tuple[int, int] | None = None
    member: tuple[int, int] | None = None

    @property
    def is_features(self) -> bool:
        """Whether `path` holds features computed beforehand, (W,) or (T, W), instead of pixels."""
        return self.path.suffix == ".npy"

    @property
    def place(self) -> str:
        """The path as messages name it, with the part of that file that is meant.

        >>> Medium("7", Path("a.tar"), ("a cat",), member=(512, 9)).place
        'a.tar, sample 7'
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


@dataclass(frozen=True)
class Coverage:
    """How much of a published split is at hand: `judged` of the `annotated` clips, and how many papers judge on."""

    judged: int
    annotated: int
    published: int | None = None


class Split:
    """One split as tables: M media, N captions, all in file order.

    Attributes:
        name: which split this is.
        media: (M,) the media.
        captions: (N,) the captions of all media, one after the other.
        owner: (N,) int64, the position in `media` of each caption's medium.
        first: (M,) int64, the position in `captions` of each medium's first one; -1 where it has none of these.
        graded: texts to judge with and their graded relevance, where the data set has such.
        media_checked: whether every medium has been decoded already, when the data set was indexed.
        shard_sizes: how many media, in order, lie in the same file; None where each has its own.

    >>> cat, dog = Medium("1", Path("1.jpg"), ("a cat", "a pet")), Medium("2", Path("2.jpg"), ("a dog", "a pet"))
    >>> split = Split("train", [cat, dog])
    >>> split.captions, split.owner.tolist(), split.first.tolist()
    (['a cat', 'a pet', 'a dog', 'a pet'], [0, 0, 1, 1], [0, 2])
    >>> split.text.tolist()
    [0, 1, 2, 1]
    """

    media_checked = False
    shard_sizes: Sequence[int] | None = None

    def __init__(self, name: str, media: Sequence[Medium], graded: Graded | None = None) -> None:
        """Raises InputError without media, or naming a medium without captions."""
        if not media:
            raise InputError(f"split {name!r} needs at least one medium")
        bare = next((medium.id for medium in media if not medium.captions), None)
        if bare is not None:
            raise InputError(f"split {name!r}: medium {bare!r} has no caption")
        if graded is not None and graded.classes[0].shape[0] != len(media):
            raise InputError(
                f"split {name!r} has {len(media)} media, and graded relevance is of {graded.classes[0].shape[0]}"
            )
        self.name = name
        self.media: Sequence[Medium] = tuple(media)
        self.graded = graded
        self.captions: Sequence[str] = [caption for medium in media for caption in medium.captions]
        counts = torch.tensor([len(medium.captions) for medium in media])
        self.owner: Tensor = torch.repeat_interleave(torch.arange(len(media)), counts)
        self.first: Tensor = counts.cumsum(0) - counts

    @property
    def num_media(self) -> int:
        """M, how many media there are."""
        return len(self.media)

    @property
    def num_captions(self) -> int:
        """N, how many captions there are."""
        return len(self.captions)

    @cached_property
    def text(self) -> Tensor:
        """(N,) int64: equal numbers are equal caption strings."""
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(caption, len(numbers)) for caption in self.captions])

    def judged(self, relevance: str) -> "Split":
        """Return what is judged under a relevance: for "graded" the same media with the graded texts as captions.

        Raises DataError where graded relevance is asked for and there is none.
        """
        if relevance != "graded":
            return self
        if self.graded is None:
            raise DataError(
                f"split {self.name!r} has no graded relevance, which data.relevance asks for; "
                "only EPIC-KITCHENS-100 has it, other data take text or own"
            )
        view = copy(self)
        view.captions, view.owner = self.graded.captions, self.graded.owner
        view.first = torch.full((len(self.media),), -1)
        view.__dict__.pop("text", None)
        return view

    def without(self, indices: Iterable[int]) -> "Split":
        """Return this split without the media at these positions, the rest in the same order.

        Raises DataError when nothing remains, InputError for a position that does not exist.
        """
        dropped = np.unique(np.fromiter(indices, dtype=np.int64))
        unknown = dropped[(dropped < 0) | (dropped >= self.num_media)]
        if len(unknown):
            raise InputError(f"split {self.name!r} has {self.num_media} media; there is no position {unknown[0]}")
        if len(dropped) == self.num_media:
            raise DataError(f"nothing remains of split {self.name!r}: all of its {self.num_media} media were dropped")
        return self._at(np.delete(np.arange(self.num_media), dropped), dropped) if len(dropped) else self

    def _at(self, kept: npt.NDArray[np.int64], dropped: npt.NDArray[np.int64]) -> "Split":
        graded = None if self.graded is None else self.graded.without(dropped.tolist())
        return Split(self.name, [self.media[at] for at in kept.tolist()], graded)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {self.num_media} media, {self.num_captions} captions)"


@dataclass(frozen=True)
class Dataset:
    """Everything one path holds: every medium has a split; `notes` are things to say aloud (captions dropped, ...).

    `path` is what was read, `root` the folder that its relative paths start from; `empty_captions` were dropped.
    By split: `graded` relevance, `coverage`, and the ids of `missing` media, left out for want of a file. `folds`:
    judge a test split also in that many equal parts, as MSCOCO's 5,000 images in five times 1,000. `unreadable`: how
    many media were left out because they cannot be decoded, and the file that names them, where the reader looked.
    `renamed`: what a split is called now, by the data's own name of it, see `with_splits`.
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
        """Media by split: train, val and test first, others in file order."""
        sizes = Counter(medium.split or "" for medium in self.media)
        known = [name for name in SPLITS if name in sizes]
        return {name: sizes[name] for name in [*known, *(each for each in sizes if each not in known)]}

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits there are: train, val and test first."""
        return tuple(self.split_sizes)

    def split(self, name: str) -> Split:
        """Return a split as tables, by any name that `find_split` knows. Raises DataError where there is none."""
        found = self.find_split(name)
        if found is None:
            raise self.no_split(name)
        return self._tables_of(found)

    def find_split(self, name: str) -> str | None:
        """Return the name here of a split: as written, as `split_name` has it, by the data's own name, in any case."""
        known = {each: each for each in self.split_names}
        known = {**self.renamed, **known}
        in_any_case = {each.lower(): now for each, now in known.items()}
        wanted = (known.get(name), known.get(split_name(name)), in_any_case.get(name.strip().lower()))
        return next((each for each in wanted if each is not None), None)

    def with_splits(self, wanted: Mapping[str, str]) -> "Dataset":
        """Return the same data with splits renamed; `wanted` is the data's own name of a split by its new one.

        A split of the data that has such a new name already becomes "own NAME", which the notes say. Raises DataError
        for a name that is not there, with the nearest one, and where two new names are of the same split.
        """
        new: dict[str, str] = {}
        for name, own in wanted.items():
            found = self.find_split(own)
            if found is None:
                near = nearest(own, self.split_names)
                raise DataError(f"data.splits.{name}: {self.path} has no split {quoted(own)}; {near}")
            if found in new:
                raise DataError(f"data.splits: {quoted(own)} cannot be both {new[found]} and {name}")
            new[found] = name
        displaced = [name for name in self.split_names if name in wanted and name not in new]
        notes = [
            f"data.splits uses {quoted(wanted[name])} as {name}; the data's own {name} "
            f"({self.split_sizes[name]:,} media) is called 'own {name}' and is not used"
            for name in displaced
        ]
        new |= {name: f"own {name}" for name in displaced}
        by_split: dict[str, Any] = {
            part: {new.get(name, name): value for name, value in getattr(self, part).items()}
            for part in ("graded", "coverage", "missing")
        }
        return replace(self, **self._renamed_media(new), **by_split, notes=(*self.notes, *notes), renamed=new)

    def _tables_of(self, name: str) -> Split:
        return Split(name, [medium for medium in self.media if medium.split == name], self.graded.get(name))

    def _renamed_media(self, new: Mapping[str, str]) -> dict[str, Any]:
        return {"media": tuple(replace(each, split=new.get(each.split or "", each.split)) for each in self.media)}

    def whole(self) -> Split:
        """Return all media, whatever their split, as one split named "all"."""
        return Split("all", self.media)

    def no_split(self, name: str) -> DataError:
        """Return the error that says which splits there are in place of this one, and how to name one."""
        sizes = ", ".join(f"{each} ({size:,} media)" for each, size in self.split_sizes.items())
        ours = split_name(name)
        message = f"{self.path}: nothing is in split {ours!r}; the splits are: {sizes or 'none'}"
        others = [each for each in self.split_names if each not in SPLITS]
        if ours in SPLITS and others:
            like = next((each for part in (ours, "val") for each in others if part in each.lower()), others[-1])
            message += (
                f". To use one of them as {ours}: --set data.splits.{ours}={like}; evaluate and analyze also take "
                f"--split {like}"
            )
        return DataError(message)


def split_name(name: str) -> str:
    """Return the name we use for a split: train, val or test in any case and by their usual names, else as it is.

    >>> split_name("validation"), split_name("Train "), split_name("restval")
    ('val', 'train', 'restval')
    """
    # Full-width letters, zero-width characters: what reads "train" is train.
    plain = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    low = plain.strip().lower()
    low = _SAME_SPLIT.get(low, low)
    return low if low in SPLITS else name.strip()
