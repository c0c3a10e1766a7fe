"""Max-margin on a GPU: the tiles of `fused_max_margin` as Triton kernels (docs/method.md, 4.18)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import number_of_others, refuse_double_backward
from mmts.losses.fused.triton.blocks import Blocks, UnitGradients
from mmts.losses.fused.triton.sides import kernel_dtype, own_similarity, side, through_lengths


def triton_max_margin(
    x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice
) -> tuple[Tensor, Tensor]:
    """Return b queries' share of the max-margin loss over all negatives, (), and -dL/ds_ii, (b,) (docs/method.md, 4.8,
    4.10, 4.18, 5.9).

    Arguments as `max_margin` takes them, checked before, but for float64; the margin is (B,). Double backward is an
    InputError.
    """
    loss, pull = _Loss.apply(x, y, margin, positives, squared, queries)  # type: ignore[no-untyped-call]
    return loss, pull


class _Loss(Function):
    """One pass: the kernel makes the loss and dL/ds, two products the gradients, which are kept for later."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, squared: bool, queries: slice
    ) -> tuple[Tensor, Tensor]:
        B = len(x)
        needs_x, needs_y, needs_margin = ctx.needs_input_grad[:3]
        x_side, y_side = (side(each, kernel_dtype(x, y)) for each in (x, y))
        blocks = Blocks(x_side, y_side, positives)
        found = UnitGradients(blocks, needs_x, needs_y)
        offset = torch.full_like(margin, float("-inf"))  # which no hinge is above zero with
        offset[queries] = (margin - own_similarity(x_side, y_side))[queries]  # m_i - s_ii
        pairs = B * (B - 1) - number_of_others(positives, x)[0].sum()
        weight = 0.5 / pairs.clamp_min(1).float()
        slopes = torch.zeros_like(margin)  # the sum over both directions of what a sample's own hinges rise by
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for rows in blocks.with_slopes():
            costs, of_rows, of_columns = blocks.row_sums(rows), blocks.row_sums(rows), blocks.column_sums(rows)
            blocks.launch(
                "max_margin_slopes",
                rows,
                inverse_x=x_side.inverse,
                inverse_y=y_side.inverse,
                offset=offset,
                slopes=found.slopes,
                costs=costs,
                of_rows=of_rows,
                of_columns=of_columns,
                SQUARED=squared,
                HAS_SLOPES=needs_x or needs_y,
            )
            total += costs.sum(dtype=torch.float64)
            slopes[rows] += of_rows.sum(dim=0)
            slopes += of_columns.sum(dim=0)
            found.add(rows)
        gradients = [
            None
            if of_unit is None
            else through_lengths(
                of_unit.addcmul_(other.units, slopes[:, None], value=-1.0).mul_(weight), own, torch.float32
            )
            for of_unit, own, other in ((found.of_x, x_side, y_side), (found.of_y, y_side, x_side))
        ]
        of_margin = slopes.mul_(weight)  # dL/dm_i = -dL/ds_ii: both stand in the same hinges
        ctx.save_for_backward(*gradients, of_margin if needs_margin else None)
        pull = of_margin[queries].clone()
        ctx.mark_non_differentiable(pull)
        ctx.dtypes = x.dtype, y.dtype, margin.dtype
        return (total * weight).float(), pull

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward("max_margin")
        # The product first: in half precision a gradient that is scaled up must not be rounded before it is.
        kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *((None if each is None else (each * gradient).to(dtype)) for each, dtype in kept), None, None, None
