"""Arrays on disk, computed once: memory-mapped, keyed by content, resumed after an interrupt."""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmts.console import errors, progress_bar
from mmts.errors import InputError
from mmts.files import cache_root, content_hash, locked

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.float32]


def cached_rows(
    name: str,
    keys: Sequence[str],
    width: int,
    compute: Callable[[Sequence[str]], npt.NDArray[np.floating]],
    *,
    unit: str,
    chunk: int,
) -> Rows:
    """Return the features (N, width) float32 of N keys; `compute` gives those of keys that the cache lacks.

    They are kept in `features/` of the cache by `stored_array`, which explains `unit` and `chunk`. `name` is that of
    the encoder, weights and preprocessing; `keys` are the contents that rows are computed from: captions, or hashes of
    files. Raises InputError if `compute` returns another shape, or a NaN or infinite row.
    """

    def checked(part: range) -> Rows:
        rows = np.asarray(compute(keys[part.start : part.stop]), dtype=np.float32)
        if rows.shape != (len(part), width):
            raise InputError(f"{len(part)} rows of width {width} were expected; the result has shape {rows.shape}")
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise InputError(f"the features of row {part[int(np.argmin(finite))]} are NaN or infinite")
        return rows

    final, shape, dtype = cached_file(name, keys), (len(keys), width), np.dtype(np.float32)
    return stored_array(final, shape, dtype, checked, title=f"encoding {unit}", unit=unit, chunk=chunk)


def cached_file(name: str, keys: Sequence[str]) -> Path:
    """Return the file in which `cached_rows` keeps the rows of these keys."""
    return cache_root() / "features" / f"{content_hash(name, *keys)}.npy"


def stored_array(
    final: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    compute: Callable[[range], Array],
    *,
    title: str | None,
    unit: str,
    chunk: int,
) -> Array:
    """Return the array in a .npy file of this shape and type, computing only the entries that the file lacks.

    The array is memory-mapped copy-on-write. An incomplete file ends in `.partial`; the next call resumes it. If a disk
    is full or read-only, standard error says so once and the rest is computed in memory. Processes that want the same
    file wait for each other.

    Args:
        final: the file; its name must contain everything that `compute` depends on.
        compute: gets a range of positions in the first dimension and returns their entries (len(range), ...).
        title: of the progress bar, which counts the noun `unit`; None if `compute` has a bar of its own.
        chunk: entries computed and written at a time; an interrupt loses at most one chunk.
    """
    if shape[0] == 0:
        return np.empty(shape, dtype)
    if (array := _complete(final, shape, dtype)) is not None:
        return array
    partial = final.with_suffix(".partial")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    file: BinaryIO | None = None
    on_disk = 0  # entries in the file
    in_memory: list[Array] = []  # entries that cannot be written
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(final.with_suffix(".lock"), wait=True))
            # Another process may have finished the file while this one waited for the lock.
            if (array := _complete(final, shape, dtype)) is not None:
                partial.unlink(missing_ok=True)
                return array
            file = stack.enter_context(open(partial, "a+b", buffering=0))
            on_disk = _whole_entries(file, header.getvalue(), shape, dtype)
        except OSError as error:
            file = None
            _say_unwritable(final.parent, error.strerror)
        bar = None if title is None else stack.enter_context(progress_bar(title, shape[0], unit, on_disk))
        for start in range(on_disk, shape[0], chunk):
            part = range(start, min(start + chunk, shape[0]))
            entries = np.ascontiguousarray(compute(part), dtype)
            if file is not None:
                try:
                    _write(file, entries.tobytes())
                    os.fsync(file.fileno())
                    on_disk = part.stop
                except OSError as error:
                    file = None
                    _say_unwritable(final.parent, error.strerror)
            if file is None:
                in_memory.append(entries)
            if bar is not None:
                bar.advance(len(part))
        if file is None:
            stored = [np.memmap(partial, dtype, "r", header.tell(), (on_disk, *shape[1:]))] if on_disk else []
            return np.concatenate([*stored, *in_memory])
        os.replace(partial, final)
        result: Array = np.lib.format.open_memmap(final, mode="c")
        return result


def _complete(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """Map a finished file; None if it is missing or damaged."""
    try:
        array: Array = np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _whole_entries(file: BinaryIO, header: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Count the whole entries in a partial file, and cut off the torn end of an interrupted write."""
    file.seek(0)
    if file.read(len(header)) != header:
        file.truncate(0)
        _write(file, header)
    size = int(np.prod(shape[1:])) * dtype.itemsize
    count = min((os.fstat(file.fileno()).st_size - len(header)) // size, shape[0])
    file.truncate(len(header) + count * size)
    return count


@cache  # says it once
def _say_unwritable(folder: Path, why: str | None) -> None:
    errors.print(f"cannot write the feature cache {folder} ({why}): computing in memory")


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`: an unbuffered file may take only a part at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
