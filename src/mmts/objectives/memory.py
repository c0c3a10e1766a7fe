"""What objectives with memory share: each row's moving average of how hard its negatives are, over all batches.

Of a row i (a medium against texts, or a text against media) a batch shows a few negatives; the objective wants all of
them. So each row keeps a moving average of its sum over negatives, and the batch's negatives are weighted by it
(docs/method.md, 5.4).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.checks import checked_value, other_positives
from mmts.losses.normalize import cosine_similarity
from mmts.objectives.base import Objective, relative
from mmts.policies.base import check_index
from mmts.schedules import Constant, Schedule


class Contrast(NamedTuple):
    """One direction of a batch against its negatives; of a row without any, all is 0.

    Shapes: differences s_ij - s_ii (B, B), with gradient; the rest without: exponents d_ij and weights w_ij (B, B),
    both 0 where j is no negative of i; log_mean (B,), log(S_i / number of negatives); contrasted (B,) bool, rows that
    have a negative.
    """

    differences: Tensor
    exponents: Tensor
    weights: Tensor
    log_mean: Tensor
    contrasted: Tensor

    def loss(self) -> Tensor:
        """Return mean_i sum_j w_ij (s_ij - s_ii), shape ()."""
        return (self.weights * self.differences).sum(dim=1).mean()

    def mean_exponent(self) -> Tensor:
        """Return sum_j w_ij d_ij, shape (B,)."""
        return (self.weights * self.exponents).sum(dim=1)

    def slack(self, rho: float) -> Tensor:
        """Return log_mean + rho - sum_j w_ij d_ij, shape (B,): dF/dtau_i of the robust loss F (docs/method.md, 5.6)."""
        return torch.where(self.contrasted, self.log_mean + rho - self.mean_exponent(), 0.0)


class MovingSum(nn.Module):
    """The moving sum over negatives, S, of `size` rows (docs/method.md, 5.4).

    Kept as its logarithm, so that nothing over- or underflows however small the temperature; `seen` says which rows
    have one. State changes in training mode only, once a call. Rows that a batch repeats are all computed from what
    was there before it, and leave their mean; a row without a negative leaves nothing.
    """

    log_sum: Tensor
    seen: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("log_sum", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))

    def forward(
        self, similarity: Tensor, temperature: Tensor, negatives: Tensor, rows: Tensor, gamma: float
    ) -> Contrast:
        """Contrast the queries in the rows of `similarity` (B, B) with their negatives (B, B) bool, and remember.

        temperature () or (B,); rows (B,) int64, where each query's state lies; gamma in (0, 1], the weight of the new.
        """
        differences = similarity - similarity.diagonal()[:, None]
        with torch.no_grad():
            tau = temperature if temperature.ndim == 0 else temperature[:, None]
            exponents = (differences / tau).masked_fill(~negatives, -math.inf)
            number = negatives.sum(dim=1)
            contrasted = number > 0
            new = exponents.logsumexp(dim=1)
            before, seen = self.log_sum[rows].to(new), self.seen[rows]
            kept = before + (math.log1p(-gamma) if gamma < 1 else -math.inf)
            log_sum = torch.where(seen, torch.logaddexp(kept, new + math.log(gamma)), new)
            weights = (exponents - log_sum[:, None]).exp().masked_fill(~negatives, 0.0)
            log_mean = torch.where(contrasted, log_sum - number.to(new).clamp_min(1).log(), 0.0)
            if self.training:
                share = shares(rows, contrasted, new.dtype)
                updated = share.any(dim=1)
                pooled = (log_sum + share.log()).logsumexp(dim=1)
                self.log_sum[rows] = torch.where(updated, pooled, before).to(self.log_sum)
                self.seen[rows] = seen | updated
        return Contrast(differences, exponents.masked_fill(~negatives, 0.0), weights, log_mean, contrasted)


class ObjectiveWithMemory(Objective):
    """Base of the objectives that remember, for every medium and every text, how hard its negatives are.

    num_media, num_samples: rows of state, by media_index for media and by index for texts. gamma: weight of the new in
    the moving average, in (0, 1], a number or a schedule of progress.
    """

    def __init__(self, num_media: int, num_samples: int, gamma: float | Schedule) -> None:
        super().__init__()
        for name, number in (("num_media", num_media), ("num_samples", num_samples)):
            if number < 1:
                raise InputError(f"{name} is {number}; it must be 1 or more")
        self.gamma = as_schedule(gamma)
        if not 0 < self.gamma.minimum <= self.gamma.maximum <= 1:
            raise InputError(f"gamma is {gamma}; it must lie in (0, 1] throughout")
        self.num_media, self.num_samples = num_media, num_samples
        self.media_sum, self.text_sum = MovingSum(num_media), MovingSum(num_samples)

    def rows(self, index: Tensor, media_index: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the state of the batch's media and texts lies, both (B,) int64; InputError names the row."""
        if media_index is None:
            if self.num_media != self.num_samples:
                raise InputError(
                    f"media_index is missing: {self.num_samples} samples share {self.num_media} media, so their state "
                    "goes by it"
                )
            media_index = index
        device = self.text_sum.log_sum.device
        for name, each in (("media_index", media_index), ("index", index)):
            if len(each) != len(x):
                raise InputError(f"{name} has {len(each)} rows and x has {len(x)}; they must be as many")
        return (
            check_index(media_index, self.num_media, "media_index").to(device, torch.int64),
            check_index(index, self.num_samples).to(device, torch.int64),
        )

    def contrast(
        self,
        x: Tensor,
        y: Tensor,
        temperatures: tuple[Tensor, Tensor],
        progress: float,
        rows: tuple[Tensor, Tensor],
        positives: Tensor | None,
    ) -> tuple[Contrast, Contrast]:
        """Contrast media with texts and texts with media, each at its own temperatures, () or (B,), and remember."""
        tau_media, tau_text = (_per_sample(each, x, y) for each in temperatures)
        negatives = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
        others = other_positives(positives, x)
        if others is not None:
            negatives = negatives & ~others
        gamma = self.gamma(progress)
        similarity = cosine_similarity(x, y)
        with torch.autocast(x.device.type, enabled=False):
            media = self.media_sum(similarity, tau_media, negatives, rows[0], gamma)
            text = self.text_sum(similarity.T, tau_text, negatives.T, rows[1], gamma)
        return media, text


def _per_sample(temperature: Tensor, x: Tensor, y: Tensor) -> Tensor:
    if temperature.ndim == 2:
        raise InputError(
            f"temperature is {tuple(temperature.shape)}, one value a pair; objectives with memory need one a sample"
        )
    return checked_value("temperature", temperature.detach(), x, y)


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a number as the schedule that stays there; a schedule as it is."""
    return Constant(float(value)) if isinstance(value, int | float) else value


def shares(rows: Tensor, counted: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the matrix (B, B) that averages values over the counted entries of the same row of state.

    >>> shares(torch.tensor([7, 3, 7]), torch.tensor([True, False, True]), torch.float32)
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 0.0000, 0.0000],
            [0.5000, 0.0000, 0.5000]])
    """
    same = ((rows[:, None] == rows) & counted).to(dtype)
    return same / same.sum(dim=1, keepdim=True).clamp_min(1)


def pull_weights(media: Contrast, text: Contrast) -> Tensor:
    """Return the pull of the loss on each sample's own pair over the batch's mean, shape (B,) (docs/method.md, 5.5)."""
    return relative(media.weights.sum(dim=1) + text.weights.sum(dim=1))
