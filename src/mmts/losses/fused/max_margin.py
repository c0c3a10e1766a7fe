"""Max-margin in tiles: the same loss and gradients as the plain version's, without a (B, B) matrix in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import (
    add_products_,
    along,
    buffers,
    leave_out,
    number_of_others,
    refuse_double_backward,
    similarity_tile,
    through_unit_,
    tile_of,
    tiles,
)
from mmts.losses.normalize import compute_dtype, unit_and_length


def fused_max_margin(
    x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice
) -> tuple[Tensor, Tensor]:
    """Return b queries' share of the max-margin loss over all negatives, (), and -dL/ds_ii, (b,) (docs/method.md, 4.8,
    4.10, 4.17, 5.9).

    Arguments as `max_margin` takes them, checked before; the margin is (B,). Double backward is an InputError.
    """
    loss, pull = _Loss.apply(x, y, margin, positives, squared, queries)  # type: ignore[no-untyped-call]
    return loss, pull


class _Loss(Function):
    """One pass: a hinge's slope is known with the hinge, so the gradients are made with the loss and kept for later."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice
    ) -> tuple[Tensor, Tensor]:
        B, dtype = len(x), compute_dtype(x, y)
        needs_x, needs_y, needs_margin = ctx.needs_input_grad[:3]
        unit_x, *length_x = unit_and_length(x.to(dtype))
        unit_y, *length_y = unit_and_length(y.to(dtype))
        offset = margin - torch.linalg.vecdot(unit_x, unit_y)  # m_i - s_ii
        pairs = B * (B - 1) - number_of_others(positives, unit_x)[0].sum()
        weight = 0.5 / pairs.clamp_min(1).to(dtype)
        of_x = torch.zeros_like(unit_x) if needs_x else None
        of_y = torch.zeros_like(unit_y) if needs_y else None
        slopes = torch.zeros_like(margin)  # the sum over both directions of what a sample's own hinges rise by
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        scratch = buffers(unit_x, 3 if squared else 2)
        for blocks, directions in tiles(B, queries):
            s = similarity_tile(unit_x, unit_y, blocks, scratch[0])
            leave_out(s, positives, blocks, float("-inf"))
            parts = []  # dL/ds of each direction, but for own pairs and a factor
            for axis in directions:
                out = s if axis == directions[-1] else tile_of(scratch[1], blocks)
                hinge = torch.add(s, along(offset[blocks[axis]], axis), out=out).clamp_min_(0.0)
                cost = torch.mul(hinge, hinge, out=tile_of(scratch[2], blocks)) if squared else hinge
                total += cost.sum()
                slope = hinge.mul_(2.0) if squared else hinge.gt_(0.0)
                slopes[blocks[axis]] += slope.sum(1 - axis)
                parts.append(slope)
            add_products_(of_x, of_y, parts, unit_x, unit_y, blocks)
        for of_side, unit_side, other, length in ((of_x, unit_x, unit_y, length_x), (of_y, unit_y, unit_x, length_y)):
            if of_side is not None:
                of_side.addcmul_(other, slopes[:, None], value=-1.0).mul_(weight)
                through_unit_(of_side, unit_side, *length)
        of_margin = slopes.mul_(weight)  # dL/dm_i = -dL/ds_ii: both stand in the same hinges
        ctx.save_for_backward(of_x, of_y, of_margin if needs_margin else None)
        pull = of_margin[queries].clone()
        ctx.mark_non_differentiable(pull)
        ctx.dtypes = x.dtype, y.dtype, margin.dtype
        return (total * weight).to(dtype), pull

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward("max_margin")
        # The product first: in half precision a gradient that is scaled up must not be rounded before it is.
        kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *((None if each is None else (each * gradient).to(dtype)) for each, dtype in kept), None, None, None
