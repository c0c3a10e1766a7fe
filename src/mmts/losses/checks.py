"""What every loss on pairs demands of its arguments."""

from typing import Any

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.normalize import compute_dtype
from mmts.options import NotNegative, Positive, ZeroToOne, in_range, range_in_words


def checked_value(
    name: str,
    value: Tensor | float,
    x: Tensor,
    y: Tensor,
    *,
    zero_allowed: bool = False,
    per_sample_for: str | None = None,
    queries: slice | None = None,
) -> Tensor:
    """Check x, y (B, D) and a temperature or margin () or (B,) or (B, B), or of b queries' rows (2, b, B).

    Returns the value on x's device in the loss's dtype. InputError names the argument and the row. per_sample_for: what
    cannot take a value per pair.
    """
    for side, batch in (("x", x), ("y", y)):
        if batch.ndim != 2 or not batch.numel() or not batch.is_floating_point():
            raise InputError(
                f"{side} is {tuple(batch.shape)} {batch.dtype}; it must be (B, D), not empty, floating point"
            )
    if x.shape != y.shape:
        raise InputError(f"x is {tuple(x.shape)} and y is {tuple(y.shape)}; they must have one shape, (B, D)")
    B = len(x)
    value = torch.as_tensor(value, dtype=compute_dtype(x, y), device=x.device)
    of_queries = () if queries is None else ((2, queries.stop - queries.start, B),)
    if value.shape not in ((), (B,), (B, B), *of_queries):
        raise InputError(f"{name} is {tuple(value.shape)}; for a batch of {B} it must be (), ({B},) or ({B}, {B})")
    if value.ndim >= 2 and per_sample_for:
        raise InputError(f"{name} is {tuple(value.shape)}, one per pair; {per_sample_for} needs one per sample")
    kind = NotNegative if zero_allowed else Positive
    right = in_range(value.detach(), kind, torch.isfinite)
    # A sum over a NaN or an infinity is not finite. If finite parts overflow, the checks by row below find no fault.
    finite = torch.isfinite(x.detach().sum() + y.detach().sum())
    # One `bool` for all three checks: on a GPU each makes the host wait.
    if not bool(finite & right.all()):
        for side, batch in (("x", x), ("y", y)):
            _raise_first(
                f"{side}[{{}}] has a NaN or an infinity; embeddings must be finite", torch.isfinite(batch).all(1)
            )
        place = "[{}]" if value.ndim else ""
        _raise_first(f"{name}{place} is {{value}}; it must {range_in_words(kind)}", right, value)
    return value


def checked_table(
    name: str, value: Tensor, x: Tensor, y: Tensor, shapes: tuple[tuple[int, ...], ...], kind: Any = float
) -> Tensor:
    """Return a value of one of these shapes, without gradient, on x's device in the loss's dtype.

    InputError names the entry that is not in the range of `kind`, such as NotNegative.
    """
    value = value.detach()
    if value.shape not in shapes:
        raise InputError(f"{name} is {tuple(value.shape)}; it must be {' or '.join(map(str, shapes))}")
    right = in_range(value, kind, torch.isfinite)
    _raise_first(f"{name}[{{}}] is {{value}}; it must {range_in_words(kind)}", right, value)
    return value.to(x.device, compute_dtype(x, y))


def checked_positives(positives: Tensor | None, x: Tensor) -> Tensor | None:
    """Return `positives`, (B, B) bool or None, on x's device; sparse ones sorted by row, no False, no repetition."""
    if positives is None:
        return None
    B = len(x)
    if positives.shape != (B, B) or positives.dtype != torch.bool:
        raise InputError(
            f"positives is {tuple(positives.shape)} {positives.dtype}; for a batch of {B} it must be ({B}, {B}) of bool"
        )
    if positives.layout not in (torch.strided, torch.sparse_coo):
        raise InputError(f"positives is {positives.layout}; it must be dense or torch.sparse_coo")
    positives = positives.to(x.device)
    if not positives.is_sparse:
        return positives
    positives = positives.coalesce()
    true = positives.values()
    if not bool(true.all()):
        pairs = positives.indices()[:, true]
        return torch.sparse_coo_tensor(pairs, true[true], (B, B), is_coalesced=True, check_invariants=False)
    return positives


def checked_relevance(relevance: Tensor, x: Tensor, y: Tensor, queries: slice) -> Tensor:
    """Return `relevance` (B, B), or of b queries' rows (2, b, B), in the loss's dtype; InputError unless in [0, 1]."""
    B = len(x)
    return checked_table("relevance", relevance, x, y, ((B, B), (2, queries.stop - queries.start, B)), ZeroToOne)


def _raise_first(message: str, right: Tensor, value: Tensor | None = None) -> None:
    if not bool(right.all()):
        place = tuple((~right).nonzero()[0].tolist())
        number = None if value is None else value[place].item()
        raise InputError(message.format(", ".join(map(str, place)), value=number))
