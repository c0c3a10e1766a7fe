"""Max-margin on a GPU: the tiles of `max_margin_in_tiles` as Triton kernels (docs/method.md, 4.18)."""

import torch
from torch import Tensor

from mmts.losses.fused.tiles import needs_gradient, number_of_extra
from mmts.losses.fused.triton.blocks import Blocks, UnitGradients
from mmts.losses.fused.triton.sides import own_similarity, side, through_lengths


def triton_max_margin(
    x: Tensor,
    y: Tensor,
    margin: Tensor,
    positives: Tensor | None,
    squared: bool,
    queries: slice,
    dtype: torch.dtype,
) -> tuple[Tensor, list[Tensor | None], Tensor]:
    """Return the part of b queries of the loss, (), dL/dx and dL/dy, or None, and -dL/ds_ii, (B,), all without graph.

    Arguments as `max_margin` takes them, checked, not float64; the margin is (B,); dtype: of the products.
    """
    B = len(x)
    needs_x, needs_y = needs_gradient(x), needs_gradient(y)
    x_side, y_side = side(x, dtype), side(y, dtype)
    blocks = Blocks(x_side, y_side, positives)
    result = UnitGradients(blocks, needs_x, needs_y)
    margin = margin.detach()
    offset = torch.full_like(margin, float("-inf"))  # with which no hinge is above zero
    offset[queries] = (margin - own_similarity(x_side, y_side))[queries]  # m_i - s_ii
    pairs = B * (B - 1) - number_of_extra(positives, x)[0].sum()
    weight = 0.5 / pairs.clamp_min(1).float()
    slopes = torch.zeros_like(margin)  # the sum over both directions of the slopes of a sample's hinges
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in blocks.with_slopes():
        costs, of_rows, of_columns = blocks.row_sums(rows), blocks.row_sums(rows), blocks.column_sums(rows)
        blocks.launch(
            "max_margin_slopes",
            rows,
            inverse_x=x_side.inverse,
            inverse_y=y_side.inverse,
            offset=offset,
            slopes=result.slopes,
            costs=costs,
            of_rows=of_rows,
            of_columns=of_columns,
            SQUARED=squared,
            HAS_SLOPES=needs_x or needs_y,
        )
        total += costs.sum(dtype=torch.float64)
        slopes[rows] += of_rows.sum(dim=0)
        slopes += of_columns.sum(dim=0)
        result.add(rows)
    gradients = [
        None
        if gradient is None
        else through_lengths(gradient.addcmul_(other.units, slopes[:, None], value=-1.0).mul_(weight), own)
        for gradient, own, other in ((result.grad_x, x_side, y_side), (result.grad_y, y_side, x_side))
    ]
    return (total * weight).float(), gradients, slopes * weight
