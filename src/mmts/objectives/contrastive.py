"""A loss of the batch alone and a policy, joined: InfoNCE and max-margin.

>>> from mmts.policies import Fixed
>>> objective = InfoNCE(Fixed(0.07))
>>> output = objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
>>> sorted(output.log)
['temperature', 'weight']
"""

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.info_nce import ANCHORS, Anchor, info_nce
from mmts.losses.max_margin import NEGATIVES, Negatives, max_margin_and_pull
from mmts.objectives.base import (
    Objective,
    ObjectiveOutput,
    Share,
    needed_relevance,
    own_values,
    policy_values,
    shown,
    whole,
)
from mmts.policies import Policy


class InfoNCE(Objective):
    """info_nce with the temperatures of a policy (docs/method.md, 4.3 to 4.7, 4.11, 4.12 and 5.1).

    `temperature` is a policy; the other options are info_nce's. Logs "temperature", the policy's values as they came,
    and "weight" (B,): how strongly the loss pulls on each sample's own pair relative to the batch's mean, from
    `sample_weights`.

    >>> from mmts.policies import Shifted
    >>> from mmts.schedules import Constant
    >>> objective = InfoNCE(Shifted(Constant(0.0), torch.tensor([0.05, 0.15])))
    >>> objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1])).log["weight"]
    tensor([1.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(
        self,
        temperature: Policy,
        *,
        anchor: Anchor = "row",
        label_smoothing: float = 0.0,
        scale_by_temperature: bool = False,
        decoupled: bool = False,
        multi_positive: bool = False,
    ) -> None:
        super().__init__()
        if anchor not in ANCHORS:
            raise InputError(f"anchor is {anchor!r}; it must be one of {', '.join(ANCHORS)}")
        if not 0.0 <= label_smoothing <= 1.0:
            raise InputError(f"label_smoothing is {label_smoothing}; it must lie in [0, 1]")
        self.temperature = temperature
        self.anchor = anchor
        self.label_smoothing = label_smoothing
        self.scale_by_temperature = scale_by_temperature
        self.decoupled = decoupled
        self.multi_positive = multi_positive

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        progress: float,
        index: Tensor,
        media_index: Tensor | None = None,
        positives: Tensor | None = None,
        relevance: Tensor | None = None,
        share: Share | None = None,
    ) -> ObjectiveOutput:
        """Return info_nce at the policy's temperatures; `relevance` is not looked at."""
        share = share or whole(len(x))
        temperature = policy_values(self.temperature, x, y, progress, index, share.rows)
        loss = info_nce(
            x,
            y,
            temperature,
            positives=positives,
            anchor=self.anchor,
            label_smoothing=self.label_smoothing,
            scale_by_temperature=self.scale_by_temperature,
            decoupled=self.decoupled,
            multi_positive=self.multi_positive,
            rows=share.rows,
        )
        log = {"temperature": shown(temperature)}
        log_sample_weights(share, log, temperature, len(x), self.scale_by_temperature)
        return ObjectiveOutput(loss, log)


class MaxMargin(Objective):
    """max_margin with the margins of a policy (docs/method.md, 4.8 to 4.10 and 4.13).

    `margin` is a policy; `negatives` and `squared` are max_margin's. With `relevance_scaled` the margin of a pair is
    multiplied by 1 - its relevance (4.13), and a batch without relevance is an InputError. Logs "margin", the policy's
    values as they came, and "weight" (B,): how strongly the loss pulls on each sample's own pair relative to the
    batch's mean (5.9), all ones where no hinge is above zero.

    >>> from mmts.policies import Fixed
    >>> output = MaxMargin(Fixed(0.2))(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.loss.item(), output.log["margin"].item()
    (0.0, 0.2)
    """

    def __init__(
        self, margin: Policy, *, negatives: Negatives = "all", squared: bool = False, relevance_scaled: bool = False
    ) -> None:
        super().__init__()
        if negatives not in NEGATIVES:
            raise InputError(f"negatives is {negatives!r}; it must be one of {', '.join(NEGATIVES)}")
        self.margin = margin
        self.negatives = negatives
        self.squared = squared
        self.uses_relevance = relevance_scaled

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        progress: float,
        index: Tensor,
        media_index: Tensor | None = None,
        positives: Tensor | None = None,
        relevance: Tensor | None = None,
        share: Share | None = None,
    ) -> ObjectiveOutput:
        """Return max_margin at the policy's margins; `relevance` is looked at only where it scales them."""
        relevance = needed_relevance("relevance_scaled", relevance) if self.uses_relevance else None
        share = share or whole(len(x))
        margin = policy_values(self.margin, x, y, progress, index, share.rows)
        loss, pull = max_margin_and_pull(
            x,
            y,
            margin,
            positives=positives,
            negatives=self.negatives,
            squared=self.squared,
            relevance=relevance,
            rows=share.rows,
        )
        log = {"margin": shown(margin)}
        share.log_relative(log, pull)
        return ObjectiveOutput(loss, log)


def log_sample_weights(
    share: Share, log: dict[str, Tensor], temperature: Tensor, batch_size: int, scale_by_temperature: bool = False
) -> None:
    """Log `sample_weights` as "weight"."""

    def update(own: Tensor) -> None:
        log["weight"] = sample_weights(own, batch_size, scale_by_temperature)

    own = own_values(temperature, share.rows)
    if own.ndim:
        share.then(update, own)
    else:
        update(own)


def sample_weights(temperature: Tensor, batch_size: int, scale_by_temperature: bool = False) -> Tensor:
    """Return each sample's effective gradient weight, mean 1, shape (B,) (docs/method.md, 5.1).

    1 / tau_i over its mean in the batch, tau_i the temperature of sample i's own pair (the diagonal of a (B, B) value);
    all ones when rows are scaled by their temperature.

    >>> sample_weights(torch.tensor([0.1, 0.3]), 2)
    tensor([1.5000, 0.5000])
    """
    if temperature.ndim == 0 or scale_by_temperature:
        return torch.ones(batch_size, dtype=temperature.dtype, device=temperature.device)
    own = temperature.diagonal() if temperature.ndim == 2 else temperature
    weight = 1.0 / own
    return weight / weight.mean()
