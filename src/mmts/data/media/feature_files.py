"""Files of precomputed features: one .npy file per medium with (W,) or (T, W) numbers."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.data.media.read_warnings import kept_warnings
from mmts.data.records import Medium
from mmts.errors import DataError, InputError, shortened
from mmts.files import why_missing


def feature_rows(media: Sequence[Medium]) -> npt.NDArray[np.float32]:
    """Read one row of features for each medium: (M, W) float32; a file of (T, W) is averaged over T.

    Raises:
        DataError: naming a file that `why_unreadable_features` refuses, or one whose width differs from the first's.
    """
    if not media:
        raise InputError("feature_rows needs at least one medium")
    rows = np.empty((len(media), _read(media[0].path).shape[-1]), dtype=np.float32)
    for row, medium in zip(rows, media, strict=True):
        values = _read(medium.path)
        if values.shape[-1] != len(row):
            first = f"{media[0].path} is {len(row)}"
            raise DataError(f"{medium.path}: {values.shape[-1]} numbers wide, and {first}; all must agree")
        row[:] = values.mean(axis=0, dtype=np.float64) if values.ndim == 2 else values
    return rows


def why_unreadable_features(path: Path) -> str | None:
    """Return in words why a file is not a .npy file of finite numbers, (W,) or (T, W), or None if it is one.

    Nothing in the file is ever executed.
    """
    try:
        _read(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _read(path: Path) -> npt.NDArray[Any]:
    if not os.path.isfile(path):  # path.is_file() may raise
        raise DataError(f"{path}: {'is not a file' if os.path.exists(path) else why_missing(path, guess=False)}")
    if not path.stat().st_size:
        raise DataError(f"{path}: is empty (0 bytes)")
    try:
        with kept_warnings(path):
            values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged header raises almost anything
        if "pickle" in str(error):  # numpy takes every file but its own for a pickle, and advises how to load one
            raise DataError(f"{path}: {_why_pickled(path)}") from None
        raise DataError(
            f"{path}: is not a .npy file of numbers, or is truncated ({shortened(' '.join(str(error).split()))})"
        ) from None
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: is an archive (.npz); it should be one .npy file per medium")
    if values.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {values.dtype}, not numbers")
    if values.ndim not in (1, 2) or not values.size:
        raise DataError(f"{path}: has shape {values.shape}; it should be (W,) or (T, W)")
    with np.errstate(over="ignore"):
        if not np.isfinite(values.astype(np.float32)).all():
            raise DataError(f"{path}: holds values that are not finite in 32 bits")
    return values


def _why_pickled(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(6)
    if start == b"\x93NUMPY" or start[:1] == b"\x80":
        return "is not a .npy file of numbers: it holds Python objects, which are not read"
    return "is not a .npy file of numbers, or is truncated"
