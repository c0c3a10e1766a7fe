"""InfoNCE on a GPU: the tiles of `rows_in_tiles` as Triton kernels (docs/method.md, 4.18)."""

import math

import torch
from torch import Tensor

from mmts.losses.fused.tiles import AXES, needs_gradient
from mmts.losses.fused.triton.blocks import LOG_SUM_TILES, Blocks, Side, UnitGradients, side

LOG2_E = math.log2(math.e)
BACKWARDS = {"row": "row", "candidate": "candidate", "media": "candidate"}
"""The anchor that divides by the same values if y to x is the first direction."""


def triton_rows(
    x: Tensor,
    y: Tensor,
    tau: Tensor,
    positives: Tensor | None,
    pull: Tensor,
    anchor: str,
    label_smoothing: float,
    decoupled: bool,
    queries: slice,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """As `rows_in_tiles`, in float32; not for positives with label smoothing. dtype: of the products."""
    needs = needs_gradient(x), needs_gradient(y), needs_gradient(tau)
    tau = tau.detach()
    sides, options = (side(x, dtype), side(y, dtype)), (label_smoothing, decoupled, queries)
    if pull.shape[1] == len(x):
        return _rows(sides, tau, positives, pull, anchor, *options, needs)
    # One direction at a time, with its queries down the rows: both at once would need all tiles for the column sums.
    # Only tiles with queries down their rows are made, so that the rows of the other direction are incomplete.
    transposed = None if positives is None else positives.T
    nothing = torch.zeros_like(pull[0])
    rows_xy, slope_xy, of_xy = _rows(sides, tau, positives, torch.stack([pull[0], nothing]), anchor, *options, needs)
    pull, needs = torch.stack([pull[1], nothing]), (needs[1], needs[0], needs[2])
    rows_yx, slope_yx, of_yx = _rows(sides[::-1], tau, transposed, pull, BACKWARDS[anchor], *options, needs)
    both = zip(of_xy, (of_yx[1], of_yx[0], of_yx[2]), strict=True)
    gradients = [None if a is None or b is None else a + b for a, b in both]
    return torch.stack([rows_xy[0], rows_yx[0]]), torch.stack([slope_xy[0], slope_yx[0]]), gradients


def _rows(
    sides: tuple[Side, Side],
    tau: Tensor,
    positives: Tensor | None,
    pull: Tensor,
    anchor: str,
    label_smoothing: float,
    decoupled: bool,
    queries: slice,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Run a kernel for the rows' sums; then one for dL/ds by blocks of rows, and two products with each."""
    x, y = sides
    B, weight = len(tau), 1.0 / tau
    blocks = Blocks(x, y, positives, LOG_SUM_TILES)
    own_logit = blocks.own_similarity() / tau
    by_row, by_column = _factors(x, y, tau, anchor)
    reach = weight.max() - own_logit.min()
    if decoupled:  # without the positive pair even the largest can be far below it
        reach = torch.maximum(reach, weight.max() + own_logit.max())
    vectors = {"by_row": by_row, "by_column": by_column}
    of_sums = {"own_logit": own_logit * LOG2_E, "reach": reach * LOG2_E, "DECOUPLED": decoupled}
    log_sums = tau.new_full((2, B), float("-inf"))  # of z_ij - z_ii
    for rows in blocks.with_sums(queries):
        of_rows, of_columns = blocks.launch("info_nce_log_sums", rows, **vectors, **of_sums)
        log_sums[0, rows] = of_rows.logsumexp(dim=0)
        log_sums[1] = torch.logaddexp(log_sums[1], of_columns.logsumexp(dim=0))
    empty = log_sums.isneginf() | (B == 1)  # no negative (decoupled), or no candidate but the positive
    log_sums.masked_fill_(empty, 0.0)
    own_p = torch.zeros_like(log_sums) if decoupled else torch.exp(-log_sums)
    on_each = label_smoothing / B
    slope = ((1.0 - label_smoothing) + on_each - own_p).masked_fill(empty, 0.0)[:, queries]
    entropy = log_sums
    if label_smoothing:
        spread = _mean_logits(x, y, weight, anchor) - own_logit
        entropy = (log_sums - label_smoothing * spread).masked_fill(empty, 0.0)
    if not any(needs):
        return entropy[:, queries], slope, [None] * 3
    blocks = Blocks(x, y, positives)
    result = UnitGradients(blocks, needs[0], needs[1], queries)
    of_logits = torch.zeros_like(tau)  # the sum of z dL/dz over the logits that each tau divides
    pulls = torch.zeros_like(log_sums)
    pulls[:, queries] = pull
    vectors |= {"offset": (own_logit + log_sums) * LOG2_E, "own_share": own_p - (1.0 - label_smoothing + on_each)}
    vectors |= {"pull": pulls.masked_fill_(empty, 0.0), "weight": weight}
    options: dict[str, float] = {"SCALE_XY": AXES[anchor][0][1], "SCALE_YX": AXES[anchor][1][1]}
    options |= {"on_each": on_each, "SMOOTHED": label_smoothing > 0, "OF_WEIGHTS": needs[2]}
    for rows in blocks.with_slopes(queries):
        of_rows, of_columns = blocks.launch("info_nce_slopes", rows, slopes=result.slopes, **vectors, **options)
        result.add(rows)
        if needs[2]:
            of_logits[rows] += of_rows.sum(dim=0)
            of_logits += of_columns.sum(dim=0)
    of_x, of_y = (
        None if gradient is None else own.through_lengths(gradient)
        for own, gradient in ((x, result.grad_x), (y, result.grad_y))
    )
    return entropy[:, queries], slope, [of_x, of_y, -of_logits / (tau * LOG2_E) if needs[2] else None]


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
