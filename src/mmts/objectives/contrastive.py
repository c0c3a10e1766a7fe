"""A loss of the batch alone and a policy, joined: InfoNCE and max-margin.

>>> import torch
>>> from mmts.policies import Fixed
>>> objective = InfoNCE(Fixed(0.07))
>>> output = objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
>>> sorted(output.log)
['temperature', 'weight']
"""

from typing import Annotated

from torch import Tensor

from mmts.errors import InputError
from mmts.losses.info_nce import ANCHORS, Anchor, info_nce_and_pull
from mmts.losses.max_margin import NEGATIVES, Negatives, max_margin_and_pull
from mmts.objectives.base import (
    Objective,
    ObjectiveOutput,
    Share,
    needed_relevance,
    policy_values,
    shown,
    whole,
)
from mmts.options import RecipeDefault, ZeroToOne
from mmts.policies import Policy

MARGIN = RecipeDefault(
    {"rule": "fixed", "value": 0.2},
    {"fixed": {"value": 0.2}, "shifted": {"alpha": 0.2, "low": 0.17, "high": 0.30}},
)
"""The published margins."""


class InfoNCE(Objective):
    """InfoNCE with the temperatures of a policy (docs/method.md, 4.3 to 4.7, 4.11, 4.12 and 5.1; arXiv 1807.03748).

    temperature: the policy.
    anchor: whose temperature divides a logit: the query's (`row`), the candidate's, or in both directions the medium's.
    label_smoothing: share of the target that is spread over all candidates.
    scale_by_temperature: multiply each row by its temperature, which undoes its weight on the gradient.
    decoupled: leave the positive out of the denominator.
    multi_positive: other positives are targets instead of being left out.

    Logs "temperature", the policy's values as they came,
    and "weight" (B,): how strongly the loss pulls on each sample's own pair relative to the batch's mean (5.1).

    >>> import torch
    >>> from mmts.policies import Shifted
    >>> from mmts.schedules import Constant
    >>> objective = InfoNCE(Shifted(Constant(0.0), torch.tensor([0.05, 0.15])))
    >>> x, y = torch.eye(4).chunk(2)  # all cosines are 0, so that 1/tau_i alone decides
    >>> objective(x, y, progress=0.0, index=torch.tensor([0, 1])).log["weight"]
    tensor([1.5000, 0.5000])
    """

    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        anchor: Anchor = "row",
        label_smoothing: ZeroToOne = 0.0,
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
        loss, pull = info_nce_and_pull(
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
        share.log_relative(log, pull)
        return ObjectiveOutput(loss, log)


class MaxMargin(Objective):
    """Max-margin with the margins of a policy (docs/method.md, 4.8 to 4.10 and 4.13; arXiv 1412.2306).

    margin: the policy.
    negatives: all of them, or the hardest of each row.
    squared: square each hinge.
    relevance_scaled: multiply the margin of a pair by 1 - its relevance (4.13); a batch without graded relevance is
        then an InputError.

    Logs "margin", the policy's
    values as they came, and "weight" (B,): how strongly the loss pulls on each sample's own pair relative to the
    batch's mean (5.9), all ones where no hinge is above zero.

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> output = MaxMargin(Fixed(0.2))(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.loss.item(), output.log["margin"].item()
    (0.0, 0.2)
    """

    value_name = "margin"

    def __init__(
        self,
        margin: Annotated[Policy, MARGIN],
        *,
        negatives: Negatives = "all",
        squared: bool = False,
        relevance_scaled: bool = False,
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
