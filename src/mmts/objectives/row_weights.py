"""Effective-number weights: pairs of rare concepts count more, from a chosen point of training on."""

from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import InputError, check_rows
from mmts.options import ZeroToBelowOne, ZeroToOne
from mmts.policies.base import rows_of
from mmts.schedules import check_progress


class RowWeights(nn.Module):
    """Weights of rows by the effective number of a concept's samples (docs/method.md, 4.21; arXiv 1901.05555).

        w_i = v_c(i) over its mean over the training samples,   v_c = (1 - beta) / (1 - beta^n_c)

    by: `concept`, or a label of the media (of a list, the rarest value).
    beta: 0 weighs all samples alike; towards 1 they are weighed by 1 / n_c.
    start: progress from which on the weights count; before, all are 1.

    `counts` is (N,), n_c of each training sample, positive. InputError naming the row of one that is not, or for an
    index outside 0..N-1.
    Source: Cui et al., arXiv 1901.05555, section 4; deferred: LDAM-DRW, arXiv 1906.07413 (from .8 on).

    >>> weights = RowWeights(torch.tensor([3, 3, 3, 1]), beta=0.9)
    >>> weights(0.5, torch.tensor([0, 3])), weights(0.8, torch.tensor([0, 3]))
    (None, tensor([0.7005, 1.8984]))
    """

    words = "by {by} (beta {beta:g}) from progress {start:g}"
    weight: Tensor

    def __init__(self, counts: Tensor, beta: ZeroToBelowOne = 0.9999, start: ZeroToOne = 0.8) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise InputError(f"RowWeights: beta is {beta:g}; it must be at least 0 and less than 1")
        if not 0 <= start <= 1:
            raise InputError(f"RowWeights: start is {start:g}; it must lie in [0, 1]")
        if counts.ndim != 1 or not len(counts):
            raise InputError(f"RowWeights: counts is {tuple(counts.shape)}; it must be (N,), N >= 1")
        check_rows(counts > 0, "RowWeights: counts[{row}] is {value}; it must be positive", counts)
        n = counts.double()
        v = (1.0 - beta) / -torch.expm1(n * torch.tensor(beta, dtype=torch.float64).log())
        self.start = start
        self.register_buffer("weight", (v / v.mean()).float())  # (N,)

    @classmethod
    def from_recipe(
        cls, run: Any, by: str = "concept", beta: ZeroToBelowOne = 0.9999, start: ZeroToOne = 0.8
    ) -> "RowWeights":
        """Return the weights of a run's training samples."""
        return cls(run.concepts_by(by).counts, beta, start)

    def forward(self, progress: float, index: Tensor) -> Tensor | None:
        """Return the weight of each sample, (B,), or None before `start`."""
        weights = rows_of(self.weight, index)
        return weights if check_progress(progress) >= self.start else None
