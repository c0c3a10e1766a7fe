"""The concepts of samples that may have several, and which of them decides a sample's size."""

from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Of = Literal["rarest", "commonest", "mean"]
OF: tuple[Of, ...] = ("rarest", "commonest", "mean")


class Members(NamedTuple):
    """The concepts of N samples: those of sample i are ids[offsets[i] : offsets[i + 1]], at least one.

    offsets: (N + 1,) int64, from 0. ids: int64; -1 is an unknown concept.
    """

    offsets: Tensor
    ids: Tensor

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]]) -> "Members":
        """Take the concepts of each sample, none of them empty.

        >>> Members.of_rows([[0, 2], [1]])
        Members(offsets=tensor([0, 2, 3]), ids=tensor([0, 2, 1]))
        """
        offsets = torch.tensor([0, *map(len, rows)]).cumsum(0)
        return cls(offsets, torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64))

    def deciding(self, sizes: Tensor, of: Of) -> Tensor:
        """Return the concept (N,) that decides each sample's group: its rarest or commonest (docs/method.md, 2.8).

        sizes: (K,) of the concepts; an unknown one is rarer than all others. Of equal sizes the first concept decides;
        for `of="mean"`, the rarest.

        >>> Members.of_rows([[0, 1], [0, -1]]).deciding(torch.tensor([9, 4]), "rarest")
        tensor([ 1, -1])
        """
        key = _size_of(sizes, self.ids) * (-1 if of == "commonest" else 1)
        order = np.lexsort((self.ids.numpy(), key.numpy(), self._sample().numpy()))
        return self.ids[torch.from_numpy(order)][self.offsets[:-1]]

    def mean_size(self, sizes: Tensor) -> Tensor:
        """Return the mean size (N,) int64 of each sample's concepts, rounded to a whole number, halves up.

        >>> Members.of_rows([[0, 1], [0]]).mean_size(torch.tensor([9, 4]))
        tensor([7, 9])
        """
        number = self.offsets.diff()
        total = torch.zeros_like(number).index_add_(0, self._sample(), _size_of(sizes, self.ids))
        return (2 * total + number) // (2 * number)

    def _sample(self) -> Tensor:
        """Return the sample that each of `ids` belongs to."""
        number = self.offsets.diff()
        return torch.repeat_interleave(torch.arange(len(number)), number)


def _size_of(sizes: Tensor, ids: Tensor) -> Tensor:
    return torch.cat([sizes, torch.zeros(1, dtype=torch.int64)])[ids]  # -1 takes the last, 0


def size_groups(sizes: Tensor, of_samples: Tensor) -> Tensor:
    """Return the group of each size: 0, 1, 2 = head, mid, tail, by the share of samples with a larger one.

    sizes: any number; of_samples: (N,), of each training sample (docs/method.md, 2.4).

    >>> size_groups(torch.tensor([4, 2, 0]), torch.tensor([4, 4, 4, 4, 2, 2]))
    tensor([0, 2, 2])
    """
    N = len(of_samples)
    larger = N - torch.searchsorted(of_samples.sort().values, sizes, right=True)
    # Whole numbers: a share of exactly one third must not depend on rounding.
    return (3 * larger >= N).long() + (3 * larger >= 2 * N).long()
