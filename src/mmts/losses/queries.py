"""The two directions of a batch, media to texts and texts to media: rows (b, B) of b queries and all B candidates.

Every loss is a sum over queries, so that processes can share a batch by them (docs/method.md, 4.19).
"""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Literal, NamedTuple, ParamSpec, Protocol, cast

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.normalize import cosine_similarity
from mmts.options import checked

P = ParamSpec("P")
Anchor = Literal["row", "candidate", "media"]
Rows = tuple[Tensor, Tensor]
"""The rows of some queries, (b, B) each: x to y, then y to x."""


class LossFunction(Protocol[P]):
    """A loss: called, it returns the loss, (); `with_pull` returns also the pull on each positive pair, (b,)."""

    __name__: str
    with_pull: Callable[P, tuple[Tensor, Tensor]]

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> Tensor:
        """Return the loss alone."""


def with_pull(both: Callable[P, tuple[Tensor, Tensor]]) -> LossFunction[P]:
    """Turn a function that returns a loss and its pulls -dL/ds_ii, (b,) and detached, into a checked LossFunction."""
    both = checked(both)
    loss: Any = wraps(both)(lambda *arguments, **options: both(*arguments, **options)[0])
    loss.__signature__ = signature(both).replace(return_annotation=Tensor)
    loss.with_pull = both
    return cast(LossFunction[P], loss)


class Direction(NamedTuple):
    """The rows of b queries in one direction of a batch."""

    similarity: Tensor  # (b, B), cosines
    value: Tensor  # temperatures or margins, broadcastable to (b, B)
    extra: Tensor | None  # (b, B) bool, the extra positives
    start: int  # the place in the batch of the first query

    def of_pair(self, rows: Tensor) -> Tensor:
        """Return a view of the entries of the positive pairs: (b, B) -> (b,)."""
        return rows.diagonal(offset=self.start)

    @property
    def is_pair(self) -> Tensor:
        """Where the positive pairs are: (b, B) bool."""
        places = torch.zeros_like(self.similarity, dtype=torch.bool)
        self.of_pair(places).fill_(True)
        return places

    @property
    def is_positive(self) -> Tensor:
        """Where the positive pairs and the extra positives are: (b, B) bool. The other candidates are negatives."""
        return self.is_pair if self.extra is None else self.is_pair | self.extra

    def mean_over_candidates(self, rows: Tensor) -> tuple[Tensor, Tensor | int]:
        """Return the means over all candidates but extra positives, (b, B) -> (b,), and how many candidates remain."""
        if self.extra is None:
            return rows.mean(dim=1), rows.shape[1]
        remaining = rows.shape[1] - self.extra.sum(dim=1)
        return rows.masked_fill(self.extra, 0.0).sum(dim=1) / remaining, remaining


def directions(
    x: Tensor, y: Tensor, value: Tensor, positives: Tensor | None, queries: slice, anchor: Anchor = "row"
) -> tuple[Direction, Direction]:
    """Return the rows of the queries, x to y and y to x, from checked arguments; anchor: as in `info_nce`."""
    if value.ndim >= 2:
        values = query_rows(value, queries)
    elif value.ndim == 0:
        values = value, value
    else:
        of_query, of_candidate = value[queries, None], value[None, :]
        values = of_candidate if anchor == "candidate" else of_query, of_query if anchor == "row" else of_candidate
    rows = zip(cosine_rows(x, y, queries), values, extra_positives(positives, queries), strict=True)
    xy, yx = (Direction(*row, queries.start) for row in rows)
    return xy, yx


def checked_queries(queries: slice | None, B: int) -> slice:
    """Return the queries as a slice with start and stop, the whole batch for None; else raise InputError."""
    if queries is None:
        return slice(0, B)
    start, stop, step = queries.indices(B)
    if step != 1 or start >= stop or (queries.stop or 0) > B:
        raise InputError(
            f"queries is {queries}; for a batch of {B} it must be slice(start, stop) with 0 <= start < stop <= {B}"
        )
    return slice(start, stop)


def cosine_rows(x: Tensor, y: Tensor, queries: slice) -> Rows:
    """Return the cosines of the queries with all candidates, in float32 at least; the whole batch takes one product."""
    if queries == slice(0, len(x)):
        similarity = cosine_similarity(x, y)
        return similarity, similarity.T
    return cosine_similarity(x[queries], y), cosine_similarity(y[queries], x)


def query_rows(pairs: Tensor, queries: slice) -> Rows:
    """Return the queries' rows of a matrix with one value per pair x_i, y_j: (B, B), or (2, b, B), already rows."""
    return (pairs[0], pairs[1]) if pairs.ndim == 3 else (pairs[queries], pairs[:, queries].T)


def pair_values(value: Tensor, queries: slice) -> Tensor:
    """Return the values of the queries' positive pairs, (b,), or () if all have one value."""
    if value.ndim >= 2:  # both directions agree on positive pairs
        return query_rows(value, queries)[0].diagonal(offset=queries.start)
    return value[queries] if value.ndim else value


def extra_positives(positives: Tensor | None, queries: slice) -> Rows | tuple[None, None]:
    """Return the queries' rows of `positives` (B, B) bool, dense or coalesced, without its diagonal."""
    if positives is None:
        return None, None
    if positives.is_sparse:
        b, device = queries.stop - queries.start, positives.device
        xy, yx = torch.zeros(2, b, len(positives), dtype=torch.bool, device=device)
        i, j = positives.indices()
        for rows, query, candidate in ((xy, i, j), (yx, j, i)):
            inside = (query >= queries.start) & (query < queries.stop)
            rows[query[inside] - queries.start, candidate[inside]] = True
    else:
        xy, yx = (rows.clone() for rows in query_rows(positives, queries))
    for rows in (xy, yx):
        rows.diagonal(offset=queries.start).fill_(False)
    return xy, yx
