"""InfoNCE in tiles: the same loss and gradients as the plain version, without a (B, B) matrix in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import (
    AXES,
    Form,
    add_exponentials_,
    along,
    buffers,
    number_of_extra,
    refuse_double_backward,
    through_unit_,
    tiles,
)
from mmts.losses.fused.triton.info_nce import triton_rows
from mmts.losses.normalize import compute_dtype, unit_and_length


def rows_in_tiles(
    form: Form,
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    positives: Tensor | None,
    anchor: str,
    label_smoothing: float,
    decoupled: bool,
    queries: slice,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of b queries and q - p of their positive pairs, (2, b) each, x to y, then y to x.

    Arguments are those of `info_nce`, checked; the temperature is (B,) (docs/method.md, 4.17).
    """
    options = anchor, label_smoothing, decoupled, queries
    if isinstance(form, torch.dtype):
        return triton_rows(x, y, temperature, positives, *options, form)
    return _Rows.apply(x, y, temperature, positives, options)  # type: ignore[no-untyped-call, no-any-return]


class _Rows(Function):
    """Forward: one product s for both directions. Backward: s again, and two products that carry dL/ds to x and y."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, tau: Tensor, positives: Tensor | None, options: tuple[str, float, bool, slice]
    ) -> tuple[Tensor, Tensor]:
        B, dtype = len(x), compute_dtype(x, y)
        anchor, label_smoothing, decoupled, queries = options
        unit_x, *length_x = unit_and_length(x.to(dtype))
        unit_y, *length_y = unit_and_length(y.to(dtype))
        own = tau.new_zeros(B)  # s_ii of the queries
        top = tau.new_full((2, B), torch.finfo(dtype).min)  # the largest logit so far
        total = tau.new_zeros(2, B)  # the sum of exp(logit - top) so far
        spread = tau.new_zeros(2, B)  # the sum of the logits that label smoothing spreads over
        for_s, for_z = buffers(unit_x, 2)
        for tile in tiles(B, queries):
            s = tile.similarity(unit_x, unit_y, for_s)
            if tile.is_diagonal:
                own[tile.blocks[0]] = s.diagonal()
            if label_smoothing:
                tile.fill_extra(s, positives, 0.0)
                for k in tile.directions:
                    query, scale = AXES[anchor][k]
                    weights = along(1.0 / tau[tile.blocks[scale]], scale)
                    spread[k, tile.blocks[query]] += torch.mul(s, weights, out=tile.view(for_z)).sum(1 - query)
            (tile.fill_positives if decoupled else tile.fill_extra)(s, positives, float("-inf"))
            for k in tile.directions:
                query, scale = AXES[anchor][k]
                z = torch.div(s, along(tau[tile.blocks[scale]], scale), out=tile.view(for_z))
                add_exponentials_(top[k, tile.blocks[query]], total[k, tile.blocks[query]], z, query)
        remaining = B - number_of_extra(positives, unit_x)
        empty = remaining <= 1  # no candidate but the positive
        total.masked_fill_(empty, 1.0)
        target = (1.0 - label_smoothing) * own / tau + label_smoothing * spread / remaining
        ctx.save_for_backward(unit_x, unit_y, *length_x, *length_y, tau, positives, own, top, total, remaining)
        ctx.options, ctx.dtypes = options, (x.dtype, y.dtype)
        log_sum = total.log() + top
        own_p = 0.0 if decoupled else (own / tau - log_sum).exp()
        slope = (1.0 - label_smoothing) + label_smoothing / remaining - own_p
        entropy, slope = (rows.masked_fill(empty, 0.0)[:, queries] for rows in (log_sum - target, slope))
        ctx.mark_non_differentiable(slope)
        return entropy, slope

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward("the fused info_nce")
        with torch.autocast(gradient.device.type, enabled=False):
            return *_gradients(ctx, gradient), None, None


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return dL/dx, dL/dy and dL/dtau, or None where not needed, from dL/drows (2, b)."""
    unit_x, unit_y, *lengths, tau, positives, own, top, total, remaining = ctx.saved_tensors
    anchor, label_smoothing, decoupled, queries = ctx.options
    grad_x, grad_y, grad_tau = (
        torch.zeros_like(like) if needed else None
        for like, needed in zip((unit_x, unit_y, tau), ctx.needs_input_grad[:3], strict=True)
    )
    # Probabilities are kept times `total` until the one multiplication that also brings in dL/drows.
    pull = torch.zeros_like(total)
    pull[:, queries] = gradient
    pull = pull.masked_fill_(remaining <= 1, 0.0).div_(total)
    on_own, on_each = (1.0 - label_smoothing) * total, label_smoothing * total / remaining
    for_s, for_product, *for_p = buffers(unit_x, 4)
    for tile in tiles(len(unit_x), queries):
        s = tile.similarity(unit_x, unit_y, for_s)
        (tile.fill_positives if decoupled else tile.fill_extra)(s, positives, float("-inf"))
        parts = []  # dL/ds of each direction
        for k in tile.directions:
            query, scale = AXES[anchor][k]
            q, divided = tile.blocks[query], tile.blocks[scale]
            p = torch.div(s, along(tau[divided], scale), out=tile.view(for_p[k]))
            p.sub_(along(top[k, q], query)).exp_()
            if label_smoothing:
                p.sub_(along(on_each[k, q], query))
                tile.fill_extra(p, positives, 0.0)
            if tile.is_diagonal:
                p.diagonal().sub_(on_own[k, q])
            if query == scale:
                p.mul_(along(pull[k, q] / tau[q], query))
            else:
                p.mul_(along(pull[k, q], query)).div_(along(tau[divided], scale))
            parts.append(p)
        if grad_tau is not None:
            tile.fill_extra(s, positives, 0.0)
            if tile.is_diagonal:
                s.diagonal().copy_(own[tile.blocks[0]])
            for p, k in zip(parts, tile.directions, strict=True):
                scale = AXES[anchor][k][1]
                products = torch.mul(p, s, out=tile.view(for_product))
                grad_tau[tile.blocks[scale]] -= products.sum(1 - scale) / tau[tile.blocks[scale]]
        tile.add_products_(grad_x, grad_y, parts, unit_x, unit_y)
    return (
        None if grad_x is None else through_unit_(grad_x, unit_x, *lengths[:2]).to(ctx.dtypes[0]),
        None if grad_y is None else through_unit_(grad_y, unit_y, *lengths[2:]).to(ctx.dtypes[1]),
        grad_tau,
    )
