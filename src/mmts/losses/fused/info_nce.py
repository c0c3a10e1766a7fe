"""InfoNCE in tiles: the same loss and gradients as the plain version's, without a (B, B) matrix in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import (
    Blocks,
    add_products_,
    along,
    buffers,
    fill_others,
    number_of_others,
    refuse_double_backward,
    similarity_tile,
    through_unit_,
    tile_of,
    tiles,
)
from mmts.losses.normalize import compute_dtype, unit_and_length

# For x -> y and y -> x: the axis of a tile that the queries lie along, and the axis whose temperature divides.
AXES = {"row": ((0, 0), (1, 1)), "candidate": ((0, 1), (1, 0)), "media": ((0, 0), (1, 0))}


def fused_rows(
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    positives: Tensor | None,
    anchor: str,
    label_smoothing: float,
    decoupled: bool,
    queries: slice,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of b queries' rows and q - p of their own pairs, (2, b) each, x to y, y to x.

    docs/method.md, 4.3 to 4.6, 4.11, 4.17 and 5.1.

    Arguments as `info_nce` takes them, checked before; the temperature is (B,). Double backward is an InputError.
    """
    return _Rows.apply(x, y, temperature, positives, anchor, label_smoothing, decoupled, queries)  # type: ignore[no-untyped-call, no-any-return]


class _Rows(Function):
    """One product s for both directions forward, once more backward, where two products carry dL/ds to x and y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        tau: Tensor,
        positives: Tensor | None,
        anchor: str,
        label_smoothing: float,
        decoupled: bool,
        queries: slice,
    ) -> tuple[Tensor, Tensor]:
        B, dtype = len(x), compute_dtype(x, y)
        unit_x, *length_x = unit_and_length(x.to(dtype))
        unit_y, *length_y = unit_and_length(y.to(dtype))
        axes = AXES[anchor]
        lowest = torch.finfo(dtype).min
        own = tau.new_zeros(B)  # s_ii of the queries
        top = tau.new_full((2, B), lowest)  # the largest logit so far
        total = tau.new_zeros(2, B)  # the sum of exp(logit - top) so far
        spread = tau.new_zeros(2, B)  # the sum of the logits that label smoothing looks at
        for_s, for_z = buffers(unit_x, 2)
        for blocks, directions in tiles(B, queries):
            s = similarity_tile(unit_x, unit_y, blocks, for_s)
            if blocks[0] == blocks[1]:
                own[blocks[0]] = s.diagonal()
            if label_smoothing:
                fill_others(s, positives, blocks, 0.0)
                for k in directions:
                    query, scale = axes[k]
                    weights = along(1.0 / tau[blocks[scale]], scale)
                    spread[k, blocks[query]] += torch.mul(s, weights, out=tile_of(for_z, blocks)).sum(1 - query)
            _leave_out(s, positives, decoupled, blocks)
            for k in directions:
                query, scale = axes[k]
                z = torch.div(s, along(tau[blocks[scale]], scale), out=tile_of(for_z, blocks))
                before = top[k, blocks[query]]
                after = torch.maximum(before, z.amax(1 - query))
                sums = z.sub_(along(after, query)).exp_().sum(1 - query)
                total[k, blocks[query]] = total[k, blocks[query]] * (before - after).exp() + sums
                top[k, blocks[query]] = after
        remaining = B - number_of_others(positives, unit_x)
        empty = remaining <= 1  # nothing but the own candidate
        total.masked_fill_(empty, 1.0)
        target = (1.0 - label_smoothing) * own / tau + label_smoothing * spread / remaining
        ctx.save_for_backward(unit_x, unit_y, *length_x, *length_y, tau, positives, own, top, total, remaining)
        ctx.options = axes, label_smoothing, decoupled, queries, x.dtype, y.dtype
        log_sum = total.log() + top
        own_p = 0.0 if decoupled else (own / tau - log_sum).exp()
        slope = (1.0 - label_smoothing) + label_smoothing / remaining - own_p
        entropy, slope = (each.masked_fill(empty, 0.0)[:, queries] for each in (log_sum - target, slope))
        ctx.mark_non_differentiable(slope)
        return entropy, slope

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward("info_nce")
        with torch.autocast(gradient.device.type, enabled=False):
            return *_gradients(ctx, gradient), None, None, None, None, None


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return dL/dx, dL/dy and dL/dtau, each None where it is not needed, from dL/drows (2, b)."""
    unit_x, unit_y, *lengths, tau, positives, own, top, total, remaining = ctx.saved_tensors
    axes, label_smoothing, decoupled, queries, x_dtype, y_dtype = ctx.options
    needs_x, needs_y, needs_tau = ctx.needs_input_grad[:3]
    of_x = torch.zeros_like(unit_x) if needs_x else None
    of_y = torch.zeros_like(unit_y) if needs_y else None
    of_tau = torch.zeros_like(tau) if needs_tau else None
    # Probabilities are kept times `total` until the one multiplication that also brings in dL/drows.
    pull = torch.zeros_like(total)
    pull[:, queries] = gradient
    pull = pull.masked_fill_(remaining <= 1, 0.0).div_(total)
    on_own, on_each = (1.0 - label_smoothing) * total, label_smoothing * total / remaining
    for_s, *for_p = buffers(unit_x, 3)
    for_product = buffers(unit_x, 1)[0] if needs_tau else None
    for blocks, directions in tiles(len(unit_x), queries):
        s = similarity_tile(unit_x, unit_y, blocks, for_s)
        _leave_out(s, positives, decoupled, blocks)
        parts = []  # dL/ds of each direction
        for k in directions:
            query, scale = axes[k]
            q, divided = blocks[query], blocks[scale]
            p = torch.div(s, along(tau[divided], scale), out=tile_of(for_p[k], blocks))
            p.sub_(along(top[k, q], query)).exp_()
            if label_smoothing:
                p.sub_(along(on_each[k, q], query))
                fill_others(p, positives, blocks, 0.0)
            if blocks[0] == blocks[1]:
                p.diagonal().sub_(on_own[k, q])
            if query == scale:
                p.mul_(along(pull[k, q] / tau[q], query))
            else:
                p.mul_(along(pull[k, q], query)).div_(along(tau[divided], scale))
            parts.append(p)
        if of_tau is not None and for_product is not None:
            fill_others(s, positives, blocks, 0.0)
            if blocks[0] == blocks[1]:
                s.diagonal().copy_(own[blocks[0]])
            for p, k in zip(parts, directions, strict=True):
                scale = axes[k][1]
                products = torch.mul(p, s, out=tile_of(for_product, blocks))
                of_tau[blocks[scale]] -= products.sum(1 - scale) / tau[blocks[scale]]
        add_products_(of_x, of_y, parts, unit_x, unit_y, blocks)
    return (
        None if of_x is None else through_unit_(of_x, unit_x, *lengths[:2]).to(x_dtype),
        None if of_y is None else through_unit_(of_y, unit_y, *lengths[2:]).to(y_dtype),
        of_tau,
    )


def _leave_out(s: Tensor, positives: Tensor | None, decoupled: bool, blocks: Blocks) -> None:
    """Set to -inf what is no candidate of a denominator, in both directions alike."""
    fill_others(s, positives, blocks, float("-inf"))
    if decoupled and blocks[0] == blocks[1]:
        s.diagonal().fill_(float("-inf"))
