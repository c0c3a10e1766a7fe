"""SMS: differences in similarity follow differences in relevance."""

from typing import Annotated

from torch import Tensor

from mmts.losses import sms
from mmts.losses.sms import check_widths
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.objectives.max_margin import MARGIN
from mmts.options import NotNegative, RecipeDefault
from mmts.policies import Policy

SCALE = RecipeDefault({"rule": "fixed", "value": 0.6}, {**MARGIN.options, "fixed": {"value": 0.6}})
"""The published scale of the relevance gap."""


class SMS(Objective):
    """SMS: the gap in relevance times a margin is the gap in similarity (docs/method.md, 4.14; arXiv 2406.12256).

    margin: the policy: the gap in similarity that a gap in relevance of 1 asks for, published as Fixed(0.6).
    slack: how far pairs of equal relevance may lie apart.
    eps: gap below which relevance counts as equal.

    `positives` are not used. Logs "margin", the policy's values, and "weight" (B,): how many comparisons with the
    positive pair have a cost, over the batch's mean (5.9).

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> objective, x, index = SMS(Fixed(0.6)), torch.eye(2), torch.tensor([0, 1])
    >>> output = objective(x, x, progress=0.0, index=index, relevance=torch.ones(2, 2))
    >>> round(output.loss.item(), 4), output.log["margin"].item()
    (0.9, 0.6)
    """

    value_name = "margin"
    uses_relevance = True
    splits_queries = True

    def __init__(
        self, margin: Annotated[Policy, SCALE], *, slack: NotNegative = 0.1, eps: NotNegative = 1.1 / 240
    ) -> None:
        super().__init__()
        check_widths(slack, eps)
        self.margin, self.slack, self.eps = margin, slack, eps

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return sms at the policy's margins."""
        assert pairs.relevance is not None  # since uses_relevance is True
        margin = policy_values(self.margin, x, y, pairs)
        loss, active = sms.with_pull(
            x, y, pairs.relevance, margin, slack=self.slack, eps=self.eps, queries=pairs.queries
        )
        return ObjectiveOutput(loss, {"margin": margin, "weight": active})
