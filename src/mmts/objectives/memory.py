"""What objectives with memory share: each row's moving average of how hard its negatives are, over all batches.

Of a row i (a medium against texts, or a text against media) a batch shows a few negatives; the objective wants all of
them. So each row keeps a moving average of its sum over negatives, and the batch's negatives are weighted by it
(docs/method.md, 5.4).
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.contrast import Contrast, contrast
from mmts.objectives.base import Objective, Share
from mmts.policies.base import check_index
from mmts.schedules import Constant, Schedule


class MovingSum(nn.Module):
    """The moving sum over negatives, S, of `size` rows (docs/method.md, 5.4).

    Kept as its logarithm, so that nothing over- or underflows however small the temperature; `seen` says which rows
    have one.
    """

    log_sum: Tensor
    seen: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("log_sum", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    def extended(self, new: Tensor, rows: Tensor, gamma: float) -> Tensor:
        """Return log S, (b,), after a batch whose own is `new`, (b,), -inf where a query has no negative.

        rows (b,) int64: where each query's state lies; gamma in (0, 1], the weight of the new.
        """
        before, seen = self.log_sum[rows].to(new), self.seen[rows]
        kept = before + (math.log1p(-gamma) if gamma < 1 else -math.inf)
        return torch.where(seen, torch.logaddexp(kept, new + math.log(gamma)), new)

    def remember(self, rows: Tensor, log_sum: Tensor, contrasted: Tensor) -> None:
        """Keep what a batch's queries, (B,), came to, if they had a negative; of those with one row the mean of S."""
        same = same_rows(rows)
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

    def rows(self, index: Tensor, media_index: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the state of the batch's media and texts lies, both (B,) int64; InputError names the row."""
        if media_index is None:
            if self.num_media != self.num_captions:
                raise InputError(
                    f"media_index is missing: {self.num_captions} samples share {self.num_media} media, so their state "
                    "goes by it"
                )
            media_index = index
        device = self.text_sum.log_sum.device
        for name, each in (("media_index", media_index), ("index", index)):
            if len(each) != len(x):
                raise InputError(f"{name} has {len(each)} rows and x has {len(x)}; they must be as many")
        return (
            check_index(media_index, self.num_media, "media_index").to(device, torch.int64),
            check_index(index, self.num_captions).to(device, torch.int64),
        )

    def contrast(
        self,
        x: Tensor,
        y: Tensor,
        temperatures: tuple[Tensor, Tensor],
        progress: float,
        rows: tuple[Tensor, Tensor],
        positives: Tensor | None,
        share: Share,
    ) -> Contrast:
        """Contrast media with texts and texts with media, each at its own temperatures, () or (B,).

        In training mode, remember the batch once all of it is known.
        """
        sides, gamma = (self.media_sum, self.text_sum), self.gamma(progress)

        def extend(log_sums: Tensor) -> Tensor:
            of_sides = zip(sides, log_sums, rows, strict=True)
            return torch.stack([side.extended(new, of_side[share.rows], gamma) for side, new, of_side in of_sides])

        found = contrast(x, y, temperatures, extend, positives=positives, rows=share.rows)
        if self.training:
            for side, *of_side in zip(sides, rows, found.log_sum, found.contrasted, strict=True):
                share.then(partial(side.remember, of_side[0]), *of_side[1:])
        return found


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a number as the schedule that stays there; a schedule as it is."""
    return Constant(float(value)) if isinstance(value, int | float) else value


class SameRow(NamedTuple):
    """Which of a batch's entries have one row of state; see `same_rows`."""

    order: Tensor  # (B,), entries of one row after the other
    lengths: Tensor  # how many entries each row has
    place: Tensor  # (B,), which row each entry has

    def reduce(self, values: Tensor, how: str) -> Tensor:
        """Return the "sum" or the "max" of the values, (B,), with the same row as each entry, (B,)."""
        # In place of index_add, whose order on a GPU is another each time: processes must not drift apart.
        runs = [values[self.order], self.lengths]
        if values.device.type == "mps":  # which has no segment_reduce
            runs = [each.cpu() for each in runs]
        return torch.segment_reduce(runs[0], how, lengths=runs[1]).to(values.device)[self.place]


def same_rows(rows: Tensor) -> SameRow:
    """Find which of the rows of state, (B,) int64, are the same.

    >>> same_rows(torch.tensor([7, 3, 7])).reduce(torch.tensor([1.0, 2.0, 4.0]), "sum")
    tensor([5., 2., 5.])
    """
    _, place, lengths = torch.unique(rows, return_inverse=True, return_counts=True)
    return SameRow(place.argsort(stable=True), lengths, place)


def log_weights(share: Share, log: dict[str, Tensor], found: Contrast) -> None:
    """Log as "weight" the pull of the loss on each sample's own pair over the batch's mean (docs/method.md, 5.5)."""
    share.log_relative(log, found.weight.sum(dim=0))
