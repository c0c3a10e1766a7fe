"""Max-margin and SMS with the margins of a policy."""

from typing import Annotated, Any

from torch import Tensor

from mmts.losses import max_margin, sms
from mmts.losses.max_margin import Negatives
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.options import NotNegative, RecipeDefault, checked
from mmts.policies import Policy

MARGIN = RecipeDefault(
    {"rule": "fixed", "value": 0.2}, {"fixed": {"value": 0.2}, "shifted": {"alpha": 0.2, "low": 0.17, "high": 0.30}}
)
"""The published margins."""
SCALE = RecipeDefault({"rule": "fixed", "value": 0.6}, {**MARGIN.options, "fixed": {"value": 0.6}})
"""The published scale of the relevance gap."""


class MaxMargin(Objective):
    """Max-margin with the margins of a policy (docs/method.md, 4.8 to 4.10 and 4.13; arXiv 1412.2306).

    margin: the policy.
    negatives: all of them, or the hardest of each row.
    squared: square each hinge.
    relevance_scaled: multiply the margin of a pair by 1 - its relevance (4.13), which every batch then needs.

    Logs "margin", the policy's values, and "weight" (B,), the pull on each positive pair over the batch's mean (5.9).
    """

    value_name = "margin"
    splits_queries = True

    @checked
    def __init__(
        self,
        margin: Annotated[Policy, MARGIN],
        *,
        negatives: Negatives = "all",
        squared: bool = False,
        relevance_scaled: bool = False,
    ) -> None:
        super().__init__()
        self.margin, self.uses_relevance = margin, relevance_scaled
        self.options: dict[str, Any] = {"negatives": negatives, "squared": squared}

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return max_margin at the policy's margins."""
        margin = policy_values(self.margin, x, y, pairs)
        options = self.options | {"relevance": pairs.relevance if self.uses_relevance else None}
        loss, pull = max_margin.with_pull(x, y, margin, positives=pairs.positives, queries=pairs.queries, **options)
        return ObjectiveOutput(loss, {"margin": margin, "weight": pull})


class SMS(Objective):
    """SMS: the gap in relevance times a margin is the gap in similarity (docs/method.md, 4.14; arXiv 2406.12256).

    margin: the policy: the gap in similarity that a gap in relevance of 1 asks for, published as Fixed(0.6).
    slack: how far pairs of equal relevance may lie apart.
    eps: gap below which relevance counts as equal.

    `positives` are not used. Logs "margin", the policy's values, and "weight" (B,): how many comparisons with the
    positive pair have a cost, over the batch's mean (5.9).
    """

    value_name = "margin"
    uses_relevance = True
    splits_queries = True

    @checked
    def __init__(
        self, margin: Annotated[Policy, SCALE], *, slack: NotNegative = 0.1, eps: NotNegative = 1.1 / 240
    ) -> None:
        super().__init__()
        self.margin, self.slack, self.eps = margin, slack, eps

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return sms at the policy's margins."""
        assert pairs.relevance is not None  # since uses_relevance is True
        margin = policy_values(self.margin, x, y, pairs)
        loss, active = sms.with_pull(
            x, y, pairs.relevance, margin, slack=self.slack, eps=self.eps, queries=pairs.queries
        )
        return ObjectiveOutput(loss, {"margin": margin, "weight": active})
