"""Labels and counts of any kind: tensors and scalars to plain Python values."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from mmts.errors import InputError


def plain_values(values: Iterable[Any], what: str) -> list[Hashable]:
    """Return hashable Python values of tensors, arrays and scalars; raise InputError naming the row of any other."""
    if isinstance(values, str | bytes):
        raise InputError(f"{what} are one string; they must be a sequence with one entry per sample")
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"{what} have shape {tuple(shape)}; they must have one dimension")
    try:
        items = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
    except TypeError:
        raise InputError(
            f"{what} are {type(values).__name__}; they must be a sequence with one entry per sample"
        ) from None
    return [_plain(value, what, row) for row, value in enumerate(items)]


def _plain(value: Any, what: str, row: int) -> Hashable:
    if type(value) in (str, int, bool) or value is None:  # nearly always
        return value  # type: ignore[no-any-return]
    if isinstance(value, tuple):
        return tuple(_plain(part, what, row) for part in value)
    if isinstance(value, Tensor) and value.numel() != 1:
        raise InputError(f"{what}: row {row} is a tensor of shape {tuple(value.shape)}, not one value")
    if isinstance(value, Tensor | np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    try:
        hash(value)
    except TypeError:
        raise InputError(f"{what}: row {row} is a {type(value).__name__}, which cannot be hashed") from None
    try:
        missing = bool(value != value)
    except TypeError:  # pandas.NA does not say whether it equals itself
        missing = True
    if missing:
        raise InputError(f"{what}: row {row} is NaN")
    return value  # type: ignore[no-any-return]


def count(value: Any, row: int) -> int:
    """Return a positive whole number as an int; raise InputError naming the row of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**63 or value != int(value):
        raise InputError(f"counts: row {row} is {value!r}; it must be a positive whole number")
    return int(value)
