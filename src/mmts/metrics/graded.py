"""Measures of graded relevance: average precision (also on bool) and normalized discounted cumulative gain."""

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.metrics.rows import falling, in_ranked_order, per_query, require_some


def average_precision(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return each query's average precision (docs/method.md, 6.5).

    AP = mean, over the positions r whose item has relevance exactly 1, of (sum of relevance at positions 1..r) / r

    Shapes: similarity (Q, C) floating point; relevance (Q, C) bool, or real and not negative; result (Q,) float64. On
    bool this is the ordinary AP. On graded relevance it is the number that the EPIC-KITCHENS-100 multi-instance
    retrieval challenge publishes, whose sum runs over graded values too; for the strictly binary one pass
    `relevance == 1`. Equal scores are taken in the order that gives the lowest number. Raises InputError, naming the
    row, for a NaN score, a negative, NaN or infinite relevance, or a query without any item of relevance 1.
    Source: calculate_mAP in github.com/mwray/Joint-Part-of-Speech-Embeddings; Damen et al., arXiv 2006.13256.

    >>> similarity = torch.tensor([[0.9, 0.8, 0.7]])
    >>> average_precision(similarity, torch.tensor([[False, True, True]]))  # (1/2 + 2/3) / 2
    tensor([0.5833], dtype=torch.float64)
    >>> average_precision(similarity, torch.tensor([[0.5, 1.0, 0.0]]))  # 1.5 / 2
    tensor([0.7500], dtype=torch.float64)
    """
    return _scored(similarity, relevance, "item of relevance 1", _precision)


def mean_average_precision(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return the mean of `average_precision` over the queries, shape () float64 (docs/method.md, 6.6).

    >>> similarity = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    >>> mean_average_precision(similarity, torch.tensor([[True, False], [False, True]])).item()
    0.75
    """
    return average_precision(similarity, relevance).mean()


def ndcg_per_query(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return each query's nDCG (docs/method.md, 6.7).

    (sum over r <= k_q of rel_r / log2(r + 1)) / (the same sum in ideal order),   k_q = number of items of relevance > 0

    Shapes and errors as in `average_precision`, but a query needs only an item of relevance above 0. Among equal scores
    the less relevant comes first.
    Source: Järvelin and Kekäläinen, TOIS 2002; k_q as in calculate_nDCG of the EPIC-KITCHENS-100 retrieval challenge,
    Damen et al., arXiv 2006.13256.

    >>> ndcg_per_query(torch.tensor([[0.9, 0.8]]), torch.tensor([[0.0, 1.0]]))  # k_q = 1, and position 1 holds 0
    tensor([0.], dtype=torch.float64)
    """
    return _scored(similarity, relevance, "relevant item", lambda grades, _: _gain(grades))


def ndcg(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return the mean of `ndcg_per_query` over the queries, shape () float64 (docs/method.md, 6.8).

    >>> ndcg(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[1.0, 0.5, 0.0]])).item()
    1.0
    """
    return ndcg_per_query(similarity, relevance).mean()


class GradedScores(NamedTuple):
    """Each query's figures, (Q,) float64; `binary_average_precision` counts relevance 1 alone."""

    average_precision: Tensor
    binary_average_precision: Tensor
    ndcg: Tensor


def graded_scores(similarity: Tensor, relevance: Tensor) -> GradedScores:
    """Return what `average_precision` and `ndcg_per_query` return, at half the cost (docs/method.md, 6.10).

    Shapes and errors as in `average_precision`. The other direction is graded_scores(similarity.T, relevance.T):
    transposed views are not copied whole.

    >>> scores = graded_scores(torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[0.5, 1.0, 0.0]]))
    >>> [round(score.item(), 4) for score in scores]
    [0.75, 0.5, 0.8597]
    """

    def score(grades: Tensor, is_tied: Tensor) -> Tensor:
        return torch.stack([_precision(grades, is_tied), _precision(grades == 1, is_tied), _gain(grades)], dim=1)

    return GradedScores(*_scored(similarity, relevance, "item of relevance 1", score).unbind(dim=1))


def _scored(similarity: Tensor, relevance: Tensor, needed: str, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return `score` of all rows in ranked order; every query needs a "relevant item" or an "item of relevance 1"."""

    def scored(start: int, scores: Tensor, grades: Tensor) -> Tensor:
        require_some(grades > 0 if needed == "relevant item" else grades == 1, start, "relevance", needed)
        return score(*in_ranked_order(scores, grades))

    return per_query(similarity, relevance, "relevance", scored)


def _precision(grades: Tensor, is_tied: Tensor) -> Tensor:
    """Return the average precision (rows,) of rows in ranked order."""
    hit = grades == 1
    position = torch.arange(1, grades.shape[1] + 1, device=grades.device)
    gained = grades.cumsum(dim=1, dtype=torch.float64)
    precision = gained / position * hit
    total = precision.sum(dim=1)
    # The less relevant first is the worst order of a tie, with one exception: an item of relevance between 0 and 1 (or
    # above 1) before one of relevance 1 may raise the precision of the latter.
    is_mixed = is_tied & (hit[:, 1:] != hit[:, :-1]) & (grades[:, :-1] > 0)
    for row in is_mixed.any(dim=1).nonzero().flatten().tolist():
        edges = [0, *((~is_tied[row]).nonzero().flatten() + 1).tolist(), grades.shape[1]]
        for tie in {bisect_right(edges, at) for at in is_mixed[row].nonzero().flatten().tolist()}:
            start, end = edges[tie - 1], edges[tie]
            before = float(gained[row, start - 1]) if start else 0.0
            lowest = _lowest_sum(grades[row, start:end].double().cpu().numpy(), start, before)
            total[row] += lowest - float(precision[row, start:end].sum())
    return total / hit.sum(dim=1)


def _lowest_sum(tie: npt.NDArray[np.float64], position: int, before: float) -> float:
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


def _gain(ordered: Tensor) -> Tensor:
    """Return the nDCG (rows,) of relevance (rows, C) in ranked order."""
    position = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
    discount = (position + 1).double().log2()
    within = position <= (ordered > 0).sum(dim=1, keepdim=True)
    gain = ordered * within / discount
    ideal = falling(ordered) / discount  # beyond k_q all are zero
    return gain.sum(dim=1) / ideal.sum(dim=1)
