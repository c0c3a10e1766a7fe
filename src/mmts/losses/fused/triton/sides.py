"""One side's embeddings as the Triton kernels read them, and the way back from them to dL/dx (docs/method.md, 4.18)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """One side's embeddings: unit(x) = vectors * inverse.

    Vectors are x times a power of two, hence exact in bfloat16 too, where unit vectors would be rounded: the cosine of
    bfloat16 embeddings is as exact as in float32, at tensor cores' speed. They are padded with zeros to whole 16 bytes.
    """

    vectors: Tensor  # (B, D padded)
    inverse: Tensor  # (B,) float32
    power: Tensor  # (B,) float32
    units: Tensor  # (B, D padded), in the vectors' dtype
    D: int


def side(x: Tensor, dtype: torch.dtype) -> Side:
    """Prepare embeddings (B, D) for the kernels in their dtype; a vector of zeros has the length 1, as in `unit`."""
    x = x.detach().to(dtype).contiguous()
    a_step = 16 // x.itemsize
    vectors, units = x.new_empty(2, len(x), -(-x.shape[1] // a_step) * a_step)
    inverse, power = torch.empty(2, len(x), dtype=torch.float32, device=x.device)
    _run("prepare_rows", x, vectors, units, inverse, power)
    return Side(vectors, inverse, power, units, x.shape[1])


def kernel_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the dtype that the kernels multiply in: bfloat16 where both sides are, else float32."""
    return torch.bfloat16 if x.dtype == y.dtype == torch.bfloat16 else torch.float32


def own_similarity(x: Side, y: Side) -> Tensor:
    """Return s_ii, (B,) float32."""
    dots = torch.empty_like(x.inverse)
    _run("own_products", x.vectors, y.vectors, dots)
    return dots * x.inverse * y.inverse


def through_lengths(gradient: Tensor, of: Side, dtype: torch.dtype) -> Tensor:
    """Turn g = dL/d unit(x) (B, D padded) float32 into dL/dx = (g - (g . u) u) / ||x||, (B, D) in a dtype."""
    out = torch.empty(len(gradient), of.D, dtype=dtype, device=gradient.device)
    _run("through_lengths", out, gradient, of.vectors, of.inverse, of.power)
    return out


def _run(kernel: str, rows: Tensor, padded: Tensor, *others: Tensor) -> None:
    """Run a kernel of `sample_kernels` for each of `rows` (B, D), with the width that `padded` has beside D."""
    from mmts.losses.fused.triton import sample_kernels  # needs Triton, which is there only where it is of use

    width = padded.shape[1]
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        getattr(sample_kernels, kernel)[(len(rows),)](
            rows, padded, *others, D=rows.shape[1], D_PADDED=width, WIDTH=1 << (width - 1).bit_length()
        )
