"""InfoNCE in tiles: the same loss and gradients as the plain version, without a (B, B) matrix in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import (
    AXES,
    Blocks,
    Form,
    add_exponentials_,
    add_products_,
    along,
    buffers,
    fill_extra,
    fill_positives,
    number_of_extra,
    refuse_double_backward,
    similarity_tile,
    through_unit_,
    tile_of,
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

    Arguments as `info_nce` takes them, checked; the temperature is (B,); decoupled: as in `decoupled_info_nce`
    (docs/method.md, 4.3 to 4.6, 4.11, 4.17, 5.1). Double backward is an InputError.
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
        for blocks, directions in tiles(B, queries):
            s = similarity_tile(unit_x, unit_y, blocks, for_s)
            if blocks[0] == blocks[1]:
                own[blocks[0]] = s.diagonal()
            if label_smoothing:
                fill_extra(s, positives, blocks, 0.0)
                for k in directions:
                    query, scale = AXES[anchor][k]
                    weights = along(1.0 / tau[blocks[scale]], scale)
                    spread[k, blocks[query]] += torch.mul(s, weights, out=tile_of(for_z, blocks)).sum(1 - query)
            _fill_left_out(s, positives, decoupled, blocks)
            for k in directions:
                query, scale = AXES[anchor][k]
                z = torch.div(s, along(tau[blocks[scale]], scale), out=tile_of(for_z, blocks))
                add_exponentials_(top[k, blocks[query]], total[k, blocks[query]], z, query)
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
    for blocks, directions in tiles(len(unit_x), queries):
        s = similarity_tile(unit_x, unit_y, blocks, for_s)
        _fill_left_out(s, positives, decoupled, blocks)
        parts = []  # dL/ds of each direction
        for k in directions:
            query, scale = AXES[anchor][k]
            q, divided = blocks[query], blocks[scale]
            p = torch.div(s, along(tau[divided], scale), out=tile_of(for_p[k], blocks))
            p.sub_(along(top[k, q], query)).exp_()
            if label_smoothing:
                p.sub_(along(on_each[k, q], query))
                fill_extra(p, positives, blocks, 0.0)
            if blocks[0] == blocks[1]:
                p.diagonal().sub_(on_own[k, q])
            if query == scale:
                p.mul_(along(pull[k, q] / tau[q], query))
            else:
                p.mul_(along(pull[k, q], query)).div_(along(tau[divided], scale))
            parts.append(p)
        if grad_tau is not None:
            fill_extra(s, positives, blocks, 0.0)
            if blocks[0] == blocks[1]:
                s.diagonal().copy_(own[blocks[0]])
            for p, k in zip(parts, directions, strict=True):
                scale = AXES[anchor][k][1]
                products = torch.mul(p, s, out=tile_of(for_product, blocks))
                grad_tau[blocks[scale]] -= products.sum(1 - scale) / tau[blocks[scale]]
        add_products_(grad_x, grad_y, parts, unit_x, unit_y, blocks)
    return (
        None if grad_x is None else through_unit_(grad_x, unit_x, *lengths[:2]).to(ctx.dtypes[0]),
        None if grad_y is None else through_unit_(grad_y, unit_y, *lengths[2:]).to(ctx.dtypes[1]),
        grad_tau,
    )


def _fill_left_out(s: Tensor, positives: Tensor | None, decoupled: bool, blocks: Blocks) -> None:
    """Fill the pairs of a tile that are not in the denominator, in both directions alike, with -inf."""
    (fill_positives if decoupled else fill_extra)(s, positives, blocks, float("-inf"))
