"""What the fused losses do with one embedding at a time, as Triton kernels: a sample a program (docs/method.md, 4.18).

Pointers are to contiguous tensors. WIDTH is the power of two from D (padded) on. This file needs Triton and is imported
where it is used.
"""

import triton
import triton.language as tl


@triton.jit
def prepare_rows(x, vectors, units, inverse, power, D, D_PADDED, WIDTH: tl.constexpr):
    """Write what `Side` holds."""
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
    of_x, of_y = tl.load(x + at, mask=inside, other=0.0), tl.load(y + at, mask=inside, other=0.0)
    tl.store(dots + sample, tl.sum(of_x.to(tl.float32) * of_y.to(tl.float32), 0))


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
