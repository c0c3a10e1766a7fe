"""Max-margin in tiles: the same loss and gradients as the plain version, without a (B, B) matrix in memory."""

import torch
from torch import Tensor

from mmts.losses.fused.tiles import (
    Form,
    KnownGradients,
    UnitSides,
    along,
    buffers,
    fill_positives,
    needs_gradient,
    number_of_extra,
    similarity_tile,
    tile_of,
    tiles,
)
from mmts.losses.fused.triton.max_margin import triton_max_margin


def max_margin_in_tiles(
    form: Form, x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice
) -> tuple[Tensor, Tensor]:
    """Return the part of b queries of the max-margin loss, (), and -dL/ds_ii, (b,) (docs/method.md, 4.8, 4.17, 5.9).

    Arguments as `max_margin` takes them, checked; the margin is (B,). A hinge's slope is known with the hinge, so one
    pass computes the gradients with the loss. Double backward is an InputError.
    """
    if isinstance(form, torch.dtype):
        loss, gradients, pull = triton_max_margin(x, y, margin, positives, squared, queries, form)
    else:
        loss, gradients, pull = _in_tiles(x, y, margin, positives, squared, queries)
    gradients = [*gradients, pull if needs_gradient(margin) else None]  # dL/dm_i = -dL/ds_ii: the same hinges
    loss = KnownGradients.apply(loss, gradients, ("the fused max_margin",), x, y, margin)  # type: ignore[no-untyped-call]
    return loss, pull[queries].clone()


def _in_tiles(
    x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice
) -> tuple[Tensor, list[Tensor | None], Tensor]:
    """Return the loss, (), dL/dx and dL/dy, and -dL/ds_ii, (B,)."""
    B, sides = len(x), UnitSides(x, y)
    offset = margin.detach() - torch.linalg.vecdot(sides.x, sides.y)  # m_i - s_ii
    pairs = B * (B - 1) - number_of_extra(positives, sides.x)[0].sum()
    weight = 0.5 / pairs.clamp_min(1).to(sides.x.dtype)
    slopes = torch.zeros_like(offset)  # the sum over both directions of the slopes of a sample's hinges
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    scratch = buffers(sides.x, 3 if squared else 2)
    for blocks, directions in tiles(B, queries):
        s = similarity_tile(sides.x, sides.y, blocks, scratch[0])
        fill_positives(s, positives, blocks, float("-inf"))
        parts = []  # dL/ds of each direction, without positive pairs and `weight`
        for axis in directions:
            out = s if axis == directions[-1] else tile_of(scratch[1], blocks)
            hinge = torch.add(s, along(offset[blocks[axis]], axis), out=out).clamp_min_(0.0)
            cost = torch.mul(hinge, hinge, out=tile_of(scratch[2], blocks)) if squared else hinge
            total += cost.sum()
            slope = hinge.mul_(2.0) if squared else hinge.gt_(0.0)
            slopes[blocks[axis]] += slope.sum(1 - axis)
            parts.append(slope)
        sides.add(parts, blocks)
    return (total * weight).to(weight.dtype), sides.gradients(slopes, weight), slopes * weight
