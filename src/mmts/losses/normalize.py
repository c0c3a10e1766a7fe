"""Unit vectors, and the cosine similarities between two batches of them."""

import torch
from torch import Tensor


def unit(x: Tensor) -> Tensor:
    """Divide each vector by its length: x / ||x|| along the last dimension (docs/method.md, 4.1).

    `x` is (..., D) floating point of any norm, however large or small. A vector of zeros stays zero.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return unit_and_length(x)[0]


def unit_and_length(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the unit vectors (..., D) and two factors, each (..., 1), whose product is the vectors' length."""
    plain = x.detach()  # dividing by the largest component first, squares neither overflow nor underflow
    largest = torch.maximum(plain.amax(dim=-1, keepdim=True), -plain.amin(dim=-1, keepdim=True))
    largest = torch.where(largest > 0, largest, 1.0)
    x = x / largest
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    return x / length if x.requires_grad else x.div_(length), largest, length


def cosine_similarity(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosines of all x with all y, (B, D), (C, D) -> (B, C), in float32 at least (docs/method.md, 4.2)."""
    with torch.autocast(x.device.type, enabled=False):
        dtype = compute_dtype(x, y)
        return unit(x.to(dtype)) @ unit(y.to(dtype)).T


def pair_cosines(x: Tensor, y: Tensor) -> Tensor:
    """Return the cosines of the pairs x_i, y_i, (B,), in float32 at least."""
    with torch.autocast(x.device.type, enabled=False):
        dtype = compute_dtype(x, y)
        return torch.linalg.vecdot(unit(x.to(dtype)), unit(y.to(dtype)))  # type: ignore[no-any-return]


def compute_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the dtype that losses compute in: the wider of the two, and float32 at least."""
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
