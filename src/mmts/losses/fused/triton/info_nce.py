"""InfoNCE on a GPU: the tiles of `rows_in_tiles` as Triton kernels (docs/method.md, 4.18)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmts.losses.fused.tiles import AXES, refuse_double_backward
from mmts.losses.fused.triton.blocks import LOG_SUM_TILES, Blocks, Side, UnitGradients, side

LOG2_E = math.log2(math.e)
BACKWARDS = {"row": "row", "candidate": "candidate", "media": "candidate"}
"""The anchor that divides by the same values if y to x is the first direction."""


def triton_rows(
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    positives: Tensor | None,
    anchor: str,
    label_smoothing: float,
    decoupled: bool,
    queries: slice,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """As `rows_in_tiles`, in float32; not for positives with label smoothing. dtype: of the products."""
    options = label_smoothing, decoupled, queries, dtype
    xy: tuple[Tensor, Tensor] = _Rows.apply(x, y, temperature, positives, (anchor, *options))  # type: ignore[no-untyped-call]
    if xy[0].shape[1] == len(x):
        return xy
    # One direction at a time, with its queries down the rows: both at once would need all tiles for the column sums.
    transposed = None if positives is None else positives.T
    yx = _Rows.apply(y, x, temperature, transposed, (BACKWARDS[anchor], *options))  # type: ignore[no-untyped-call]
    return torch.stack([xy[0][0], yx[0][0]]), torch.stack([xy[1][0], yx[1][0]])


class _Rows(Function):
    """Forward: a kernel for the rows' sums. Backward: a kernel for dL/ds by blocks of rows, and two products with each.

    If only some samples are queries, only tiles with queries down their rows are made: rows of y to x are incomplete.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        tau: Tensor,
        positives: Tensor | None,
        options: tuple[str, float, bool, slice, torch.dtype],
    ) -> tuple[Tensor, Tensor]:
        anchor, label_smoothing, decoupled, queries, dtype = options
        x_side, y_side = side(x, dtype), side(y, dtype)
        weight = 1.0 / tau
        blocks = Blocks(x_side, y_side, positives, LOG_SUM_TILES)
        own_logit = blocks.own_similarity() / tau
        by_row, by_column = _factors(x_side, y_side, tau, anchor)
        reach = weight.max() - own_logit.min()
        if decoupled:  # without the positive pair even the largest can be far below it
            reach = torch.maximum(reach, weight.max() + own_logit.max())
        vectors = {"by_row": by_row, "by_column": by_column, "own_logit": own_logit * LOG2_E, "reach": reach * LOG2_E}
        log_sums = tau.new_full((2, len(x)), float("-inf"))  # of z_ij - z_ii
        for rows in blocks.with_sums(queries):
            of_rows, of_columns = blocks.launch("info_nce_log_sums", rows, **vectors, DECOUPLED=decoupled)
            log_sums[0, rows] = of_rows.logsumexp(dim=0)
            log_sums[1] = torch.logaddexp(log_sums[1], of_columns.logsumexp(dim=0))
        empty = log_sums.isneginf() | (len(x) == 1)  # no negative (decoupled), or no candidate but the positive
        log_sums.masked_fill_(empty, 0.0)
        ctx.save_for_backward(x, y, tau, positives, own_logit, log_sums, empty)
        ctx.options = options
        own_p = torch.zeros_like(log_sums) if decoupled else torch.exp(-log_sums)
        slope = ((1.0 - label_smoothing) + label_smoothing / len(x) - own_p).masked_fill(empty, 0.0)[:, queries]
        ctx.mark_non_differentiable(slope)
        if not label_smoothing:
            return log_sums[:, queries].clone(), slope
        spread = _mean_logits(x_side, y_side, weight, anchor) - own_logit
        return (log_sums - label_smoothing * spread).masked_fill(empty, 0.0)[:, queries], slope

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_double_backward("the fused info_nce")
        with torch.autocast(gradient.device.type, enabled=False):
            return *_gradients(ctx, gradient), None, None


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return dL/dx, dL/dy and dL/dtau, or None where not needed, from dL/drows (2, b)."""
    x, y, tau, positives, own_logit, log_sums, empty = ctx.saved_tensors
    anchor, label_smoothing, decoupled, queries, dtype = ctx.options
    needs_x, needs_y, needs_tau = ctx.needs_input_grad[:3]
    x_side, y_side = side(x, dtype), side(y, dtype)
    blocks = Blocks(x_side, y_side, positives)
    result = UnitGradients(blocks, needs_x, needs_y, queries)
    weight = 1.0 / tau
    by_row, by_column = _factors(x_side, y_side, tau, anchor)
    of_logits = torch.zeros_like(tau)  # the sum of z dL/dz over the logits that each tau divides
    on_each = label_smoothing / len(x)
    offset = (own_logit + log_sums) * LOG2_E
    own_share = (torch.zeros_like(log_sums) if decoupled else torch.exp(-log_sums)) - (1.0 - label_smoothing + on_each)
    pull = torch.zeros_like(log_sums)
    pull[:, queries] = gradient
    pull.masked_fill_(empty, 0.0)
    vectors = {"by_row": by_row, "by_column": by_column, "offset": offset, "own_share": own_share}
    vectors |= {"pull": pull, "weight": weight}
    options = {"SCALE_XY": AXES[anchor][0][1], "SCALE_YX": AXES[anchor][1][1]}
    options |= {"on_each": on_each, "SMOOTHED": label_smoothing > 0, "OF_WEIGHTS": needs_tau}
    for rows in blocks.with_slopes(queries):
        of_rows, of_columns = blocks.launch("info_nce_slopes", rows, slopes=result.slopes, **vectors, **options)
        result.add(rows)
        if needs_tau:
            of_logits[rows] += of_rows.sum(dim=0)
            of_logits += of_columns.sum(dim=0)
    return (
        None if result.grad_x is None else x_side.through_lengths(result.grad_x, x.dtype),
        None if result.grad_y is None else y_side.through_lengths(result.grad_y, y.dtype),
        -of_logits / (tau * LOG2_E) if needs_tau else None,
    )


def _factors(x: Side, y: Side, tau: Tensor, anchor: str) -> tuple[Tensor, Tensor]:
    """Return the factors by row and by column, (2, B) each, that turn x_i . y_j into logits to the base 2."""
    factors = []
    for axis, inverse in enumerate((x.inverse, y.inverse)):
        divided = inverse * (LOG2_E / tau)
        factors.append(torch.stack([divided if scale == axis else inverse for _, scale in AXES[anchor]]))
    return factors[0], factors[1]


def _mean_logits(x: Side, y: Side, weight: Tensor, anchor: str) -> Tensor:
    """Return the mean of each query's logits, (2, B), from the mean of the candidates."""
    means = []
    for (query_axis, scale_axis), query, candidates in zip(AXES[anchor], (x, y), (y, x), strict=True):
        by_query = query_axis == scale_axis
        weights = candidates.inverse if by_query else candidates.inverse * weight
        centre = weights @ candidates.vectors.float() / len(weights)  # (D padded,)
        mean = query.vectors.float() @ centre * query.inverse
        means.append(mean * weight if by_query else mean)
    return torch.stack(means)
