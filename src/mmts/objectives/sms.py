"""Symmetric multi-similarity with the margins of a policy, for data with graded relevance."""

from typing import Annotated

from torch import Tensor

from mmts.losses.sms import check_widths, sms_and_activity
from mmts.objectives.base import Objective, ObjectiveOutput, Share, needed_relevance, policy_values, shown, whole
from mmts.objectives.contrastive import MARGIN
from mmts.options import NotNegative, RecipeDefault
from mmts.policies import Policy

SCALE = RecipeDefault({"rule": "fixed", "value": 0.6}, {**MARGIN.options, "fixed": {"value": 0.6}})
"""The published scale of the relevance gap."""


class SMS(Objective):
    """SMS: the gap in relevance times a margin is the gap in similarity (docs/method.md, 4.14; arXiv 2406.12256).

    margin: the policy: the gap in similarity that a gap in relevance of 1 asks for, published as Fixed(0.6).
    slack: how far pairs of equal relevance may lie apart.
    eps: gap below which relevance counts as equal.

    Every batch needs `relevance`; without it InputError. `positives` are not looked at: relevance
    says it all. Logs "margin", the policy's values as they came, and "weight" (B,): how many comparisons with the
    sample's own pair cost something, over the batch's mean (5.9).
    Source: Wang et al., arXiv 2406.12256.

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> objective, x, index = SMS(Fixed(0.6)), torch.eye(2), torch.tensor([0, 1])
    >>> output = objective(x, x, progress=0.0, index=index, relevance=torch.ones(2, 2))
    >>> round(output.loss.item(), 4), output.log["margin"].item()
    (0.9, 0.6)
    >>> objective(x, x, progress=0.0, index=index)
    Traceback (most recent call last):
    mmts.errors.InputError: SMS needs relevance (B, B), how relevant each medium is to each text; data without graded
    relevance has none
    """

    value_name = "margin"
    uses_relevance = True

    def __init__(
        self, margin: Annotated[Policy, SCALE], *, slack: NotNegative = 0.1, eps: NotNegative = 1.1 / 240
    ) -> None:
        super().__init__()
        check_widths(slack, eps)
        self.margin = margin
        self.slack = slack
        self.eps = eps

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
        """Return sms at the policy's margins."""
        relevance = needed_relevance("SMS", relevance)
        share = share or whole(len(x))
        margin = policy_values(self.margin, x, y, progress, index, share.rows)
        loss, activity = sms_and_activity(x, y, relevance, margin, slack=self.slack, eps=self.eps, rows=share.rows)
        log = {"margin": shown(margin)}
        share.log_relative(log, activity)
        return ObjectiveOutput(loss, log)
