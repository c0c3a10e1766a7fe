"""Max-margin in tiles, by torch or by Triton: the loss and gradients of the plain version, without a (B, B) matrix."""

import torch
from torch import Tensor

from mmts.losses.fused.tiles import (
    Form,
    KnownGradients,
    UnitSides,
    along,
    buffers,
    needs_gradient,
    number_of_extra,
    tiles,
)
from mmts.losses.fused.triton.blocks import Blocks, UnitGradients, side

Sums = tuple[Tensor, Tensor, list[Tensor | None]]
"""The sum of the hinges, (), the sum of the slopes of each sample's hinges, (B,), and dL/dx and dL/dy."""


def max_margin_in_tiles(
    form: Form, x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice
) -> tuple[Tensor, Tensor]:
    """Return the part of b queries of the max-margin loss, (), and -dL/ds_ii, (b,) (docs/method.md, 4.17, 5.9).

    Arguments are those of `max_margin`, checked; the margin is (B,). One pass computes the gradients with the loss.
    """
    pairs = len(x) * (len(x) - 1) - number_of_extra(positives, x)[0].sum()
    weight = 0.5 / pairs.clamp_min(1).to(margin.dtype)
    arguments = x, y, margin.detach(), positives, squared, queries, weight
    total, slopes, gradients = _by_triton(form, *arguments) if isinstance(form, torch.dtype) else _by_torch(*arguments)
    pull = slopes * weight
    gradients.append(pull if needs_gradient(margin) else None)  # dL/dm_i = -dL/ds_ii: the same hinges
    loss = (total * weight).to(weight.dtype)
    loss = KnownGradients.apply(loss, gradients, ("the fused max_margin",), x, y, margin)  # type: ignore[no-untyped-call]
    return loss, pull[queries].clone()


def _by_torch(
    x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice, weight: Tensor
) -> Sums:
    sides = UnitSides(x, y)
    offset = margin - torch.linalg.vecdot(sides.x, sides.y)  # m_i - s_ii
    slopes = torch.zeros_like(offset)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    scratch = buffers(sides.x, 3 if squared else 2)
    for tile in tiles(len(x), queries):
        s = tile.similarity(sides.x, sides.y, scratch[0])
        tile.fill_positives(s, positives, float("-inf"))
        parts = []  # dL/ds of each direction, without positive pairs and `weight`
        for axis in tile.directions:
            out = s if axis == tile.directions[-1] else tile.view(scratch[1])
            hinge = torch.add(s, along(offset[tile.blocks[axis]], axis), out=out).clamp_min_(0.0)
            cost = torch.mul(hinge, hinge, out=tile.view(scratch[2])) if squared else hinge
            total += cost.sum()
            slope = hinge.mul_(2.0) if squared else hinge.gt_(0.0)
            slopes[tile.blocks[axis]] += slope.sum(1 - axis)
            parts.append(slope)
        tile.add_products_(sides.grad_x, sides.grad_y, parts, sides.x, sides.y)
    return total, slopes, sides.gradients(slopes, weight)


def _by_triton(
    dtype: torch.dtype,
    x: Tensor,
    y: Tensor,
    margin: Tensor,
    positives: Tensor | None,
    squared: bool,
    queries: slice,
    weight: Tensor,
) -> Sums:
    needs_x, needs_y = needs_gradient(x), needs_gradient(y)
    x_side, y_side = side(x, dtype), side(y, dtype)
    blocks = Blocks(x_side, y_side, positives)
    result = UnitGradients(blocks, needs_x, needs_y)
    offset = torch.full_like(margin, float("-inf"))  # with which no hinge is above zero
    offset[queries] = (margin - blocks.own_similarity())[queries]  # m_i - s_ii
    slopes = torch.zeros_like(margin)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    vectors = {"inverse_x": x_side.inverse, "inverse_y": y_side.inverse, "offset": offset}
    options = {"SQUARED": squared, "HAS_SLOPES": needs_x or needs_y}
    for rows in blocks.with_slopes():
        costs = blocks.row_sums(rows)
        of_rows, of_columns = blocks.launch(
            "max_margin_slopes", rows, costs=costs, slopes=result.slopes, **vectors, **options
        )
        total += costs.sum(dtype=torch.float64)
        slopes[rows] += of_rows.sum(dim=0)
        slopes += of_columns.sum(dim=0)
        result.add(rows)
    gradients: list[Tensor | None] = []
    for gradient, own, other in ((result.grad_x, x_side, y_side), (result.grad_y, y_side, x_side)):
        if gradient is not None:
            gradient = own.through_lengths(gradient.addcmul_(other.units, slopes[:, None], value=-1.0).mul_(weight))
        gradients.append(gradient)
    return total, slopes, gradients
