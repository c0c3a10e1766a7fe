"""Graded relevance from classes: what a medium and a text have in common, as EPIC-KITCHENS-100 measures it."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

_ROWS = 256  # media at a time, so that temporaries stay small

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CaptionPool:
    """The media whose captions may be drawn for each medium; media with the same key share a list.

    key (M,) in [0, K); starts (K + 1,); the list of key k is positions[starts[k] : starts[k + 1]].
    """

    key: Indices
    starts: Indices
    positions: Indices

    def draw(self, media: Indices, uniform: npt.NDArray[np.float64]) -> Indices:
        """Return the media (B,) whose captions are drawn for `media` (B,), given numbers in [0, 1) (B,)."""
        key = self.key[media]
        counts = self.starts[key + 1] - self.starts[key]
        return self.positions[self.starts[key] + (uniform * counts).astype(np.int64)]


@dataclass(frozen=True)
class Graded:
    """N texts `captions` beside M media; `owner` (N,) int64 is the medium that each text stands for.

    The relevance of a medium and a text is the mean, over the kinds of classes (verb, noun), of the intersection over
    union of the medium's classes and the classes of the text's medium (docs/method.md, 6.9). `classes` holds for each
    kind a sparse (M, classes) 0/1 matrix with at least one class per medium.
    """

    captions: tuple[str, ...]
    owner: Tensor
    classes: tuple[csr_matrix, ...]

    @property
    def num_media(self) -> int:
        """M."""
        return int(self.classes[0].shape[0])

    def relevance(self) -> Tensor:
        """Return the relevance (M, N) float64, in [0, 1]."""
        parts = np.split(np.arange(self.num_media), range(_ROWS, self.num_media, _ROWS))
        return torch.from_numpy(np.concatenate([self.between(part, self.owner.numpy()) for part in parts]))

    def between(self, media: Indices, owners: Indices) -> npt.NDArray[np.float64]:
        """Return the relevance (A, B) float64 of `media` (A,) and the texts of the media `owners` (B,)."""
        total = np.zeros((len(media), len(owners)))
        for kind in self.classes:
            rows, columns = kind[media], kind[owners]
            common = (rows @ columns.T).toarray().astype(np.float64)
            sizes = np.asarray(rows.sum(1)) + np.asarray(columns.sum(1)).T
            total += common / (sizes - common)
        return total / len(self.classes)

    def pool(self, above: float, labels: Sequence[Hashable] | None = None) -> CaptionPool:
        """Return which media's captions may be drawn for each medium: relevance over `above`, and the same label.

        Only media that a text's row names lend their caption; if none fits, one with the same classes and label does.
        """
        label = numbered(labels or [0] * self.num_media)
        key = self._keys(label.tolist())
        examples = np.unique(key, return_index=True)[1].tolist()
        owner = self.owner.numpy()
        lists: list[Indices] = []
        for start in range(0, len(examples), _ROWS):
            part = np.array(examples[start : start + _ROWS])
            fits = (self.between(part, owner) > above) & (label[part][:, None] == label[owner][None])
            lists.extend(owner[row] if row.any() else part[at : at + 1] for at, row in enumerate(fits))
        starts = np.concatenate([[0], np.cumsum([len(positions) for positions in lists])])
        return CaptionPool(key, starts, np.concatenate(lists))

    def without(self, dropped: Indices) -> "Graded":
        """Return it without the media at these positions.

        A text whose medium is dropped goes to the first remaining medium with the same classes, or is dropped too.
        """
        kept = np.delete(np.arange(self.num_media), dropped)
        key = self._keys()
        place = np.full(len(key), -1)  # by medium: its new position
        place[kept] = np.arange(len(kept))
        first = np.full(len(key), -1)  # by key: the first remaining medium
        first[key[kept][::-1]] = np.arange(len(kept))[::-1]
        owner = self.owner.numpy()
        owner = np.where(place[owner] >= 0, place[owner], first[key[owner]])
        captions = tuple(caption for caption, at in zip(self.captions, owner, strict=True) if at >= 0)
        return Graded(captions, torch.from_numpy(owner[owner >= 0]), tuple(kind[kept] for kind in self.classes))

    def _keys(self, labels: Sequence[int] | None = None) -> Indices:
        """Return (M,) numbers: equal numbers mean equal classes and labels."""
        rows = (np.split(kind.indices, kind.indptr[1:-1]) for kind in self.classes)
        columns = [[row.tobytes() for row in kind] for kind in rows]
        return numbered(zip(*columns, labels or [0] * self.num_media, strict=True))


def numbered(values: Iterable[Hashable]) -> Indices:
    """Return a number for each value, counted from 0 in the order of first occurrence."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])
