"""Normalised discounted cumulative gain over graded relevance."""

import torch
from torch import Tensor

from mmts.metrics.rows import falling, in_ranked_order, per_query, require_some


def ndcg_per_query(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return each query's nDCG (docs/method.md, 6.7).

    (sum over r <= k_q of rel_r / log2(r + 1)) / (the same sum in ideal order),   k_q = number of items of relevance > 0

    Shapes: similarity (Q, C) floating point; relevance (Q, C) bool, or real and not negative; result (Q,) float64.
    Among equal scores the less relevant comes first. InputError for a NaN score, a negative, NaN or infinite relevance,
    or a query with nothing relevant, naming the row.
    Source: Järvelin and Kekäläinen, TOIS 2002; k_q as in calculate_nDCG of the EPIC-KITCHENS-100 retrieval challenge,
    Damen et al., arXiv 2006.13256.

    >>> ndcg_per_query(torch.tensor([[0.9, 0.8]]), torch.tensor([[0.0, 1.0]]))  # k_q = 1, and position 1 holds 0
    tensor([0.], dtype=torch.float64)
    """

    def of_rows(start: int, scores: Tensor, grades: Tensor) -> Tensor:
        require_some(grades > 0, start, "relevance", "relevant item")
        return gain_in_order(in_ranked_order(scores, grades).relevance)

    return per_query(similarity, relevance, "relevance", of_rows)


def gain_in_order(ordered: Tensor) -> Tensor:
    """Return the nDCG (rows,) float64 of relevance (rows, C) in ranked order (docs/method.md, 6.7).

    >>> gain_in_order(torch.tensor([[0.0, 1.0], [1.0, 0.5]]))
    tensor([0., 1.], dtype=torch.float64)
    """
    position = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
    discount = (position + 1).double().log2()
    within = position <= (ordered > 0).sum(dim=1, keepdim=True)
    gain = ordered * within / discount
    ideal = falling(ordered) / discount  # nothing beyond k_q: those are zeros
    return gain.sum(dim=1) / ideal.sum(dim=1)


def ndcg(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return the mean over the queries of `ndcg_per_query`, shape () float64 (docs/method.md, 6.8).

    Arguments and errors as there.

    >>> ndcg(torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([[1.0, 0.5, 0.0]])).item()
    1.0
    """
    return ndcg_per_query(similarity, relevance).mean()
