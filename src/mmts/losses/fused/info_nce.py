"""InfoNCE in tiles: the same loss and gradients as the plain version, without a (B, B) matrix in memory."""

import torch
from torch import Tensor

from mmts.losses.fused.tiles import (
    AXES,
    Form,
    Tile,
    UnitSides,
    add_exponentials_,
    along,
    buffers,
    needs_gradient,
    number_of_extra,
    tiles,
)
from mmts.losses.fused.triton.info_nce import triton_rows

Rows = tuple[Tensor, Tensor, list[Tensor | None]]
"""The cross-entropy of b queries and q - p of their positive pairs, (2, b) each, without gradient, x to y, then y to x;
and the gradients of x, y and the temperature (of the margin, too, if there is one), None where not needed."""


def rows_in_tiles(
    form: Form,
    x: Tensor,
    y: Tensor,
    tau: Tensor,
    positives: Tensor | None,
    pull: Tensor,
    anchor: str,
    label_smoothing: float,
    decoupled: bool,
    queries: slice,
    margin: Tensor | None = None,
    bias: Tensor | None = None,
    bias_positives: bool = True,
) -> Rows:
    """Return the rows of b queries, and the gradients of their sum weighted by `pull`, (2, b).

    Arguments are those of `info_nce`, checked; the temperature and the margin are (B,), `bias`, the candidate_bias, is
    (2, B) (docs/method.md, 4.17). The Triton kernels have no margin and no bias. One product s for both directions
    gives the rows; s again, and two products that carry dL/ds to x and y, the gradients.
    """
    options = anchor, label_smoothing, decoupled, queries
    if isinstance(form, torch.dtype):
        return triton_rows(x, y, tau, positives, pull, *options, form)
    needs_tau, needs_margin = needs_gradient(tau), margin is not None and needs_gradient(margin)
    B, sides, tau = len(x), UnitSides(x, y), tau.detach()
    own = tau.new_zeros(B)  # s_ii - m_i of the queries
    own_logit = tau.new_zeros(2, B)
    top = tau.new_full((2, B), torch.finfo(tau.dtype).min)  # the largest logit so far
    total = tau.new_zeros(2, B)  # the sum of exp(logit - top) so far
    spread = tau.new_zeros(2, B)  # the sum of the logits that label smoothing spreads over
    for_s, for_product, *for_z = buffers(sides.x, 4)
    for tile in tiles(B, queries):
        s = tile.similarity(sides.x, sides.y, for_s)
        if tile.is_diagonal:
            at = tile.blocks[0]
            if margin is not None:
                s.diagonal().sub_(margin.detach()[at])
            own[at] = s.diagonal()
            own_logit[:, at] = own[at] / tau[at]
            if bias is not None and bias_positives:
                own_logit[:, at] += bias[:, at]
        if label_smoothing:
            tile.fill_extra(s, positives, 0.0)
            for k in tile.directions:
                query, scale = AXES[anchor][k]
                weights = along(1.0 / tau[tile.blocks[scale]], scale)
                z = torch.mul(s, weights, out=tile.view(for_z[0]))
                if bias is not None:
                    _add_bias_(z, tile, k, query, bias, own_logit)
                    tile.fill_extra(z, positives, 0.0)
                spread[k, tile.blocks[query]] += z.sum(1 - query)
        (tile.fill_positives if decoupled else tile.fill_extra)(s, positives, float("-inf"))
        for k in tile.directions:
            query, scale = AXES[anchor][k]
            z = torch.div(s, along(tau[tile.blocks[scale]], scale), out=tile.view(for_z[0]))
            if bias is not None:
                _add_bias_(z, tile, k, query, bias, None if decoupled else own_logit)
            add_exponentials_(top[k, tile.blocks[query]], total[k, tile.blocks[query]], z, query)
    remaining = B - number_of_extra(positives, sides.x)
    empty = remaining <= 1  # no candidate but the positive
    total.masked_fill_(empty, 1.0)
    target = (1.0 - label_smoothing) * own_logit + label_smoothing * spread / remaining
    log_sum = total.log() + top
    own_p = 0.0 if decoupled else (own_logit - log_sum).exp()
    slope = (1.0 - label_smoothing) + label_smoothing / remaining - own_p
    entropy, slope = (rows.masked_fill(empty, 0.0)[:, queries] for rows in (log_sum - target, slope))
    grad_tau = torch.zeros_like(tau) if needs_tau else None
    grad_margin = torch.zeros_like(tau) if needs_margin else None
    if all(each is None for each in (sides.grad_x, sides.grad_y, grad_tau, grad_margin)):
        return entropy, slope, [None] * 4
    # Probabilities are kept times `total` until the one multiplication that also brings in dL/drows.
    pulls = torch.zeros_like(total)
    pulls[:, queries] = pull
    pulls = pulls.masked_fill_(empty, 0.0).div_(total)
    on_own, on_each = (1.0 - label_smoothing) * total, label_smoothing * total / remaining
    for tile in tiles(B, queries):
        s = tile.similarity(sides.x, sides.y, for_s)
        if tile.is_diagonal:
            s.diagonal().copy_(own[tile.blocks[0]])
        (tile.fill_positives if decoupled else tile.fill_extra)(s, positives, float("-inf"))
        parts = []  # dL/ds of each direction
        for k in tile.directions:
            query, scale = AXES[anchor][k]
            q, divided = tile.blocks[query], tile.blocks[scale]
            p = torch.div(s, along(tau[divided], scale), out=tile.view(for_z[k]))
            if bias is not None:
                _add_bias_(p, tile, k, query, bias, None if decoupled else own_logit)
            p.sub_(along(top[k, q], query)).exp_()
            if label_smoothing:
                p.sub_(along(on_each[k, q], query))
                tile.fill_extra(p, positives, 0.0)
            if tile.is_diagonal:
                p.diagonal().sub_(on_own[k, q])
            if query == scale:
                p.mul_(along(pulls[k, q] / tau[q], query))
            else:
                p.mul_(along(pulls[k, q], query)).div_(along(tau[divided], scale))
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
        tile.add_products_(sides.grad_x, sides.grad_y, parts, sides.x, sides.y)
    return entropy, slope, [*sides.gradients(), grad_tau, grad_margin]


def _add_bias_(z: Tensor, tile: Tile, k: int, query: int, bias: Tensor, own_logit: Tensor | None) -> None:
    """Add the candidates' bias (2, B) to a tile of logits of direction k; own_logit: those of positive pairs, (2, B).

    query: the axis of the queries. None leaves positive pairs out, whose logits are -inf.
    """
    z.add_(along(bias[k, tile.blocks[1 - query]], 1 - query))
    if own_logit is not None and tile.is_diagonal:
        z.diagonal().copy_(own_logit[k, tile.blocks[0]])
