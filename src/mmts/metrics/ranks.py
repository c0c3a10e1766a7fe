"""Ranks of the best relevant item, recall at k, the median and the mean rank."""

import operator

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.metrics.rows import per_query, require_some


def ranks(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Return each query's rank: 1 + the number of irrelevant items scoring at least the best relevant one.

    docs/method.md, 6.2. Shapes: similarity (Q, C) floating point, relevant (Q, C) bool; result (Q,) int64 from 1. A tie
    with an irrelevant item counts against the model; other relevant items do not. Raises InputError, naming the row,
    for a NaN score or a query with nothing relevant.

    >>> similarity = torch.tensor([[0.9, 0.5, 0.1], [0.3, 0.3, 0.2]])
    >>> ranks(similarity, torch.tensor([[False, True, False], [True, False, False]]))
    tensor([2, 2])
    """
    if isinstance(relevant, Tensor) and relevant.dtype != torch.bool:
        raise InputError(f"relevant is {relevant.dtype}; it must be bool (say which grade counts: relevance == 1)")

    def score(start: int, scores: Tensor, relevant: Tensor) -> Tensor:
        require_some(relevant, start, "relevant", "relevant item")
        best = scores.masked_fill(~relevant, float("-inf")).amax(dim=1, keepdim=True)
        return 1 + ((scores >= best) & ~relevant).sum(dim=1)

    return per_query(similarity, relevant, "relevant", score)


def hits(ranks: Tensor, k: int) -> Tensor:
    """Return 1 for ranks (Q,) up to k and 0 for others, (Q,) float64: their mean is the recall at k."""
    return (ranks <= k).double()


def recall_at_k(similarity: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Return the share of queries whose rank is at most k, in [0, 1], shape () float64 (docs/method.md, 6.3).

    Arguments and errors as in `ranks`; k is a whole number, 1 or more.

    >>> recall_at_k(torch.tensor([[0.9, 0.5], [0.3, 0.4]]), torch.eye(2, dtype=torch.bool), k=1).item()
    1.0
    """
    if isinstance(k, bool) or not hasattr(k, "__index__") or operator.index(k) < 1:
        raise InputError(f"k is {k!r}; it must be a whole number, 1 or more")
    return hits(ranks(similarity, relevant), k).mean()


def median_rank(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Return the median of the queries' ranks, shape () float64 (docs/method.md, 6.4); arguments as in `ranks`.

    >>> median_rank(torch.tensor([[0.9, 0.5], [0.6, 0.4]]), torch.eye(2, dtype=torch.bool)).item()
    1.5
    """
    return ranks(similarity, relevant).double().quantile(0.5)


def mean_rank(similarity: Tensor, relevant: Tensor) -> Tensor:
    """Return the mean of the queries' ranks, shape () float64 (docs/method.md, 6.11); arguments as in `ranks`.

    >>> mean_rank(torch.tensor([[0.9, 0.5], [0.6, 0.4]]), torch.eye(2, dtype=torch.bool)).item()
    1.5
    """
    return ranks(similarity, relevant).double().mean()
