"""SogCLR's loss in tiles: the same loss and gradients as the plain version, without a (b, B) matrix in memory."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmts.losses.fused.tiles import KnownGradients, Tile, UnitSides, add_exponentials_, along, buffers, tiles

Extend = Callable[[Tensor], Tensor]
"""Turns log sums over a batch's negatives, (2, b), -inf for an empty sum, into those over all negatives."""


class Terms(NamedTuple):
    """The checked arguments of `contrast`."""

    x: Tensor  # (B, D), like y
    y: Tensor
    tau: Tensor  # (2, B), of x's and of y's queries
    extend: Extend
    log_added: Tensor | None  # the logarithm of what is added to S_i, () or (2, b)
    lowered: Tensor | None  # (2, B), like the bias
    bias: Tensor | None
    log_mean_of: Extend | None  # gives that by which `received` divides, from log S_i
    positives: Tensor | None
    queries: slice


def contrast_in_tiles(terms: Terms) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Return what the plain version does (docs/method.md, 5.10).

    One pass sums over the negatives; one computes the weights and, since they are held fixed, the gradients.
    """
    x, y, tau, extend, log_added, lowered, bias, log_mean_of, positives, queries = terms
    B, sides = len(x), UnitSides(x, y)
    own = torch.linalg.vecdot(sides.x, sides.y)  # s_ii
    top = tau.new_full((2, B), torch.finfo(tau.dtype).min)  # the largest d_ij so far
    total = tau.new_zeros(2, B)  # the sum of exp(d_ij - top) so far
    for_s, for_d, *for_w = buffers(sides.x, 4)
    for tile in tiles(B, queries):
        s = tile.similarity(sides.x, sides.y, for_s)
        tile.fill_positives(s, positives, float("-inf"))
        for k in tile.directions:
            rows = tile.blocks[k]
            d = _exponents(s, own[rows], tau[k, rows], k, tile.view(for_d))
            _shift_(d, tile, lowered, bias, tau, k)
            add_exponentials_(top[k, rows], total[k, rows], d, k)
    log_sums = extend((total.log() + top)[:, queries])
    log_divisors = torch.zeros_like(total)
    log_divisors[:, queries] = with_added(log_sums, log_added)
    factors, received = None, None
    if log_mean_of is not None:
        factors, received = torch.zeros_like(total), torch.zeros_like(total)
        factors[:, queries] = (log_divisors[:, queries] - log_mean_of(log_sums)).exp()
    mean_exponents, weights = torch.zeros_like(total), torch.zeros_like(total)
    for tile in tiles(B, queries):
        s = tile.similarity(sides.x, sides.y, for_s)
        parts = []  # w_ij of each direction
        for k in tile.directions:
            rows = tile.blocks[k]
            d = _exponents(s, own[rows], tau[k, rows], k, tile.view(for_d))
            w = torch.sub(d, along(log_divisors[k, rows], k), out=tile.view(for_w[k]))
            _shift_(w, tile, lowered, bias, tau, k).exp_()
            tile.fill_positives(w, positives, 0.0)
            if factors is not None and received is not None:
                received[k, tile.blocks[1 - k]] += (w * along(factors[k, rows], k)).sum(k)
            weights[k, rows] += w.sum(1 - k)
            mean_exponents[k, rows] += d.mul_(w).sum(1 - k)
            parts.append(w)
        tile.add_products_(sides.grad_x, sides.grad_y, parts, sides.x, sides.y)
    # w_ij (s_ij - s_ii) is tau_i w_ij d_ij
    loss = (tau * mean_exponents).sum(dtype=torch.float64).to(tau.dtype) / B
    gradients = sides.gradients(weights.sum(dim=0), 1.0 / B)
    loss = KnownGradients.apply(loss, gradients, ("the fused contrast",), x, y)  # type: ignore[no-untyped-call]
    return loss, log_sums, mean_exponents[:, queries], weights[:, queries], received


def with_added(log_sums: Tensor, log_added: Tensor | float | None) -> Tensor:
    """Return log(S + added) of log S, (2, b), and log added, () or (2, b)."""
    if log_added is None:
        return log_sums
    return torch.logaddexp(log_sums, torch.as_tensor(log_added, dtype=log_sums.dtype, device=log_sums.device))


def _exponents(s: Tensor, own: Tensor, tau: Tensor, axis: int, out: Tensor) -> Tensor:
    """Write d = (s - own) / tau of the queries along an axis of a tile to `out`, and return it."""
    return torch.sub(s, along(own, axis), out=out).div_(along(tau, axis))


def _shift_(exponents: Tensor, tile: Tile, lowered: Tensor | None, bias: Tensor | None, tau: Tensor, k: int) -> Tensor:
    """Subtract lowered_j / tau_i from the exponents of a tile in direction k and add bias_j; all three are (2, B)."""
    candidates = tile.blocks[1 - k]
    if lowered is not None:
        exponents.sub_(along(lowered[k, candidates], 1 - k) / along(tau[k, tile.blocks[k]], k))
    return exponents if bias is None else exponents.add_(along(bias[k, candidates], 1 - k))
