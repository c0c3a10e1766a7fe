"""What objectives with memory share: each medium's and each text's moving sum over the negatives of all batches."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.contrast import Contrast, contrast
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs
from mmts.policies.base import check_index
from mmts.schedules import Constant, Schedule

SIDES = ("media", "text")


class MovingSum(nn.Module):
    """The moving sum over negatives, S, of `size` rows, as its logarithm (docs/method.md, 5.4)."""

    log_sum: Tensor
    seen: Tensor  # which rows have a sum

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("log_sum", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    def extended(self, new: Tensor, rows: Tensor, gamma: float) -> Tensor:
        """Return log S, (b,), after a batch with the log sums `new`, (b,), of queries with these rows, (b,)."""
        before, seen = self.log_sum[rows].to(new), self.seen[rows]
        kept = before + (math.log1p(-gamma) if gamma < 1 else -math.inf)
        return torch.where(seen, torch.logaddexp(kept, new + math.log(gamma)), new)

    def remember(self, rows: Tensor, log_sum: Tensor, contrasted: Tensor) -> None:
        """Keep log S, (B,), of a batch's queries that have a negative; queries with one row leave the mean of S."""
        log_sum = log_sum.masked_fill(~contrasted, -math.inf)
        top = over_same_rows(rows, log_sum, "max")
        updated = ~top.isneginf()
        pooled = over_same_rows(rows, (log_sum - top.where(updated, 0.0)).exp(), "sum").log() + top
        number = over_same_rows(rows, contrasted.to(log_sum), "sum").clamp_min(1)
        self.log_sum[rows] = torch.where(updated, (pooled - number.log()).to(self.log_sum), self.log_sum[rows])
        self.seen[rows] |= updated


class ObjectiveWithMemory(Objective):
    """Base of the objectives that remember, for every medium and every text, how hard its negatives are.

    State has num_media rows by media_index and num_captions rows by index. gamma, eps: as in `SogCLR`.
    """

    splits_queries = True

    def __init__(self, num_media: int, num_captions: int, gamma: float | Schedule, eps: float = 0.0) -> None:
        super().__init__()
        for name, number in (("num_media", num_media), ("num_captions", num_captions)):
            if number < 1:
                raise InputError(f"{name} is {number}; it must be 1 or more")
        self.gamma = as_schedule(gamma)
        if not 0 < self.gamma.minimum <= self.gamma.maximum <= 1:
            raise InputError(f"gamma is {gamma}; it must lie in (0, 1] throughout")
        if not 0 <= eps < math.inf:
            raise InputError(f"eps is {eps}; it must be 0 or more")
        self.num_media, self.num_captions, self.eps = num_media, num_captions, eps
        self.media_sum, self.text_sum = MovingSum(num_media), MovingSum(num_captions)

    def compute_part(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Check the rows of state, then compute; InputError names a row outside of it."""
        M, N = self.num_media, self.num_captions
        if pairs.media_index is not None:
            check_index(pairs.media_index, M, "media_index")
        elif M != N:
            raise InputError(f"media_index is missing: {N} samples share {M} media, whose state is kept by it")
        check_index(pairs.index, N)
        return super().compute_part(x, y, pairs)

    def rows(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return the rows of state of the batch's media and texts, (B,) int64 each."""
        device = self.text_sum.log_sum.device
        media_index = pairs.index if pairs.media_index is None else pairs.media_index
        return media_index.to(device, torch.int64), pairs.index.to(device, torch.int64)

    def contrast(
        self, x: Tensor, y: Tensor, temperatures: tuple[Tensor, Tensor], pairs: Pairs, **more: Any
    ) -> Contrast:
        """Contrast media with texts and texts with media, each at its own temperatures, () or (B,).

        more: options of `mmts.losses.contrast.contrast`.
        """
        rows, gamma = self.rows(pairs), self.gamma(pairs.progress)

        def extend(log_sums: Tensor) -> Tensor:
            sides = zip((self.media_sum, self.text_sum), log_sums, rows, strict=True)
            return torch.stack([side.extended(new, row[pairs.queries], gamma) for side, new, row in sides])

        options = {"log_added": math.log(self.eps) if self.eps else None, **more}
        return contrast(x, y, temperatures, extend, positives=pairs.positives, queries=pairs.queries, **options)

    def log(self, temperature: Tensor, result: Contrast, **more: Tensor) -> dict[str, Tensor]:
        """Return what `compute` logs: the temperature, the pull on each positive pair (5.5), and what to remember.

        more: tensors (2, b) to remember by name, of media and of texts.
        """
        log = {"temperature": temperature, "weight": result.weight.sum(dim=0)}
        for name, both in {"log_sum": result.log_sum, "contrasted": result.contrasted, **more}.items():
            log[f"_{name}_media"], log[f"_{name}_text"] = both
        return log

    def remember(self, pairs: Pairs, gathered: Mapping[str, Tensor]) -> None:
        """Keep the sums over negatives of media and texts."""
        for side, row in zip(SIDES, self.rows(pairs), strict=True):
            moving_sum: MovingSum = getattr(self, f"{side}_sum")
            moving_sum.remember(row, gathered[f"_log_sum_{side}"], gathered[f"_contrasted_{side}"])


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a number as a constant schedule, and a schedule unchanged."""
    return Constant(float(value)) if isinstance(value, int | float) else value


def over_same_rows(rows: Tensor, values: Tensor, how: str) -> Tensor:
    """Return the "sum" or the "max" of the values, (B,), over the entries with the same row, (B,).

    >>> over_same_rows(torch.tensor([7, 3, 7]), torch.tensor([1.0, 2.0, 4.0]), "sum")
    tensor([5., 2., 5.])
    """
    _, place, lengths = torch.unique(rows, return_inverse=True, return_counts=True)
    values = values[place.argsort(stable=True)]
    # Not index_add, which on a GPU adds in a different order each time: processes must not drift apart.
    if values.device.type == "mps":  # which has no segment_reduce
        return torch.segment_reduce(values.cpu(), how, lengths=lengths.cpu()).to(values.device)[place]
    return torch.segment_reduce(values, how, lengths=lengths)[place]
