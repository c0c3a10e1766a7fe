"""Symmetric multi-similarity (SMS): pairs ordered by graded relevance, each gap in relevance asking for a gap in s."""

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.checks import checked_relevance, checked_value
from mmts.losses.rows import Stripes, checked_rows, cosine_stripes, own_of, own_pairs, query_values, stripes


def sms(
    x: Tensor,
    y: Tensor,
    relevance: Tensor,
    margin: Tensor | float = 0.6,
    *,
    slack: float = 0.1,
    eps: float = 1.1 / 240,
    rows: slice | None = None,
) -> Tensor:
    """Return the symmetric multi-similarity loss of paired embeddings (docs/method.md, 4.14).

    With D = r_ii - r_ij and z = m_i D - (s_ii - s_ij), the mean over the pairs i != j of both directions of
    relu(z) where D > eps, relu(|z| - slack) where |D| <= eps, relu(-z) where D < -eps

    Shapes: x (media) and y (text) (B, D) of any norm, normalised inside; result (). bfloat16 and half are computed in
    float32, float64 stays; autocast is off inside. The margin may require grad.

    relevance: (B, B) floating point in [0, 1], of medium i to text j (transposed for the other direction). Its diagonal
        counts: an own pair need not be fully relevant.
    margin: () or (B,) or (B, B), finite and not negative: the gap in similarity that a gap in relevance of 1 asks for;
        (B,) is the query's own in both directions; (B, B): m_ij belongs to the pair x_i, y_j.
    slack: how far two candidates of equal relevance may lie apart at no cost.
    eps: gaps in relevance up to here count as none.
    rows: return these queries' share of the loss alone, as in max_margin.

    A batch of one has loss 0 and gradient 0. InputError for wrong shapes or dtypes, a NaN or infinity, a relevance
    outside [0, 1] (with argument and row), or a negative slack or eps.
    Source: Wang et al., arXiv 2406.12256, with the public code's settings (github.com/xqwang14/SMS-Loss), which keeps
    relevance in steps of 1/240 and hence takes a difference of one step for none.

    >>> x = torch.eye(2)
    >>> sms(x, x, torch.eye(2)).item()  # a gap of .6 is asked for, and 1 found
    0.0
    >>> round(sms(x, x, torch.ones(2, 2)).item(), 4)  # equally relevant, and yet 1 apart
    0.9
    """
    return _loss(_costs(x, y, relevance, margin, slack, eps, rows))


def sms_and_activity(
    x: Tensor,
    y: Tensor,
    relevance: Tensor,
    margin: Tensor | float = 0.6,
    *,
    slack: float = 0.1,
    eps: float = 1.1 / 240,
    rows: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return sms, and how many comparisons with each query's own pair cost something, (b,) (docs/method.md, 5.9).

    Both directions are counted. Each such comparison moves s_ii at the same rate, up or down. Arguments, dtypes and
    errors as in sms.

    >>> x = torch.eye(3)
    >>> loss, activity = sms_and_activity(x, x, torch.eye(3).index_fill(0, torch.tensor([0, 1]), 1.0))
    >>> activity
    tensor([3., 3., 2.])
    """
    costs = _costs(x, y, relevance, margin, slack, eps, rows)
    above = [(cost.detach() > 0).to(cost).sum(dim=1) for cost in costs]
    return _loss(costs), above[0] + above[1]


def _loss(costs: Stripes) -> Tensor:
    B = costs[0].shape[1]
    return (costs[0].sum() + costs[1].sum()) / (2 * max(B * (B - 1), 1))


def _costs(
    x: Tensor,
    y: Tensor,
    relevance: Tensor,
    margin: Tensor | float,
    slack: float,
    eps: float,
    rows: slice | None,
) -> Stripes:
    """Return what each comparison costs, (b, B), x to y and y to x; 0 for own pairs."""
    check_widths(slack, eps)
    rows = checked_rows(rows, len(x))
    with torch.autocast(x.device.type, enabled=False):
        margin = checked_value("margin", margin, x, y, zero_allowed=True, rows=rows)
        relevances = stripes(checked_relevance(relevance, x, y, rows), rows)
        costs = []
        for s, r, m in zip(cosine_stripes(x, y, rows), relevances, query_values(margin, rows), strict=True):
            gap = own_of(r, rows)[:, None] - r
            z = m * gap - (own_of(s, rows)[:, None] - s)
            cost = torch.where(gap > eps, z.relu(), torch.where(gap < -eps, (-z).relu(), (z.abs() - slack).relu()))
            # With no slack an own pair costs nothing by itself, but |z| has no gradient there that one could trust.
            costs.append(cost.masked_fill(own_pairs(s, rows), 0.0))
        return costs[0], costs[1]


def check_widths(slack: float, eps: float) -> None:
    """Raise InputError, naming which, unless slack and eps are finite and not negative."""
    for name, number in (("slack", slack), ("eps", eps)):
        if not 0.0 <= number < float("inf"):
            raise InputError(f"{name} is {number}; it must be finite and not negative")
