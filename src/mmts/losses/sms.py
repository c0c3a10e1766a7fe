"""Symmetric multi-similarity (SMS): a gap in relevance asks for a gap in similarity."""

import torch
from torch import Tensor

from mmts.losses.checks import checked_relevance, checked_value
from mmts.losses.queries import checked_queries, directions, query_rows, with_pull
from mmts.options import NotNegative


@with_pull
def sms(
    x: Tensor,
    y: Tensor,
    relevance: Tensor,
    margin: Tensor | float = 0.6,
    *,
    slack: NotNegative = 0.1,
    eps: NotNegative = 1.1 / 240,
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the symmetric multi-similarity loss of paired embeddings (docs/method.md, 4.14).

    With D = r_ii - r_ij and z = m_i D - (s_ii - s_ij), the mean over the pairs i != j of both directions of
    relu(z) where D > eps, relu(|z| - slack) where |D| <= eps, relu(-z) where D < -eps

    Shapes, dtypes, errors and `queries` are as in `info_nce`. `sms.with_pull` returns also how many comparisons with
    each query's positive pair have a cost, of both directions, (b,) (5.9).

    relevance: (B, B) floating point in [0, 1], of medium i to text j (transposed for the other direction). Its diagonal
        counts: a positive pair need not be fully relevant.
    margin: () or (B,), the query's own in both directions, or (B, B), of the pair x_i, y_j: the gap in similarity
        that a gap in relevance of 1 asks for; finite and not negative.
    slack: how far two candidates of equal relevance may lie apart without a cost.
    eps: gaps in relevance of at most this much count as equal relevance.

    A batch of one has loss 0 and gradient 0.
    Source: Wang et al., arXiv 2406.12256, with the settings of its code (github.com/xqwang14/SMS-Loss), which keeps
    relevance in steps of 1/240 and counts a difference of one step as equal.

    >>> x = torch.eye(2)
    >>> sms(x, x, torch.eye(2)).item()  # asks for a gap of .6, and has one of 1
    0.0
    >>> round(sms(x, x, torch.ones(2, 2)).item(), 4)  # equally relevant, but 1 apart
    0.9
    """
    queries = checked_queries(queries, len(x))
    margin = checked_value("margin", margin, x, y, zero_allowed=True, queries=queries)
    relevances = query_rows(checked_relevance(relevance, x, y, queries), queries)
    loss, active = margin.new_zeros(()), margin.new_zeros(())
    with torch.autocast(x.device.type, enabled=False):
        for d, r in zip(directions(x, y, margin, None, queries), relevances, strict=True):
            gap = d.of_pair(r)[:, None] - r
            z = d.value * gap - (d.of_pair(d.similarity)[:, None] - d.similarity)
            cost = torch.where(gap > eps, z.relu(), torch.where(gap < -eps, (-z).relu(), (z.abs() - slack).relu()))
            cost = cost.masked_fill(d.is_pair, 0.0)  # with slack 0, |z| has no usable gradient at the positive pair
            loss, active = loss + cost.sum(), active + (cost.detach() > 0).to(cost).sum(dim=1)
    return loss / (2 * max(len(x) * (len(x) - 1), 1)), active
