"""What all policies have in common: the call, and the checks of its arguments."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmts.errors import InputError, plain


class Policy(nn.Module):
    """Base of all policies: policy(progress, index, similarity=None) -> () or (B,) or (B, B), positive.

    Shapes: `progress` a float in [0, 1]; `index` (B,) int64, the samples' stable positions; `similarity` the cosines
    s_ij = cos(x_i, y_j) without gradient, given only if `uses_similarity` is True.
    """

    uses_similarity: bool = False

    similarity_of: Literal["batch", "queries", "positive pairs"] = "batch"
    """The similarities it needs. "batch": all, (B, B). "queries": the value of a pair follows from its own similarity;
    (B, B), or with several processes the rows of some queries, (2, b, B). "positive pairs": s_ii alone, (B,)."""

    @classmethod
    def in_words(cls, options: Mapping[str, Any]) -> str:
        """Say what these options of a recipe do, to follow "temperature" or "margin": the docstring's first line."""
        first = (cls.__doc__ or cls.__name__).strip().splitlines()[0].partition(" (")[0].removesuffix(".")
        return f"by {cls.__name__}: {first[0].lower()}{first[1:]}"

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the value of each sample of the batch."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what must follow an optimizer step, such as keeping a learned value in its bounds; usually nothing."""

    def extra_repr(self) -> str:
        """Show the settings in the module's repr: its public attributes."""
        settings = {
            name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"
        }
        return ", ".join(f"{name}={value}" for name, value in settings.items())


def check_index(index: Tensor, size: int, name: str = "index") -> Tensor:
    """Return `index` if it is (B,) integers in 0..size-1; otherwise raise InputError naming it and the row.

    >>> check_index(torch.tensor([0, 7]), 3)
    Traceback (most recent call last):
    mmts.errors.InputError: index[1] is 7; it must lie in 0..2
    """
    if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InputError(f"{name} is {tuple(index.shape)} {index.dtype}; it must be (B,) of integers")
    outside = (index < 0) | (index >= size)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise InputError(f"{name}[{row}] is {int(index[row])}; it must lie in 0..{size - 1}")
    return index


def check_similarity(owner: str, similarity: Tensor | None, index: Tensor) -> Tensor:
    """Return `similarity` if it has a shape that `Policy.similarity_of` names; otherwise raise InputError.

    >>> check_similarity("MACL", None, torch.tensor([0, 1]))
    Traceback (most recent call last):
    mmts.errors.InputError: MACL looks at the batch: give it the similarities, (2, 2)
    """
    B = len(index)
    if similarity is None:
        raise InputError(f"{owner} looks at the batch: give it the similarities, ({B}, {B})")
    shape = tuple(similarity.shape)
    if shape[-1:] != (B,) or (len(shape) == 2 and shape[0] != B) or not similarity.is_floating_point():
        raise InputError(
            f"{owner}: similarity is {shape} {similarity.dtype}; for a batch of {B} it must be ({B}, {B}), "
            "floating point"
        )
    return similarity


def check_positive(name: str, value: float) -> None:
    """Raise InputError, naming what it is, unless `value` is finite and positive."""
    if not 0 < value < math.inf:
        raise InputError(f"{name} is {plain(value)}; it must be finite and positive")


def scalar(value: float, index: Tensor) -> Tensor:
    """Return a value for all samples, shape (), in double precision if index's device has it."""
    # A float64 tensor without dimensions promotes no other dtype, so there is no need to round here.
    return torch.tensor(
        value, dtype=torch.float32 if index.device.type == "mps" else torch.float64, device=index.device
    )
