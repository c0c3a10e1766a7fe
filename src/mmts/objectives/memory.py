"""What objectives with memory share: for each row a moving average of its sum over negatives, over all batches.

For a row i (a medium against texts, or a text against media) a batch shows a few negatives, while the objective wants
all of them. So each row keeps a moving average of its sum over negatives, and the batch's negatives are weighted by it
(docs/method.md, 5.4).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.contrast import Contrast, contrast
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs
from mmts.policies.base import check_index
from mmts.schedules import Constant, Schedule

SIDES = ("media", "text")


class MovingSum(nn.Module):
    """The moving sum over negatives, S, of `size` rows (docs/method.md, 5.4).

    Kept as its logarithm, which neither overflows nor underflows however small the temperature; `seen` says which rows
    have one.
    """

    log_sum: Tensor
    seen: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("log_sum", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    def extended(self, new: Tensor, rows: Tensor, gamma: float) -> Tensor:
        """Return log S, (b,), after a batch with the log sums `new`, (b,), -inf for a query without a negative.

        rows: (b,) int64, each query's row of state. gamma: in (0, 1], the weight of the new.
        """
        before, seen = self.log_sum[rows].to(new), self.seen[rows]
        kept = before + (math.log1p(-gamma) if gamma < 1 else -math.inf)
        return torch.where(seen, torch.logaddexp(kept, new + math.log(gamma)), new)

    def remember(self, rows: Tensor, log_sum: Tensor, contrasted: Tensor) -> None:
        """Keep log S, (B,), of a batch's queries that have a negative; queries with one row leave the mean of S."""
        same = SameRow(rows)
        log_sum = log_sum.masked_fill(~contrasted, -math.inf)
        top = same.reduce(log_sum, "max")
        updated = ~top.isneginf()
        pooled = same.reduce((log_sum - top.where(updated, 0.0)).exp(), "sum").log() + top
        number = same.reduce(contrasted.to(log_sum), "sum").clamp_min(1)
        self.log_sum[rows] = torch.where(updated, (pooled - number.log()).to(self.log_sum), self.log_sum[rows])
        self.seen[rows] |= updated


class ObjectiveWithMemory(Objective):
    """Base of the objectives that remember, for every medium and every text, how hard its negatives are.

    num_media, num_captions: rows of state, by media_index for media and by index for texts. gamma: weight of the new in
    the moving average, in (0, 1], a number or a schedule of progress.
    """

    splits_queries = True

    def __init__(self, num_media: int, num_captions: int, gamma: float | Schedule) -> None:
        super().__init__()
        for name, number in (("num_media", num_media), ("num_captions", num_captions)):
            if number < 1:
                raise InputError(f"{name} is {number}; it must be 1 or more")
        self.gamma = as_schedule(gamma)
        if not 0 < self.gamma.minimum <= self.gamma.maximum <= 1:
            raise InputError(f"gamma is {gamma}; it must lie in (0, 1] throughout")
        self.num_media, self.num_captions = num_media, num_captions
        self.media_sum, self.text_sum = MovingSum(num_media), MovingSum(num_captions)

    def compute_part(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Check the rows of state, then compute; InputError names a row outside of it."""
        if pairs.media_index is None and self.num_media != self.num_captions:
            raise InputError(
                f"media_index is missing: {self.num_captions} samples share {self.num_media} media, whose state is "
                "kept by it"
            )
        check_index(pairs.index if pairs.media_index is None else pairs.media_index, self.num_media, "media_index")
        check_index(pairs.index, self.num_captions)
        return super().compute_part(x, y, pairs)

    def rows(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return the rows of state of the batch's media and texts, (B,) int64 each."""
        device = self.text_sum.log_sum.device
        media_index = pairs.index if pairs.media_index is None else pairs.media_index
        return media_index.to(device, torch.int64), pairs.index.to(device, torch.int64)

    def contrast(self, x: Tensor, y: Tensor, temperatures: tuple[Tensor, Tensor], pairs: Pairs) -> Contrast:
        """Contrast media with texts and texts with media, each at its own temperatures, () or (B,)."""
        rows, gamma = self.rows(pairs), self.gamma(pairs.progress)

        def extend(log_sums: Tensor) -> Tensor:
            sides = zip((self.media_sum, self.text_sum), log_sums, rows, strict=True)
            return torch.stack([side.extended(new, row[pairs.queries], gamma) for side, new, row in sides])

        return contrast(x, y, temperatures, extend, positives=pairs.positives, queries=pairs.queries)

    def log(self, temperature: Tensor, result: Contrast, **more: Tensor) -> dict[str, Tensor]:
        """Return what `compute` logs: the temperature, the pull on each positive pair (5.5), and what to remember.

        more: tensors (2, b) to remember by name, of media and of texts.
        """
        columns = {"log_sum": result.log_sum, "contrasted": result.contrasted, **more}
        remembered = {
            f"_{name}_{side}": column
            for name, both in columns.items()
            for side, column in zip(SIDES, both, strict=True)
        }
        return {"temperature": temperature, "weight": result.weight.sum(dim=0), **remembered}

    def remember(self, pairs: Pairs, gathered: Mapping[str, Tensor]) -> None:
        """Keep the sums over negatives of media and texts."""
        for side, row in zip(SIDES, self.rows(pairs), strict=True):
            moving_sum: MovingSum = getattr(self, f"{side}_sum")
            moving_sum.remember(row, gathered[f"_log_sum_{side}"], gathered[f"_contrasted_{side}"])


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a number as a constant schedule, and a schedule unchanged."""
    return Constant(float(value)) if isinstance(value, int | float) else value


class SameRow:
    """Which of a batch's rows of state, (B,) int64, are the same.

    >>> SameRow(torch.tensor([7, 3, 7])).reduce(torch.tensor([1.0, 2.0, 4.0]), "sum")
    tensor([5., 2., 5.])
    """

    def __init__(self, rows: Tensor) -> None:
        _, self.place, self.lengths = torch.unique(rows, return_inverse=True, return_counts=True)
        self.order = self.place.argsort(stable=True)

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """Return the "sum" or the "max" of the values, (B,), over the entries with the same row, (B,)."""
        # Not index_add, which on a GPU adds in a different order each time: processes must not drift apart.
        values, lengths = values[self.order], self.lengths
        if values.device.type == "mps":  # which has no segment_reduce
            return torch.segment_reduce(values.cpu(), how, lengths=lengths.cpu()).to(values.device)[self.place]
        return torch.segment_reduce(values, how, lengths=lengths)[self.place]
