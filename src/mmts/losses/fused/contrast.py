"""SogCLR's loss in tiles: the same loss and gradients as the plain version's, without a (b, B) matrix in memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import (
    add_products_,
    along,
    buffers,
    leave_out,
    refuse_double_backward,
    similarity_tile,
    through_unit_,
    tile_of,
    tiles,
)
from mmts.losses.normalize import compute_dtype, unit_and_length


def fused_contrast(
    x: Tensor,
    y: Tensor,
    temperatures: Tensor,
    extend: Callable[[Tensor], Tensor],
    positives: Tensor | None,
    queries: slice,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return b queries' share of the loss, (), log S_i, sum_j w_ij d_ij and sum_j w_ij, (2, b) each.

    Arguments as `contrast` takes them (docs/method.md, 5.4, 5.5 and 5.10); temperatures (2, B). Double backward is an
    InputError.
    """
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _Loss.apply(x, y, temperatures, extend, positives, queries)  # type: ignore[no-untyped-call]
    return found


class _Loss(Function):
    """One pass for the sums over negatives, one for the weights, which are held fixed: so the second makes the
    gradients with the loss, and they are kept for later."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        tau: Tensor,
        extend: Callable[[Tensor], Tensor],
        positives: Tensor | None,
        queries: slice,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        B, dtype = len(x), compute_dtype(x, y)
        needs_x, needs_y = ctx.needs_input_grad[:2]
        unit_x, *length_x = unit_and_length(x.to(dtype))
        unit_y, *length_y = unit_and_length(y.to(dtype))
        own = torch.linalg.vecdot(unit_x, unit_y)  # s_ii
        top = tau.new_full((2, B), torch.finfo(dtype).min)  # the largest d_ij so far
        total = tau.new_zeros(2, B)  # the sum of exp(d_ij - top) so far
        for_s, for_d, *for_w = buffers(unit_x, 4)
        for blocks, directions in tiles(B, queries):
            s = similarity_tile(unit_x, unit_y, blocks, for_s)
            leave_out(s, positives, blocks, float("-inf"))
            for k in directions:
                of = blocks[k]
                d = _exponents(s, own[of], tau[k, of], k, tile_of(for_d, blocks))
                before = top[k, of]
                after = torch.maximum(before, d.amax(1 - k))
                total[k, of] = total[k, of] * (before - after).exp() + d.sub_(along(after, k)).exp_().sum(1 - k)
                top[k, of] = after
        log_sums = torch.zeros_like(total)
        log_sums[:, queries] = extend((total.log() + top)[:, queries])
        of_x = torch.zeros_like(unit_x) if needs_x else None
        of_y = torch.zeros_like(unit_y) if needs_y else None
        mean_exponents, weights = torch.zeros_like(total), torch.zeros_like(total)
        for blocks, directions in tiles(B, queries):
            s = similarity_tile(unit_x, unit_y, blocks, for_s)
            parts = []  # w_ij of each direction
            for k in directions:
                of = blocks[k]
                d = _exponents(s, own[of], tau[k, of], k, tile_of(for_d, blocks))
                w = torch.sub(d, along(log_sums[k, of], k), out=tile_of(for_w[k], blocks)).exp_()
                leave_out(w, positives, blocks, 0.0)
                weights[k, of] += w.sum(1 - k)
                mean_exponents[k, of] += d.mul_(w).sum(1 - k)
                parts.append(w)
            add_products_(of_x, of_y, parts, unit_x, unit_y, blocks)
        of_own = weights.sum(dim=0)[:, None]
        for of_side, unit_side, other, length in ((of_x, unit_x, unit_y, length_x), (of_y, unit_y, unit_x, length_y)):
            if of_side is not None:
                of_side.addcmul_(other, of_own, value=-1.0).div_(B)
                through_unit_(of_side, unit_side, *length)
        ctx.save_for_backward(of_x, of_y)
        ctx.dtypes = x.dtype, y.dtype
        rest = log_sums[:, queries], mean_exponents[:, queries], weights[:, queries]
        ctx.mark_non_differentiable(*rest)
        # w_ij (s_ij - s_ii) is tau_i w_ij d_ij
        return (tau * mean_exponents).sum(dtype=torch.float64).to(dtype) / B, *rest

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward("contrast")
        kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *((None if each is None else (each * gradient).to(dtype)) for each, dtype in kept), *[None] * 4


def _exponents(s: Tensor, own: Tensor, tau: Tensor, axis: int, out: Tensor) -> Tensor:
    """Write d = (s - own) / tau of the queries along an axis of a tile to `out`, and return it."""
    return torch.sub(s, along(own, axis), out=out).div_(along(tau, axis))
