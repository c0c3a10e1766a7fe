"""Labels of any kind: tensors and scalars to plain Python values, and those to JSON and back with their types."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from mmts.errors import InputError


def plain_values(values: Iterable[Any], what: str) -> list[Hashable]:
    """Turn tensors, arrays and their scalars into hashable Python values; NaN and the unhashable name their row."""
    if isinstance(values, str | bytes):
        raise InputError(f"{what} are one string; a sequence with one entry per sample is right")
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise InputError(f"{what} have shape {tuple(shape)}; one dimension is right")
    try:
        listed = values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)
    except TypeError as error:
        raise InputError(
            f"{what} are {type(values).__name__}; a sequence with one entry per sample is right"
        ) from error
    return [_plain(value, what, row) for row, value in enumerate(listed)]


def _plain(value: Any, what: str, row: int) -> Hashable:
    if type(value) in (str, int, bool) or value is None:  # nearly always
        return value  # type: ignore[no-any-return]
    if isinstance(value, tuple):
        return tuple(_plain(part, what, row) for part in value)
    if isinstance(value, Tensor | np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        if isinstance(value, Tensor) and value.numel() != 1:
            raise InputError(f"{what}: row {row} is a tensor of shape {tuple(value.shape)}, not one value")
        value = value.item()
    try:
        hash(value)
    except TypeError as error:
        raise InputError(f"{what}: row {row} is a {type(value).__name__}, which cannot be hashed") from error
    try:
        missing = bool(value != value)
    except TypeError:  # pandas.NA does not say whether it equals itself
        missing = True
    if missing:
        raise InputError(f"{what}: row {row} is NaN")
    return value  # type: ignore[no-any-return]


def count(value: Any, row: int) -> int:
    """Return a positive whole number as an int."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**63 or value != int(value):
        raise InputError(f"counts: row {row} is {value!r}; a positive whole number is right")
    return int(value)


def encode_key(key: Hashable) -> list[Any]:
    """Write a label with its type: JSON alone would lose tuples, infinities and keys of dictionaries."""
    if isinstance(key, tuple):
        return ["tuple", [encode_key(part) for part in key]]
    if type(key) is float:
        return ["float", key.hex()]
    if key is None or type(key) in (str, bool, int):
        return [type(key).__name__, key]
    raise InputError(
        f"the label {key!r} is a {type(key).__name__}; only str, int, float, bool, None and tuples of them can be saved"
    )


def decode_key(key: list[Any]) -> Hashable:
    """Undo `encode_key`.

    >>> decode_key(encode_key(("lamp", 2.5, None)))
    ('lamp', 2.5, None)
    """
    kind, value = key
    if kind == "tuple":
        return tuple(decode_key(part) for part in value)
    return float.fromhex(value) if kind == "float" else value
