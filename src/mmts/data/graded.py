"""Graded relevance from classes: how much a medium and a text have in common, as EPIC-KITCHENS-100 judges it."""

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
    """Whose caption may be drawn for each medium: media of one key share a list.

    key (N,) in [0, U); starts (U + 1,); media of key u are positions[starts[u] : starts[u + 1]].
    """

    key: Indices
    starts: Indices
    positions: Indices

    def draw(self, media: Indices, uniform: npt.NDArray[np.float64]) -> Indices:
        """Return the media (B,) whose caption is drawn for `media` (B,), by numbers in [0, 1) (B,)."""
        key = self.key[media]
        counts = self.starts[key + 1] - self.starts[key]
        return self.positions[self.starts[key] + (uniform * counts).astype(np.int64)]


@dataclass(frozen=True)
class Graded:
    """M texts beside N media, each text standing for the medium that its row names.

    The relevance of a medium and a text is the mean, over the kinds of classes (verb, noun), of the intersection over
    union of the medium's classes and those of the text's medium (docs/method.md, 6.9).

    Attributes:
        captions: (M,) the texts.
        owner: (M,) int64, the medium each text's row names.
        classes: for each kind of class a sparse (N, classes) 0/1 matrix, at least one class a medium.
    """

    captions: tuple[str, ...]
    owner: Tensor
    classes: tuple[csr_matrix, ...]

    def relevance(self) -> Tensor:
        """Return the relevance (N, M) float64, in [0, 1]."""
        N = self.classes[0].shape[0]
        result = np.empty((N, len(self.owner)))
        for start in range(0, N, _ROWS):
            part = np.arange(start, min(start + _ROWS, N))
            result[part] = self.between(part, self.owner.numpy())
        return torch.from_numpy(result)

    def between(self, media: Indices, others: Indices) -> npt.NDArray[np.float64]:
        """Return how relevant texts of `others` (M',) are to `media` (N',), positions of media: (N', M') float64."""
        total = np.zeros((len(media), len(others)))
        for kind in self.classes:
            ours, theirs = kind[media], kind[others]
            common = (ours @ theirs.T).toarray().astype(np.float64)
            sizes = np.asarray(ours.sum(1)) + np.asarray(theirs.sum(1)).T
            total += common / (sizes - common)
        return total / len(self.classes)

    def _sets(self, labels: Sequence[int] | None = None) -> Indices:
        """Number the media (N,) by their sets of classes and their label: equal numbers, equal sets and labels."""
        numbers: dict[tuple[Hashable, ...], int] = {}
        key = []
        for at in range(self.classes[0].shape[0]):
            sets = tuple(kind.indices[kind.indptr[at] : kind.indptr[at + 1]].tobytes() for kind in self.classes)
            key.append(numbers.setdefault((*sets, labels[at] if labels else 0), len(numbers)))
        return np.array(key)

    def pool(self, above: float, labels: Sequence[Hashable] | None = None) -> CaptionPool:
        """Say which media's captions may be drawn for each medium: relevance over `above`, and the same label if given.

        Only media that a text's row names lend their caption; where none fits, one of the same classes and label does.

        Args:
            above: in [0, 1).
            labels: (N,) a label of each medium.
        """
        N = self.classes[0].shape[0]
        numbers: dict[Hashable, int] = {}
        label = np.array([numbers.setdefault(each, len(numbers)) for each in (labels or [0] * N)])
        key = self._sets(label.tolist())
        examples = np.unique(key, return_index=True)[1].tolist()
        owner = self.owner.numpy()
        found: list[Indices] = []
        for start in range(0, len(examples), _ROWS):
            part = np.array(examples[start : start + _ROWS])
            right = (self.between(part, owner) > above) & (label[part][:, None] == label[owner][None])
            found.extend(owner[row] if row.any() else part[at : at + 1] for at, row in enumerate(right))
        starts = np.concatenate([[0], np.cumsum([len(each) for each in found])])
        return CaptionPool(key, starts, np.concatenate(found))

    def without(self, dropped: Iterable[int]) -> "Graded":
        """Return it without the media at these positions, and without texts that no remaining medium fully fits.

        A text whose own medium is dropped belongs to the first one left with the same classes.
        """
        kept = np.setdiff1d(np.arange(self.classes[0].shape[0]), np.fromiter(dropped, dtype=np.int64))
        key = self._sets()
        place = np.full(len(key), -1)
        place[kept] = np.arange(len(kept))
        first = np.full(len(key), -1)  # by key: the first remaining medium of the same classes
        first[key[kept][::-1]] = np.arange(len(kept))[::-1]
        owner = self.owner.numpy()
        owner = np.where(place[owner] >= 0, place[owner], first[key[owner]])
        fits = owner >= 0
        owner = owner[fits]
        captions = tuple(caption for caption, fit in zip(self.captions, fits, strict=True) if fit)
        # The texts' classes are those of their owners, which are the same sets as before.
        return Graded(captions, torch.from_numpy(owner), tuple(kind[kept] for kind in self.classes))
