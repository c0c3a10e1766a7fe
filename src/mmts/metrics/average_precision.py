"""Average precision: the ordinary one, and on graded relevance the one of the EPIC-KITCHENS-100 challenge."""

from bisect import bisect_right

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.metrics.rows import Ranked, in_ranked_order, per_query, require_some

Values = npt.NDArray[np.float64]


def average_precision(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return each query's average precision (docs/method.md, 6.5).

    AP = mean, over the positions r whose item has relevance exactly 1, of (sum of relevance at positions 1..r) / r

    Shapes: similarity (Q, C) floating point; relevance (Q, C) bool, or real and not negative; result (Q,) float64. On
    bool this is the ordinary AP. On graded relevance it is the number that the EPIC-KITCHENS-100 multi-instance
    retrieval challenge publishes, whose sum runs over graded values too; for the strictly binary one pass
    `relevance == 1`. Equal scores are taken in the order that gives the lowest number. InputError for a NaN score, a
    negative, NaN or infinite relevance, or a query without any item of relevance 1, naming the row.
    Source: calculate_mAP in github.com/mwray/Joint-Part-of-Speech-Embeddings; Damen et al., arXiv 2006.13256.

    >>> similarity = torch.tensor([[0.9, 0.8, 0.7]])
    >>> average_precision(similarity, torch.tensor([[False, True, True]]))  # (1/2 + 2/3) / 2
    tensor([0.5833], dtype=torch.float64)
    >>> average_precision(similarity, torch.tensor([[0.5, 1.0, 0.0]]))  # 1.5 / 2
    tensor([0.7500], dtype=torch.float64)
    >>> average_precision(torch.tensor([[9.0, 8.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.5, 1.0]]))  # 1/3, not 1.5/4
    tensor([0.3333], dtype=torch.float64)
    """

    def of_rows(start: int, scores: Tensor, grades: Tensor) -> Tensor:
        require_some(grades == 1, start, "relevance", "item of relevance 1")
        return precision_in_order(in_ranked_order(scores, grades))

    return per_query(similarity, relevance, "relevance", of_rows)


def precision_in_order(ranked: Ranked) -> Tensor:
    """Return the average precision (rows,) float64 of rows in ranked order (docs/method.md, 6.5).

    >>> precision_in_order(Ranked(torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([[False, False]])))
    tensor([0.7500], dtype=torch.float64)
    """
    grades, is_tied = ranked
    hit = grades == 1
    position = torch.arange(1, grades.shape[1] + 1, device=grades.device)
    gained = grades.cumsum(dim=1, dtype=torch.float64)
    precision = gained / position * hit
    total = precision.sum(dim=1)
    # The less relevant first is the worst order of a tie but for one thing: an item of relevance between 0 and 1 (or
    # above 1) that stands before one of relevance 1 may raise its precision.
    is_mixed = is_tied & (hit[:, 1:] != hit[:, :-1]) & (grades[:, :-1] > 0)
    for row in is_mixed.any(dim=1).nonzero().flatten().tolist():
        edges = [0, *((~is_tied[row]).nonzero().flatten() + 1).tolist(), grades.shape[1]]
        for tie in {bisect_right(edges, at) for at in is_mixed[row].nonzero().flatten().tolist()}:
            start, end = edges[tie - 1], edges[tie]
            before = float(gained[row, start - 1]) if start else 0.0
            lowest = _lowest_sum(grades[row, start:end].double().cpu().numpy(), start, before)
            total[row] += lowest - float(precision[row, start:end].sum())
    return total / hit.sum(dim=1)


def _lowest_sum(tie: Values, position: int, before: float) -> float:
    """Return the lowest sum of precisions at relevance 1 that an order of tied items gives.

    `before` is the relevance gained in the `position` items ahead of them. Items of another relevance than 1 come
    smaller first, so an order is how many of these n, 0 to n, stand before the first, second, ... item of relevance 1:
    never fewer before a later one.
    """
    others = np.sort(tie[tie != 1])
    number = np.arange(len(others) + 1)
    gained = np.concatenate([[0.0], np.cumsum(others)])
    lowest = np.zeros(len(number))  # by how many stand before the last item of relevance 1 so far
    for hits in range(1, len(tie) - len(others) + 1):
        precision = (before + gained + hits) / (position + number + hits)
        lowest = np.minimum.accumulate(lowest) + precision
    return float(lowest.min())


def mean_average_precision(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return the mean over the queries of `average_precision`, shape () float64 (docs/method.md, 6.6).

    Arguments and errors as there.

    >>> similarity = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    >>> mean_average_precision(similarity, torch.tensor([[True, False], [False, True]])).item()
    0.75
    """
    return average_precision(similarity, relevance).mean()
