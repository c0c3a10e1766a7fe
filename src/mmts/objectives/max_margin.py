"""Max-margin with the margins of a policy."""

from typing import Annotated, Any

from torch import Tensor

from mmts.errors import check_one_of
from mmts.losses import max_margin
from mmts.losses.max_margin import NEGATIVES, Negatives
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.options import RecipeDefault
from mmts.policies import Policy

MARGIN = RecipeDefault(
    {"rule": "fixed", "value": 0.2}, {"fixed": {"value": 0.2}, "shifted": {"alpha": 0.2, "low": 0.17, "high": 0.30}}
)
"""The published margins."""


class MaxMargin(Objective):
    """Max-margin with the margins of a policy (docs/method.md, 4.8 to 4.10 and 4.13; arXiv 1412.2306).

    margin: the policy.
    negatives: all of them, or the hardest of each row.
    squared: square each hinge.
    relevance_scaled: multiply the margin of a pair by 1 - its relevance (4.13), which every batch then needs.

    Logs "margin", the policy's values, and "weight" (B,), the pull on each positive pair over the batch's mean (5.9).

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> output = MaxMargin(Fixed(0.2))(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.loss.item(), output.log["margin"].item()
    (0.0, 0.2)
    """

    value_name = "margin"
    splits_queries = True

    def __init__(
        self,
        margin: Annotated[Policy, MARGIN],
        *,
        negatives: Negatives = "all",
        squared: bool = False,
        relevance_scaled: bool = False,
    ) -> None:
        super().__init__()
        check_one_of("negatives", negatives, NEGATIVES)
        self.margin = margin
        self.options: dict[str, Any] = {"negatives": negatives, "squared": squared}
        self.uses_relevance = relevance_scaled

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return max_margin at the policy's margins."""
        margin = policy_values(self.margin, x, y, pairs)
        options = self.options | {"relevance": pairs.relevance if self.uses_relevance else None}
        loss, pull = max_margin.with_pull(x, y, margin, positives=pairs.positives, queries=pairs.queries, **options)
        return ObjectiveOutput(loss, {"margin": margin, "weight": pull})
