"""One side's embeddings as the Triton kernels read them, and the way back to dL/dx (docs/method.md, 4.18)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """One side's embeddings: unit(x) = vectors * inverse.

    Vectors are x times a power of two, which is exact in bfloat16 too, while unit vectors would be rounded: the cosines
    of bfloat16 embeddings are as exact as in float32, at the speed of tensor cores. Zeros pad each vector to a multiple
    of 16 bytes.
    """

    vectors: Tensor  # (B, D padded)
    inverse: Tensor  # (B,) float32
    power: Tensor  # (B,) float32
    units: Tensor  # (B, D padded), in the vectors' dtype
    D: int


def side(x: Tensor, dtype: torch.dtype) -> Side:
    """Prepare embeddings (B, D) for the kernels in `dtype`; a vector of zeros has the length 1, as in `unit`."""
    x = x.detach().to(dtype).contiguous()
    a_step = 16 // x.itemsize
    vectors, units = x.new_empty(2, len(x), -(-x.shape[1] // a_step) * a_step)
    inverse, power = torch.empty(2, len(x), dtype=torch.float32, device=x.device)
    _run("prepare_rows", x, vectors, units, inverse, power)
    return Side(vectors, inverse, power, units, x.shape[1])


def own_similarity(x: Side, y: Side) -> Tensor:
    """Return s_ii, (B,) float32."""
    dots = torch.empty_like(x.inverse)
    _run("own_products", x.vectors, y.vectors, dots)
    return dots * x.inverse * y.inverse


def through_lengths(gradient: Tensor, side: Side, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn g = dL/d unit(x) (B, D padded) float32 into dL/dx = (g - (g . u) u) / ||x||, (B, D), in `dtype`."""
    result = torch.empty(len(gradient), side.D, dtype=dtype, device=gradient.device)
    _run("through_lengths", result, gradient, side.vectors, side.inverse, side.power)
    return result


def _run(kernel: str, rows: Tensor, padded: Tensor, *others: Tensor) -> None:
    """Run a kernel of `kernels` for each of `rows` (B, D); `padded` has the padded width."""
    from mmts.losses.fused.triton import kernels  # imports Triton, which not every machine has

    width = padded.shape[1]
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        getattr(kernels, kernel)[(len(rows),)](
            rows, padded, *others, D=rows.shape[1], D_PADDED=width, WIDTH=1 << (width - 1).bit_length()
        )
