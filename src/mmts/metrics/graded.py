"""All metrics of graded relevance at once: one sort serves them all."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmts.metrics.average_precision import precision_in_order
from mmts.metrics.ndcg import gain_in_order
from mmts.metrics.rows import in_ranked_order, per_query, require_some


class GradedScores(NamedTuple):
    """Each query's figures, (Q,) float64; their means are what is reported.

    `average_precision` is the EPIC-KITCHENS-100 challenge's, whose sum runs over graded values;
    `binary_average_precision` counts relevance 1 alone.
    """

    average_precision: Tensor
    binary_average_precision: Tensor
    ndcg: Tensor


def graded_scores(similarity: Tensor, relevance: Tensor) -> GradedScores:
    """Return what `average_precision` and `ndcg_per_query` return, at half the cost (docs/method.md, 6.10).

    Shapes: similarity (Q, C) floating point; relevance (Q, C) real and not negative. The other direction is
    graded_scores(similarity.T, relevance.T): transposed views are not copied whole. Ties count against the
    model. InputError for a NaN score, a negative, NaN or infinite relevance, or a query without any item
    of relevance 1, naming the row.

    >>> scores = graded_scores(torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[0.5, 1.0, 0.0]]))
    >>> scores.average_precision.item(), scores.binary_average_precision.item()
    (0.75, 0.5)
    >>> round(scores.ndcg.item(), 4)
    0.8597
    """

    def of_rows(start: int, scores: Tensor, grades: Tensor) -> Tensor:
        require_some(grades == 1, start, "relevance", "item of relevance 1")
        ranked = in_ranked_order(scores, grades)
        binary = ranked._replace(relevance=ranked.relevance == 1)
        return torch.stack(
            [precision_in_order(ranked), precision_in_order(binary), gain_in_order(ranked.relevance)], dim=1
        )

    return GradedScores(*per_query(similarity, relevance, "relevance", of_rows).unbind(dim=1))
