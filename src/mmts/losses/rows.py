"""A share of a loss: the rows of some of a batch's queries, so that several processes can share a batch.

A query's row holds its similarities to all B candidates: of medium i to the texts, and of text i to the media. The rows
of b queries are two stripes (b, B), queries in rows: x to y, then y to x. From them a loss works out these queries'
share of it: over slices that together are the batch, shares add up to the loss (docs/method.md, 4.19).
"""

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.normalize import compute_dtype, unit

Stripes = tuple[Tensor, Tensor]
"""The rows of some queries, (b, B) each: x to y, y to x."""


def checked_rows(rows: slice | None, B: int) -> slice:
    """Return which queries count, all of a batch where `rows` is None; InputError unless some, one after the other.

    >>> checked_rows(None, 3), checked_rows(slice(1, None), 3)
    (slice(0, 3, None), slice(1, 3, None))
    """
    if rows is None or rows == slice(0, B):
        return slice(0, B)
    start, stop, step = rows.indices(B)
    if step != 1 or start >= stop or (rows.stop or 0) > B:
        raise InputError(
            f"rows is {rows}; for a batch of {B} it must be slice(start, stop) with 0 <= start < stop <= {B}"
        )
    return slice(start, stop)


def cosine_stripes(x: Tensor, y: Tensor, rows: slice) -> Stripes:
    """Return the cosines of the queries' rows, in float32 at least: one product where all of a batch are queries."""
    with torch.autocast(x.device.type, enabled=False):
        dtype = compute_dtype(x, y)
        unit_x, unit_y = unit(x.to(dtype)), unit(y.to(dtype))
        if rows == slice(0, len(x)):
            similarity = unit_x @ unit_y.T
            return similarity, similarity.T
        return unit_x[rows] @ unit_y.T, unit_y[rows] @ unit_x.T


def own_cosines(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosines of own pairs, (B,), in float32 at least.

    >>> own_cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor([1.])
    """
    with torch.autocast(x.device.type, enabled=False):
        dtype = compute_dtype(x, y)
        cosines: Tensor = torch.linalg.vecdot(unit(x.to(dtype)), unit(y.to(dtype)))
        return cosines


def stripes(pairs: Tensor, rows: slice) -> Stripes:
    """Return the queries' rows of what each pair x_i, y_j has: (B, B), or (2, b, B), which are stripes already.

    >>> xy, yx = stripes(torch.tensor([[1, 2], [3, 4]]), slice(1, 2))
    >>> xy, yx
    (tensor([[3, 4]]), tensor([[2, 4]]))
    """
    if pairs.ndim == 3:
        return pairs[0], pairs[1]
    return pairs[rows], pairs[:, rows].T


def positives_stripes(positives: Tensor | None, rows: slice) -> Stripes | tuple[None, None]:
    """Return the queries' rows of `positives`, (B, B) bool, coalesced where it is sparse, or None twice for None.

    >>> some = torch.tensor([[False, True], [False, False]])
    >>> positives_stripes(some.to_sparse().coalesce(), slice(1, 2))
    (tensor([[False, False]]), tensor([[ True, False]]))
    """
    if positives is None:
        return None, None
    if not positives.is_sparse:
        return stripes(positives, rows)
    xy, yx = torch.zeros(2, rows.stop - rows.start, len(positives), dtype=torch.bool, device=positives.device)
    i, j = positives.indices()
    for stripe, query, candidate in ((xy, i, j), (yx, j, i)):
        inside = (query >= rows.start) & (query < rows.stop)
        stripe[query[inside] - rows.start, candidate[inside]] = True
    return xy, yx


def query_values(value: Tensor, rows: slice) -> Stripes:
    """Return the queries' own values, or their pairs' where there is one a pair, each broadcastable to (b, B).

    >>> query_values(torch.tensor([0.1, 0.2]), slice(1, 2))
    (tensor([[0.2000]]), tensor([[0.2000]]))
    """
    if value.ndim >= 2:
        return stripes(value, rows)
    of_query = value[rows, None] if value.ndim else value
    return of_query, of_query


def own_of(stripe: Tensor, rows: slice) -> Tensor:
    """Return what the queries' own pairs have, as a view: (b, B) -> (b,).

    >>> own_of(torch.tensor([[1, 2, 3], [4, 5, 6]]), slice(1, 3))
    tensor([2, 6])
    """
    return stripe.diagonal(offset=rows.start)


def own_values(values: Tensor, rows: slice) -> Tensor:
    """Return the values of the queries' own pairs, (b,); () where all have one.

    values: (), (B,), (B, B), or (2, b, B), whose two directions agree on own pairs.

    >>> own_values(torch.tensor([[0.1, 0.2], [0.3, 0.4]]), slice(1, 2))
    tensor([0.4000])
    """
    if values.ndim == 3:
        return own_of(values[0], rows)
    if values.ndim == 2:
        return values.diagonal()[rows]
    return values[rows] if values.ndim else values


def own_pairs(stripe: Tensor, rows: slice) -> Tensor:
    """Return which places of a stripe are own pairs: (b, B) bool.

    >>> own_pairs(torch.zeros(2, 3), slice(1, 3))
    tensor([[False,  True, False],
            [False, False,  True]])
    """
    own = torch.zeros(stripe.shape, dtype=torch.bool, device=stripe.device)
    own_of(own, rows).fill_(True)
    return own
