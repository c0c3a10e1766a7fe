"""What every loss on pairs demands of its arguments, said in one place."""

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor, is_functorch_wrapped_tensor

from mmts.errors import InputError
from mmts.losses.normalize import compute_dtype
from mmts.losses.rows import Stripes, own_pairs, positives_stripes


def checked_value(
    name: str,
    value: Tensor | float,
    x: Tensor,
    y: Tensor,
    *,
    zero_allowed: bool = False,
    pairs_allowed: bool = True,
    rows: slice | None = None,
) -> Tensor:
    """Return the temperature or margin on x's device in the loss's dtype, after checking it and both batches.

    x, y (B, D) floating point and finite; value () or (B,) or (B, B), finite and positive (or zero where allowed);
    where only the `rows` of b queries count, a value a pair may also be their stripes (2, b, B). InputError names the
    argument and the row.
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
        raise InputError(f"x is {tuple(x.shape)} and y is {tuple(y.shape)}; both must be (B, D) alike")
    B = len(x)
    value = torch.as_tensor(value, dtype=compute_dtype(x, y), device=x.device)
    of_rows = () if rows is None else ((2, rows.stop - rows.start, B),)
    if value.shape not in ((), (B,), (B, B), *of_rows):
        raise InputError(f"{name} is {tuple(value.shape)}; for a batch of {B} it must be (), ({B},) or ({B}, {B})")
    if value.ndim >= 2 and not pairs_allowed:
        raise InputError(f"{name} is {tuple(value.shape)}, one value a pair; scale_by_temperature needs one a row")
    right = torch.isfinite(value.detach()) & ((value >= 0) if zero_allowed else (value > 0))
    # A sum with a NaN or an infinity in it is one; where finite parts overflow, the longer look finds nothing wrong.
    finite = torch.isfinite(x.detach().sum() + y.detach().sum())
    # One answer for all three: on a GPU each look at a result makes the host wait.
    if not bool(finite & right.all()):
        for side, batch in (("x", x), ("y", y)):
            _raise_first(
                f"{side}[{{}}] has a NaN or an infinity; embeddings must be finite", torch.isfinite(batch).all(1)
            )
        wanted = "finite and not negative" if zero_allowed else "finite and positive"
        place = "[{}]" if value.ndim else ""
        _raise_first(f"{name}{place} is {{value}}; it must be {wanted}", right, value)
    return value


def _is_under_vmap(x: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    while is_functorch_wrapped_tensor(x):  # such as vmap of grad
        if is_batchedtensor(x):
            return True
        x = get_unwrapped(x)
    return False


def other_positives(positives: Tensor | None, x: Tensor, rows: slice) -> Stripes | tuple[None, None]:
    """Return the queries' rows of `positives` (B, B) bool with own pairs cleared, or None twice when none was given."""
    xy, yx = positives_stripes(checked_positives(positives, x), rows)
    if xy is None or yx is None:
        return None, None
    others = ~own_pairs(xy, rows)
    return xy & others, yx & others


def checked_positives(positives: Tensor | None, x: Tensor) -> Tensor | None:
    """Return `positives` on x's device, diagonal and all, or None; InputError unless (B, B) of bool, dense or sparse.

    Sparse ones come coalesced: sorted by row, no pair twice.
    """
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


def checked_relevance(relevance: Tensor, x: Tensor, y: Tensor, rows: slice) -> Tensor:
    """Return `relevance` on x's device in the loss's dtype; InputError unless floating point in [0, 1], (B, B) or the
    `rows` of b queries, (2, b, B)."""
    B = len(x)
    if relevance.shape not in ((B, B), (2, rows.stop - rows.start, B)) or not relevance.is_floating_point():
        raise InputError(
            f"relevance is {tuple(relevance.shape)} {relevance.dtype}; "
            f"for a batch of {B} it must be ({B}, {B}), floating point"
        )
    # Comparisons with NaN are false.
    _raise_first(
        "relevance[{}] is {value}; it must lie in [0, 1]", (relevance >= 0) & (relevance <= 1), relevance.detach()
    )
    return relevance.detach().to(x.device, compute_dtype(x, y))


def _raise_first(message: str, right: Tensor, value: Tensor | None = None) -> None:
    if bool(right.all()):
        return
    place = tuple((~right).nonzero()[0].tolist())
    shown = None if value is None else value[place].item()
    raise InputError(message.format(", ".join(map(str, place)), value=shown))
