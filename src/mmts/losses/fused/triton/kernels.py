"""The tiles of the fused losses as Triton kernels: a tile of s is made and used in registers (docs/method.md, 4.18).

Each program has one tile, ROWS samples i of x by COLUMNS samples j of y, in the block of rows from `first` to `last`.
It computes the product WIDTH components at a time on tensor cores, summed in float32. Each tile writes its sums over
rows and columns to its own place, for the caller to add: no atomics, so the result is the same every time.

The code after the product takes about as long as the product, so exponentials are to the base 2, factors of a row or a
column are multiplied beforehand, and only the few tiles that need masks have them, in a branch of their own from start
to end: a mask over a common result would keep all of it in registers.

Pointers are to contiguous tensors: x, y (B, D), or their tiles for a GPU's copy engine if BY_TILES; positives (B, B)
uint8; of_rows (tiles across, last - first) and of_columns (tiles down, B), the sums of each tile; and vectors (B,), or
(2, B) for x to y and y to x.
"""

import triton
import triton.language as tl

LOG_2 = tl.constexpr(0.6931471805599453)
GROUP = tl.constexpr(32)
"""Tiles down that run side by side before the next across, so that caches still hold their x."""


@triton.jit
def _place(first, last, B, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return which tile of the block this program has: down, across."""
    down, across = tl.cdiv(last - first, ROWS), tl.cdiv(B, COLUMNS)
    group, within = tl.program_id(0) // (GROUP * across), tl.program_id(0) % (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    return group * GROUP + within % height, within // height


@triton.jit
def _samples(down, across, first, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the tile's samples, i (ROWS,) and j (COLUMNS,)."""
    return first + down * ROWS + tl.arange(0, ROWS), across * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _is_mixed(down, across, first, last, B, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_POSITIVES: tl.constexpr):
    """Whether the tile may hold anything but negatives: positives, or places beyond the end."""
    i, j = first + down * ROWS, across * COLUMNS
    return HAS_POSITIVES | (i + ROWS > last) | (j + COLUMNS > B) | ((i < j + COLUMNS) & (j < i + ROWS))


@triton.jit
def _pairs(i, j, positives, last, B, HAS_POSITIVES: tl.constexpr):
    """Return which pairs of the tile are negatives, and which are positive pairs (i = j)."""
    exist = (i < last)[:, None] & (j < B)[None, :]
    own = exist & (i[:, None] == j[None, :])
    others = exist & (i[:, None] != j[None, :])
    if HAS_POSITIVES:
        at = positives + i.to(tl.int64)[:, None] * B + j[None, :]
        others = others & (tl.load(at, mask=others, other=1) == 0)
    return others, own


@triton.jit
def _of(vector, samples, B):
    """Return the samples' values of a vector (B,), 0 beyond its end."""
    return tl.load(vector + samples, mask=samples < B, other=0.0)


@triton.jit
def _products(
    x, y, down, across, first, B, D,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr, BY_TILES: tl.constexpr,
):  # fmt: skip
    """Return x_i . y_j, (ROWS, COLUMNS) float32; places beyond the end have any value."""
    dots = tl.zeros((ROWS, COLUMNS), tl.float32)
    if BY_TILES:
        for start in range(0, D, WIDTH):
            x_part, y_part = x.load([first + down * ROWS, start]), y.load([across * COLUMNS, start])
            dots = tl.dot(x_part, y_part.T, dots, input_precision=PRECISION)
    else:
        i, j = _samples(down, across, first, ROWS, COLUMNS)
        k = tl.arange(0, WIDTH)
        first_i, first_j = first + down * ROWS, across * COLUMNS
        at_x = x + first_i.to(tl.int64) * D + ((tl.minimum(i, B - 1) - first_i)[:, None] * D + k[None, :])
        at_y = y + first_j.to(tl.int64) * D + ((tl.minimum(j, B - 1) - first_j)[None, :] * D + k[:, None])
        for start in range(0, D, WIDTH):
            inside = start + k < D
            x_part = tl.load(at_x + start, mask=inside[None, :], other=0.0)
            y_part = tl.load(at_y + start, mask=inside[:, None], other=0.0)
            dots = tl.dot(x_part, y_part, dots, input_precision=PRECISION)
    return dots


@triton.jit
def _times(tile, of_i, of_j):
    """Multiply a tile by one factor per row and one per column."""
    return tile * of_i[:, None] * of_j[None, :]


@triton.jit
def _log2_sum(z, AXIS: tl.constexpr):
    """Return log2 of sum 2^z along an axis; -inf for a row without a candidate."""
    top = tl.maximum(tl.max(z, AXIS), -1e30)  # -inf less -inf would be NaN
    return top + tl.log2(tl.sum(tl.exp2(z - tl.expand_dims(top, AXIS)), AXIS))


@triton.jit
def _put_row_sums(of_rows, values, i, across, first, last):
    tl.store(of_rows + across.to(tl.int64) * (last - first) + i - first, values, mask=i < last)


@triton.jit
def _put_column_sums(of_columns, values, j, down, B):
    tl.store(of_columns + down.to(tl.int64) * B + j, values, mask=j < B)


@triton.jit
def _put_slopes(slopes, values, i, j, first, last, B, WHOLE: tl.constexpr):
    """Write a tile of dL/ds to slopes (last - first, B), rounded to their dtype; WHOLE: nothing is beyond the end."""
    at = slopes + (i - first).to(tl.int64)[:, None] * B + j[None, :]
    if WHOLE:
        tl.store(at, values.to(slopes.dtype.element_ty))
    else:
        tl.store(at, values.to(slopes.dtype.element_ty), mask=(i < last)[:, None] & (j < B)[None, :])


@triton.jit
def _candidates(z, others, own, DECOUPLED: tl.constexpr):
    """Return z, exactly 0 for the positive pair, -inf for pairs that are not in the denominator."""
    z = tl.where(others, z, float("-inf"))
    return z if DECOUPLED else tl.where(own, 0.0, z)


@triton.jit
def info_nce_log_sums(
    x, y, by_row, by_column, own_logit, reach, positives, of_rows, of_columns, first, last, B, D,
    DECOUPLED: tl.constexpr, HAS_POSITIVES: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BY_TILES: tl.constexpr,
):  # fmt: skip
    """Write log sum_j 2^(z_ij - z_ii) of x to y, over the tile's columns, and of y to x, over its rows.

    by_row, by_column (2, B): the factors that turn x_i . y_j into z_ij. own_logit (B,): z_ii. reach (): the largest
    |z_ij - z_ii| that matters.
    """
    down, across = _place(first, last, B, ROWS, COLUMNS)
    i, j = _samples(down, across, first, ROWS, COLUMNS)
    mixed = _is_mixed(down, across, first, last, B, ROWS, COLUMNS, HAS_POSITIVES)
    careful = mixed | (tl.load(reach) > 100.0)  # a sum of 2^100 over as many as memory holds is within float32
    dots = _products(x, y, down, across, first, B, D, ROWS, COLUMNS, WIDTH, PRECISION, BY_TILES)
    of_i, of_j, own_i = _of(by_row, i, B), _of(by_column, j, B), _of(own_logit, i, B)[:, None]
    if careful:
        others, own = _pairs(i, j, positives, last, B, HAS_POSITIVES)
        xy = _log2_sum(_candidates(_times(dots, of_i, of_j) - own_i, others, own, DECOUPLED), 1)
    else:
        xy = tl.log2(tl.sum(tl.exp2(_times(dots, of_i, of_j) - own_i), 1))
    _put_row_sums(of_rows, xy * LOG_2, i, across, first, last)
    of_i, of_j, own_j = _of(by_row + B, i, B), _of(by_column + B, j, B), _of(own_logit, j, B)[None, :]
    if careful:
        others, own = _pairs(i, j, positives, last, B, HAS_POSITIVES)
        yx = _log2_sum(_candidates(_times(dots, of_i, of_j) - own_j, others, own, DECOUPLED), 0)
    else:
        yx = tl.log2(tl.sum(tl.exp2(_times(dots, of_i, of_j) - own_j), 0))
    _put_column_sums(of_columns, yx * LOG_2, j, down, B)


@triton.jit
def info_nce_slopes(
    x, y, by_row, by_column, offset, own_share, pull, weight, positives, slopes, of_rows, of_columns,
    first, last, B, D, on_each,
    SCALE_XY: tl.constexpr, SCALE_YX: tl.constexpr, SMOOTHED: tl.constexpr, HAS_POSITIVES: tl.constexpr,
    OF_WEIGHTS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BY_TILES: tl.constexpr,
):  # fmt: skip
    """Write a tile of dL/ds, and if OF_WEIGHTS its sums of z dL/dz over the logits that each tau divides.

    by_row, by_column: as for the log sums. offset (2, B): z_ii plus the log sum, to the base 2. own_share (2, B):
    dL/dz_ii over dL/drow. pull (2, B): dL/drow. weight (B,): 1 / tau. on_each: if SMOOTHED, the target's share on each
    candidate.
    """
    down, across = _place(first, last, B, ROWS, COLUMNS)
    i, j = _samples(down, across, first, ROWS, COLUMNS)
    mixed = _is_mixed(down, across, first, last, B, ROWS, COLUMNS, HAS_POSITIVES)
    dots = _products(x, y, down, across, first, B, D, ROWS, COLUMNS, WIDTH, PRECISION, BY_TILES)
    if mixed:
        g, sums_i, sums_j = _slopes(
            dots, by_row, by_column, offset, own_share, pull, weight, positives,
            i, j, last, B, on_each, SCALE_XY, SCALE_YX, SMOOTHED, True, HAS_POSITIVES, OF_WEIGHTS,
        )  # fmt: skip
        _put_slopes(slopes, g, i, j, first, last, B, False)
    else:
        g, sums_i, sums_j = _slopes(
            dots, by_row, by_column, offset, own_share, pull, weight, positives,
            i, j, last, B, on_each, SCALE_XY, SCALE_YX, SMOOTHED, False, HAS_POSITIVES, OF_WEIGHTS,
        )  # fmt: skip
        _put_slopes(slopes, g, i, j, first, last, B, True)
    if OF_WEIGHTS:
        _put_row_sums(of_rows, sums_i, i, across, first, last)
        _put_column_sums(of_columns, sums_j, j, down, B)


@triton.jit
def _slopes(
    dots, by_row, by_column, offset, own_share, pull, weight, positives, i, j, last, B, on_each,
    SCALE_XY: tl.constexpr, SCALE_YX: tl.constexpr, SMOOTHED: tl.constexpr, MIXED: tl.constexpr,
    HAS_POSITIVES: tl.constexpr, OF_WEIGHTS: tl.constexpr,
):  # fmt: skip
    """Return a tile of dL/ds, and its rows' and its columns' sums of z dL/dz.

    If a query's own temperature divides, its dL/dz add up to 0, so log p, which is smaller than z, can replace z.
    """
    sums_i, sums_j = tl.zeros((i.shape[0],), tl.float32), tl.zeros((j.shape[0],), tl.float32)
    z = _times(dots, _of(by_row, i, B), _of(by_column, j, B))
    log_p = z - _of(offset, i, B)[:, None]
    xy = tl.exp2(log_p)
    if SMOOTHED:
        xy -= on_each
    if MIXED:
        others, own = _pairs(i, j, positives, last, B, HAS_POSITIVES)
        xy = tl.where(others, xy, tl.where(own, _of(own_share, i, B)[:, None], 0.0))
    pull_i, weight_i, weight_j = _of(pull, i, B), _of(weight, i, B), _of(weight, j, B)
    if SCALE_XY == 0:
        if OF_WEIGHTS:
            sums_i += tl.sum(log_p * xy, 1) * pull_i
        xy *= (pull_i * weight_i)[:, None]
    else:
        if OF_WEIGHTS:
            sums_j += tl.sum(z * xy * pull_i[:, None], 0)
        xy = _times(xy, pull_i, weight_j)

    z = _times(dots, _of(by_row + B, i, B), _of(by_column + B, j, B))
    log_p = z - _of(offset + B, j, B)[None, :]
    yx = tl.exp2(log_p)
    if SMOOTHED:
        yx -= on_each
    if MIXED:
        others, own = _pairs(i, j, positives, last, B, HAS_POSITIVES)
        yx = tl.where(others, yx, tl.where(own, _of(own_share + B, j, B)[None, :], 0.0))
    pull_j, weight_i, weight_j = _of(pull + B, j, B), _of(weight, i, B), _of(weight, j, B)
    if SCALE_YX == 1:
        if OF_WEIGHTS:
            sums_j += tl.sum(log_p * yx, 0) * pull_j
        yx *= (pull_j * weight_j)[None, :]
    else:
        if OF_WEIGHTS:
            sums_i += tl.sum(z * yx * pull_j[None, :], 1)
        yx = _times(yx, weight_i, pull_j)
    return xy + yx, sums_i, sums_j


@triton.jit
def max_margin_slopes(
    x, y, inverse_x, inverse_y, offset, positives, slopes, costs, of_rows, of_columns, first, last, B, D,
    SQUARED: tl.constexpr, HAS_POSITIVES: tl.constexpr, HAS_SLOPES: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, BY_TILES: tl.constexpr,
):  # fmt: skip
    """Write the sums of each row's hinges and of their slopes, and if HAS_SLOPES a tile of dL/ds.

    costs (column blocks, last - first): the hinges of both directions; of_rows, of_columns: the slopes of x to y and of
    y to x. dL/ds is without positive pairs and a factor. offset (B,): m_i - s_ii.
    """
    down, across = _place(first, last, B, ROWS, COLUMNS)
    i, j = _samples(down, across, first, ROWS, COLUMNS)
    dots = _products(x, y, down, across, first, B, D, ROWS, COLUMNS, WIDTH, PRECISION, BY_TILES)
    s = _times(dots, _of(inverse_x, i, B), _of(inverse_y, j, B))
    xy = tl.maximum(s + _of(offset, i, B)[:, None], 0.0)
    yx = tl.maximum(s + _of(offset, j, B)[None, :], 0.0)
    if _is_mixed(down, across, first, last, B, ROWS, COLUMNS, HAS_POSITIVES):
        others, _ = _pairs(i, j, positives, last, B, HAS_POSITIVES)
        xy, yx = tl.where(others, xy, 0.0), tl.where(others, yx, 0.0)
    _put_row_sums(costs, tl.sum(xy * xy + yx * yx if SQUARED else xy + yx, 1), i, across, first, last)
    xy = 2.0 * xy if SQUARED else (xy > 0.0).to(tl.float32)
    yx = 2.0 * yx if SQUARED else (yx > 0.0).to(tl.float32)
    _put_row_sums(of_rows, tl.sum(xy, 1), i, across, first, last)
    _put_column_sums(of_columns, tl.sum(yx, 0), j, down, B)
    if HAS_SLOPES:
        _put_slopes(slopes, xy + yx, i, j, first, last, B, False)


# --- one sample per program; WIDTH is the next power of two from D (padded) on --------------------------------------


@triton.jit
def prepare_rows(x, vectors, units, inverse, power, D, D_PADDED, WIDTH: tl.constexpr):
    """Write the fields of a `Side`."""
    sample, k = tl.program_id(0), tl.arange(0, WIDTH)
    row = tl.load(x + sample.to(tl.int64) * D + k, mask=k < D, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(row), 0)
    exponent = tl.minimum(largest.to(tl.int32, bitcast=True) >> 23, 252)
    shift = tl.where(largest > 0.0, ((253 - exponent) << 23).to(tl.float32, bitcast=True), 1.0)  # 2^(126 - exponent)
    row *= shift
    length = tl.sqrt(tl.sum(row * row, 0))
    of_length = tl.where(length > 0.0, 1.0 / length, 1.0)
    at, inside = sample.to(tl.int64) * D_PADDED + k, k < D_PADDED
    tl.store(vectors + at, row.to(vectors.dtype.element_ty), mask=inside)
    tl.store(units + at, (row * of_length).to(units.dtype.element_ty), mask=inside)
    tl.store(inverse + sample, of_length)
    tl.store(power + sample, shift)


@triton.jit
def own_products(x, y, dots, D, D_PADDED, WIDTH: tl.constexpr):
    """Write x_i . y_i, (B,)."""
    sample, k = tl.program_id(0), tl.arange(0, WIDTH)
    at, inside = sample.to(tl.int64) * D_PADDED + k, k < D
    x_part, y_part = tl.load(x + at, mask=inside, other=0.0), tl.load(y + at, mask=inside, other=0.0)
    tl.store(dots + sample, tl.sum(x_part.to(tl.float32) * y_part.to(tl.float32), 0))


@triton.jit
def through_lengths(out, gradient, vectors, inverse, power, D, D_PADDED, WIDTH: tl.constexpr):
    """Write dL/dx = (g - (g . u) u) / ||x|| (B, D), u the unit vector, for g = dL/du."""
    sample, k = tl.program_id(0), tl.arange(0, WIDTH)
    at, inside = sample.to(tl.int64) * D_PADDED + k, k < D
    g = tl.load(gradient + at, mask=inside, other=0.0)
    of_length = tl.load(inverse + sample)
    unit = tl.load(vectors + at, mask=inside, other=0.0).to(tl.float32) * of_length
    g = (g - tl.sum(g * unit, 0) * unit) * (of_length * tl.load(power + sample))
    tl.store(out + sample.to(tl.int64) * D + k, g.to(out.dtype.element_ty), mask=inside)
