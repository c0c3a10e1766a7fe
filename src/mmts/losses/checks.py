"""What every loss on pairs demands of its arguments."""

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor

from mmts.errors import InputError
from mmts.losses.normalize import compute_dtype


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
        if _is_under_vmap(batch):
            raise InputError(
                f"{side} is a batch under torch.vmap, where values cannot be checked; loop over the batches instead"
            )
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
    right = torch.isfinite(value.detach()) & ((value >= 0) if zero_allowed else (value > 0))
    # A sum over a NaN or an infinity is not finite. If finite parts overflow, the checks by row below find no fault.
    finite = torch.isfinite(x.detach().sum() + y.detach().sum())
    # One `bool` for all three checks: on a GPU each makes the host wait.
    if not bool(finite & right.all()):
        for side, batch in (("x", x), ("y", y)):
            _raise_first(
                f"{side}[{{}}] has a NaN or an infinity; embeddings must be finite", torch.isfinite(batch).all(1)
            )
        wanted = "finite and not negative" if zero_allowed else "finite and positive"
        place = "[{}]" if value.ndim else ""
        _raise_first(f"{name}{place} is {{value}}; it must be {wanted}", right, value)
    return value


def checked_per_sample(
    name: str,
    value: Tensor,
    x: Tensor,
    y: Tensor,
    shapes: tuple[tuple[int, ...], ...],
    *,
    zero_allowed: bool = False,
) -> Tensor:
    """Return a value of one of these shapes, without gradient, on x's device in the loss's dtype.

    InputError names the entry that is not finite, or not finite and not negative.
    """
    value = value.detach()
    if value.shape not in shapes:
        raise InputError(f"{name} is {tuple(value.shape)}; it must be {' or '.join(map(str, shapes))}")
    right = torch.isfinite(value) & (value >= 0) if zero_allowed else torch.isfinite(value)
    wanted = "finite and not negative" if zero_allowed else "finite"
    _raise_first(f"{name}[{{}}] is {{value}}; it must be {wanted}", right, value)
    return value.to(x.device, compute_dtype(x, y))


def _is_under_vmap(x: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    while is_functorch_wrapped_tensor(x):  # such as vmap of grad
        if is_batchedtensor(x):
            return True
        x = get_unwrapped(x)
    return False


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
    if relevance.shape not in ((B, B), (2, queries.stop - queries.start, B)) or not relevance.is_floating_point():
        raise InputError(
            f"relevance is {tuple(relevance.shape)} {relevance.dtype}; "
            f"for a batch of {B} it must be ({B}, {B}), floating point"
        )
    relevance = relevance.detach()
    inside = (relevance >= 0) & (relevance <= 1)  # False for NaN
    _raise_first("relevance[{}] is {value}; it must lie in [0, 1]", inside, relevance)
    return relevance.to(x.device, compute_dtype(x, y))


def _raise_first(message: str, right: Tensor, value: Tensor | None = None) -> None:
    if not bool(right.all()):
        place = tuple((~right).nonzero()[0].tolist())
        number = None if value is None else value[place].item()
        raise InputError(message.format(", ".join(map(str, place)), value=number))
