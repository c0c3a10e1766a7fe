"""What all policies have in common: the call, and the checks of its arguments."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmts.errors import InputError, check_rows

SimilarityOf = Literal["batch", "queries", "positive pairs"]


class Policy(nn.Module):
    """Base of all policies: policy(progress, index, similarity=None) -> () or (B,) or (B, B), positive.

    Shapes: `progress` a float in [0, 1]; `index` (B,) int64, the samples' stable positions; `similarity` the cosines
    s_ij = cos(x_i, y_j) without gradient, given only if `uses_similarity` is True.
    """

    uses_similarity: bool = False

    words: str
    """What `in_words` of this class says, with its options in a recipe as {fields}; not of a subclass."""

    similarity_of: SimilarityOf = "batch"
    """The similarities that forward gets. "batch": all, (B, B). "queries", for a rule whose value of a pair depends on
    its own similarity alone: (B, B), or with several processes the rows of some queries, (2, b, B). "positive pairs":
    s_ii alone, (B,)."""

    @classmethod
    def in_words(cls, options: Mapping[str, Any]) -> str:
        """Say what these options of a recipe do, in words that can follow "temperature" or "margin"."""
        if "words" in vars(cls):  # a subclass may have other options
            return cls.words.format(**options)
        first = (cls.__doc__ or cls.__name__).strip().splitlines()[0].partition(" (")[0].removesuffix(".")
        return f"by {cls.__name__}: {first[0].lower()}{first[1:]}"

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the value of each sample of the batch."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what must follow an optimizer step, such as keeping a learned value in its bounds; usually nothing."""

    def extra_repr(self) -> str:
        """Show the settings in the module's repr: its public attributes."""
        shown = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


def check_index(index: Tensor, size: int, name: str = "index") -> Tensor:
    """Return `index` if it is (B,) integers in 0..size-1; otherwise raise InputError naming it and the row."""
    if index.ndim != 1 or index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InputError(f"{name} is {tuple(index.shape)} {index.dtype}; it must be (B,) of integers")
    inside = (index >= 0) & (index < size)
    check_rows(inside, f"{name}[{{row}}] is {{value}}; it must lie in 0..{size - 1}", index)
    return index


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """Return the rows of a table (N, ...) at index (B,), on the table's device; InputError for an index outside it."""
    return table[check_index(index, len(table)).to(table.device, torch.int64)]


def from_pair(option: str, value: float | None, what: str, run: Any) -> float | None:
    """Return a number of the pretrained pair that an option calls `pretrained`; None while the pair is not open yet.

    Raises InputError if there is no pair, or if it has no such number.
    """
    if value is None and not run.pair_is_unopened:
        raise InputError(
            f"{option} is pretrained, but the model starts from no pretrained pair that has a {what}: set model.start "
            f"to one, or {option} to a number"
        )
    return value


def scalar(value: float, index: Tensor) -> Tensor:
    """Return a value for all samples, shape (), in double precision if index's device has it."""
    # A float64 tensor without dimensions promotes no other dtype, so there is no need to round here.
    dtype = torch.float32 if index.device.type == "mps" else torch.float64
    return torch.tensor(value, dtype=dtype, device=index.device)
