"""InfoNCE in tiles: the same loss and gradients as the plain version, without a (B, B) matrix in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import (
    AXES,
    Form,
    Tile,
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
    margin: Tensor | None = None,
    bias: Tensor | None = None,
    bias_positives: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of b queries and q - p of their positive pairs, (2, b) each, x to y, then y to x.

    Arguments are those of `info_nce`, checked; the temperature and the margin are (B,), `bias`, the candidate_bias, is
    (2, B) (docs/method.md, 4.17). The Triton kernels have no margin and no bias.
    """
    options = anchor, label_smoothing, decoupled, queries
    if isinstance(form, torch.dtype):
        return triton_rows(x, y, temperature, positives, *options, form)
    return _Rows.apply(x, y, temperature, margin, positives, bias, (*options, bias_positives))  # type: ignore[no-untyped-call, no-any-return]


class _Rows(Function):
    """Forward: one product s for both directions. Backward: s again, and two products that carry dL/ds to x and y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        tau: Tensor,
        margin: Tensor | None,
        positives: Tensor | None,
        bias: Tensor | None,
        options: tuple[str, float, bool, slice, bool],
    ) -> tuple[Tensor, Tensor]:
        B, dtype = len(x), compute_dtype(x, y)
        anchor, label_smoothing, decoupled, queries, bias_positives = options
        unit_x, *length_x = unit_and_length(x.to(dtype))
        unit_y, *length_y = unit_and_length(y.to(dtype))
        own = tau.new_zeros(B)  # s_ii - m_i of the queries
        own_logit = tau.new_zeros(2, B)
        top = tau.new_full((2, B), torch.finfo(dtype).min)  # the largest logit so far
        total = tau.new_zeros(2, B)  # the sum of exp(logit - top) so far
        spread = tau.new_zeros(2, B)  # the sum of the logits that label smoothing spreads over
        for_s, for_z = buffers(unit_x, 2)
        for tile in tiles(B, queries):
            s = tile.similarity(unit_x, unit_y, for_s)
            if tile.is_diagonal:
                at = tile.blocks[0]
                if margin is not None:
                    s.diagonal().sub_(margin[at])
                own[at] = s.diagonal()
                own_logit[:, at] = own[at] / tau[at]
                if bias is not None and bias_positives:
                    own_logit[:, at] += bias[:, at]
            if label_smoothing:
                tile.fill_extra(s, positives, 0.0)
                for k in tile.directions:
                    query, scale = AXES[anchor][k]
                    weights = along(1.0 / tau[tile.blocks[scale]], scale)
                    z = torch.mul(s, weights, out=tile.view(for_z))
                    if bias is not None:
                        _add_bias_(z, tile, k, query, bias, own_logit)
                        tile.fill_extra(z, positives, 0.0)
                    spread[k, tile.blocks[query]] += z.sum(1 - query)
            (tile.fill_positives if decoupled else tile.fill_extra)(s, positives, float("-inf"))
            for k in tile.directions:
                query, scale = AXES[anchor][k]
                z = torch.div(s, along(tau[tile.blocks[scale]], scale), out=tile.view(for_z))
                if bias is not None:
                    _add_bias_(z, tile, k, query, bias, None if decoupled else own_logit)
                add_exponentials_(top[k, tile.blocks[query]], total[k, tile.blocks[query]], z, query)
        remaining = B - number_of_extra(positives, unit_x)
        empty = remaining <= 1  # no candidate but the positive
        total.masked_fill_(empty, 1.0)
        target = (1.0 - label_smoothing) * own_logit + label_smoothing * spread / remaining
        of_logits = positives, bias, own, own_logit, top, total, remaining
        ctx.save_for_backward(unit_x, unit_y, *length_x, *length_y, tau, *of_logits)
        ctx.options, ctx.dtypes = options, (x.dtype, y.dtype)
        log_sum = total.log() + top
        own_p = 0.0 if decoupled else (own_logit - log_sum).exp()
        slope = (1.0 - label_smoothing) + label_smoothing / remaining - own_p
        entropy, slope = (rows.masked_fill(empty, 0.0)[:, queries] for rows in (log_sum - target, slope))
        ctx.mark_non_differentiable(slope)
        return entropy, slope

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward("the fused info_nce")
        with torch.autocast(gradient.device.type, enabled=False):
            return *_gradients(ctx, gradient), None, None, None


def _add_bias_(z: Tensor, tile: Tile, k: int, query: int, bias: Tensor, own_logit: Tensor | None) -> None:
    """Add the candidates' bias (2, B) to a tile of logits of direction k; own_logit: those of positive pairs, (2, B).

    query: the axis of the queries. None leaves positive pairs out, whose logits are -inf.
    """
    z.add_(along(bias[k, tile.blocks[1 - query]], 1 - query))
    if own_logit is not None and tile.is_diagonal:
        z.diagonal().copy_(own_logit[k, tile.blocks[0]])


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return dL/dx, dL/dy, dL/dtau and dL/dm, or None where not needed, from dL/drows (2, b)."""
    unit_x, unit_y, *lengths, tau, positives, bias, own, own_logit, top, total, remaining = ctx.saved_tensors
    anchor, label_smoothing, decoupled, queries, _ = ctx.options
    grad_x, grad_y, grad_tau, grad_margin = (
        torch.zeros_like(like) if needed else None
        for like, needed in zip((unit_x, unit_y, tau, tau), ctx.needs_input_grad[:4], strict=True)
    )
    # Probabilities are kept times `total` until the one multiplication that also brings in dL/drows.
    pull = torch.zeros_like(total)
    pull[:, queries] = gradient
    pull = pull.masked_fill_(remaining <= 1, 0.0).div_(total)
    on_own, on_each = (1.0 - label_smoothing) * total, label_smoothing * total / remaining
    for_s, for_product, *for_p = buffers(unit_x, 4)
    for tile in tiles(len(unit_x), queries):
        s = tile.similarity(unit_x, unit_y, for_s)
        if tile.is_diagonal:
            s.diagonal().copy_(own[tile.blocks[0]])
        (tile.fill_positives if decoupled else tile.fill_extra)(s, positives, float("-inf"))
        parts = []  # dL/ds of each direction
        for k in tile.directions:
            query, scale = AXES[anchor][k]
            q, divided = tile.blocks[query], tile.blocks[scale]
            p = torch.div(s, along(tau[divided], scale), out=tile.view(for_p[k]))
            if bias is not None:
                _add_bias_(p, tile, k, query, bias, None if decoupled else own_logit)
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
        if grad_margin is not None and tile.is_diagonal:  # the margin is subtracted from s_ii
            grad_margin[tile.blocks[0]] -= sum(p.diagonal() for p in parts)
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
        grad_margin,
    )
