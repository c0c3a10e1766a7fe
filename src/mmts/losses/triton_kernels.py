"""The tiles of the fused losses as Triton kernels: a tile of s is made and used up in registers (docs/method.md, 4.18).

Each program has one tile, ROWS samples i of x by COLUMNS samples j of y, in the block of rows from `first` to `last`.
Its product is walked WIDTH components at a time on tensor cores and summed in float32. What a tile adds to its rows and
its columns it writes to a place of its own, for the caller to sum: no atomics, so the same result every time.

Pointers are to contiguous tensors: x, y (B, D) and the inverse lengths of their vectors (B,); positives (B, B) uint8;
of_rows (column blocks, last - first) and of_columns (row blocks, B), a tile's share in each. This file alone needs
Triton, and is imported where it is used.
"""

import triton
import triton.language as tl


@triton.jit
def _samples(first, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the tile's samples, i (ROWS,) and j (COLUMNS,)."""
    return first + tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def _pairs(i, j, positives, last, B, HAS_POSITIVES: tl.constexpr):
    """Return which pairs of the tile are negatives (neither own nor other positives), and which are own pairs."""
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
def _similarity(x, y, inverse_x, inverse_y, i, j, B, D, WIDTH: tl.constexpr, PRECISION: tl.constexpr):
    """Return s_ij = x_i . y_j / (||x_i|| ||y_j||), (ROWS, COLUMNS) float32."""
    k = tl.arange(0, WIDTH)
    at_x = x + i.to(tl.int64)[:, None] * D + k[None, :]
    at_y = y + j.to(tl.int64)[None, :] * D + k[:, None]
    s = tl.zeros((i.shape[0], j.shape[0]), tl.float32)
    for start in range(0, D, WIDTH):
        inside = start + k < D
        of_x = tl.load(at_x + start, mask=(i < B)[:, None] & inside[None, :], other=0.0)
        of_y = tl.load(at_y + start, mask=(j < B)[None, :] & inside[:, None], other=0.0)
        s = tl.dot(of_x, of_y, s, input_precision=PRECISION)
    return s * _of(inverse_x, i, B)[:, None] * _of(inverse_y, j, B)[None, :]


@triton.jit
def _divided(values, weight_i, weight_j, SCALE: tl.constexpr):
    """Multiply a tile by 1 / tau of its rows (SCALE 0) or of its columns (SCALE 1)."""
    return values * (weight_i[:, None] if SCALE == 0 else weight_j[None, :])


@triton.jit
def _logits(s, weight_i, weight_j, own_logit, others, own, SCALE: tl.constexpr, DECOUPLED: tl.constexpr):
    """Return z_ij - z_own of one direction, exactly 0 for the own pair, -inf for what is no candidate."""
    z = tl.where(others, _divided(s, weight_i, weight_j, SCALE) - own_logit, float("-inf"))
    return z if DECOUPLED else tl.where(own, 0.0, z)


@triton.jit
def _log_sum(z, AXIS: tl.constexpr):
    """Return log sum exp z along an axis; -inf where nothing is a candidate."""
    top = tl.maximum(tl.max(z, AXIS), -1e30)  # -inf less -inf would be NaN
    return top + tl.log(tl.sum(tl.exp(z - tl.expand_dims(top, AXIS)), AXIS))


@triton.jit
def _put_row_sums(of_rows, values, i, first, last):
    tl.store(of_rows + tl.program_id(1).to(tl.int64) * (last - first) + i - first, values, mask=i < last)


@triton.jit
def _put_column_sums(of_columns, values, j, B):
    tl.store(of_columns + tl.program_id(0).to(tl.int64) * B + j, values, mask=j < B)


@triton.jit
def _put_slopes(slopes, values, i, j, first, last, B):
    """Write a tile of dL/ds to slopes (last - first, B), rounded to their dtype."""
    exist = (i < last)[:, None] & (j < B)[None, :]
    at = slopes + (i - first).to(tl.int64)[:, None] * B + j[None, :]
    tl.store(at, values.to(slopes.dtype.element_ty), mask=exist)


@triton.jit
def info_nce_log_sums(
    x,
    y,
    inverse_x,
    inverse_y,
    own_logit,
    weight,
    positives,
    of_rows,
    of_columns,
    first,
    last,
    B,
    D,
    SCALE_XY: tl.constexpr,
    SCALE_YX: tl.constexpr,
    DECOUPLED: tl.constexpr,
    HAS_POSITIVES: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write log sum_j exp(z_ij - z_ii) of x to y, over the tile's columns, and of y to x, over its rows.

    own_logit, weight (B,): s_ii / tau_i and 1 / tau_i.
    """
    i, j = _samples(first, ROWS, COLUMNS)
    others, own = _pairs(i, j, positives, last, B, HAS_POSITIVES)
    s = _similarity(x, y, inverse_x, inverse_y, i, j, B, D, WIDTH, PRECISION)
    weight_i, weight_j = _of(weight, i, B), _of(weight, j, B)
    own_i, own_j = _of(own_logit, i, B)[:, None], _of(own_logit, j, B)[None, :]
    xy = _logits(s, weight_i, weight_j, own_i, others, own, SCALE_XY, DECOUPLED)
    _put_row_sums(of_rows, _log_sum(xy, 1), i, first, last)
    yx = _logits(s, weight_i, weight_j, own_j, others, own, SCALE_YX, DECOUPLED)
    _put_column_sums(of_columns, _log_sum(yx, 0), j, B)


@triton.jit
def info_nce_slopes(
    x,
    y,
    inverse_x,
    inverse_y,
    own_logit,
    weight,
    positives,
    log_sums,
    pull,
    slopes,
    of_rows,
    of_columns,
    first,
    last,
    B,
    D,
    on_own,
    on_each,
    SCALE_XY: tl.constexpr,
    SCALE_YX: tl.constexpr,
    DECOUPLED: tl.constexpr,
    HAS_POSITIVES: tl.constexpr,
    OF_WEIGHTS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write a tile of dL/ds, and where OF_WEIGHTS what it adds to the sums of s dL/ds that each tau divides.

    log_sums, pull (2, B): the rows' log sums, complete, and dL/drow, each for x to y and y to x. on_own, on_each: the
    target's share on the own pair, and by label smoothing on each other.
    """
    i, j = _samples(first, ROWS, COLUMNS)
    others, own = _pairs(i, j, positives, last, B, HAS_POSITIVES)
    s = _similarity(x, y, inverse_x, inverse_y, i, j, B, D, WIDTH, PRECISION)
    weight_i, weight_j = _of(weight, i, B), _of(weight, j, B)
    own_i, own_j = _of(own_logit, i, B)[:, None], _of(own_logit, j, B)[None, :]
    target = tl.where(own, on_own, tl.where(others, on_each, 0.0))
    xy = _logits(s, weight_i, weight_j, own_i, others, own, SCALE_XY, DECOUPLED)
    xy = (tl.exp(xy - _of(log_sums, i, B)[:, None]) - target) * _of(pull, i, B)[:, None]
    xy = _divided(xy, weight_i, weight_j, SCALE_XY)
    yx = _logits(s, weight_i, weight_j, own_j, others, own, SCALE_YX, DECOUPLED)
    yx = (tl.exp(yx - _of(log_sums + B, j, B)[None, :]) - target) * _of(pull + B, j, B)[None, :]
    yx = _divided(yx, weight_i, weight_j, SCALE_YX)
    _put_slopes(slopes, xy + yx, i, j, first, last, B)
    if OF_WEIGHTS:
        by_row, by_column = tl.zeros_like(s), tl.zeros_like(s)
        if SCALE_XY == 0:
            by_row += s * xy
        else:
            by_column += s * xy
        if SCALE_YX == 0:
            by_row += s * yx
        else:
            by_column += s * yx
        _put_row_sums(of_rows, tl.sum(by_row, 1), i, first, last)
        _put_column_sums(of_columns, tl.sum(by_column, 0), j, B)


@triton.jit
def max_margin_slopes(
    x,
    y,
    inverse_x,
    inverse_y,
    offset,
    positives,
    slopes,
    costs,
    of_rows,
    of_columns,
    first,
    last,
    B,
    D,
    SQUARED: tl.constexpr,
    HAS_POSITIVES: tl.constexpr,
    HAS_SLOPES: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Write the sum of each row's hinges, both directions', to costs (column blocks, last - first), and the sums of
    their slopes, of x to y over the columns and of y to x over the rows; where HAS_SLOPES also a tile of dL/ds, but for
    own pairs and a factor.

    offset (B,): m_i - s_ii.
    """
    i, j = _samples(first, ROWS, COLUMNS)
    others, _ = _pairs(i, j, positives, last, B, HAS_POSITIVES)
    s = _similarity(x, y, inverse_x, inverse_y, i, j, B, D, WIDTH, PRECISION)
    xy = tl.where(others, tl.maximum(s + _of(offset, i, B)[:, None], 0.0), 0.0)
    yx = tl.where(others, tl.maximum(s + _of(offset, j, B)[None, :], 0.0), 0.0)
    _put_row_sums(costs, tl.sum(xy * xy + yx * yx if SQUARED else xy + yx, 1), i, first, last)
    xy = 2.0 * xy if SQUARED else (xy > 0.0).to(tl.float32)
    yx = 2.0 * yx if SQUARED else (yx > 0.0).to(tl.float32)
    _put_row_sums(of_rows, tl.sum(xy, 1), i, first, last)
    _put_column_sums(of_columns, tl.sum(yx, 0), j, B)
    if HAS_SLOPES:
        _put_slopes(slopes, xy + yx, i, j, first, last, B)
