"""Arrays on disk, computed once: memory-mapped, keyed by content, resumed after an interrupt."""

import io
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmts.console import console, errors, progress_bar
from mmts.errors import InputError
from mmts.files import cache_root, content_hash, locked

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.float32]

_warned = False


def cached_rows(
    name: str,
    keys: Sequence[str],
    width: int,
    compute: Callable[[range], npt.NDArray[np.floating]],
    *,
    unit: str,
    chunk: int,
) -> Rows:
    """Return the features (N, width) float32 of N keys, computing only the rows that the cache lacks.

    They are kept in `features/<content_hash(name, *keys)>.npy` under `mmts.files.cache_root()`, as `stored_array` does.

    Args:
        name: Encoder, weights and preprocessing; another name is another file.
        keys: (N,) the contents that rows are computed from: captions, or hashes of files. Order matters.
        width: Numbers in a row.
        compute: Gets a range of positions in `keys`, returns their rows (len(range), width).
        unit: The noun that the progress bar counts, for instance "captions".
        chunk: Rows computed and written at a time; an interrupt loses at most one chunk.

    Raises InputError if `compute` returns another shape, or a NaN or infinite row.

    >>> import os, tempfile
    >>> os.environ["MMTS_CACHE"] = tempfile.mkdtemp()
    >>> def lengths(part):
    ...     print("computing", part)
    ...     return np.array([[len(["one", "three"][i])] for i in part])
    >>> cached_rows("lengths", ["one", "three"], 1, lengths, unit="words", chunk=1).ravel()
    computing range(0, 1)
    computing range(1, 2)
    memmap([3., 5.], dtype=float32)
    >>> cached_rows("lengths", ["one", "three"], 1, lengths, unit="words", chunk=1).ravel()
    memmap([3., 5.], dtype=float32)
    """

    def checked(part: range) -> Rows:
        rows = np.asarray(compute(part), dtype=np.float32)
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

    The array is memory-mapped copy-on-write: writing into it does not change the file. An incomplete file ends in
    `.partial`; the next call resumes it. If a disk is full or read-only, standard error says so once and the rest is
    computed in memory. Processes that want the same file wait for each other.

    Args:
        final: The file; its name must contain everything that `compute` depends on.
        shape: (N, ...); nothing is written if N is 0.
        dtype: Of its numbers.
        compute: Gets a range of positions below N, returns their entries (len(range), ...).
        title: Of the progress bar; None if `compute` has a bar of its own.
        unit: The noun that the bar counts.
        chunk: Entries computed and written at a time; an interrupt loses at most one chunk.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "squares.npy"
    >>> squares = lambda part: np.array([i * i for i in part])
    >>> stored_array(file, (4,), np.dtype("<i4"), squares, title="squaring", unit="numbers", chunk=2).tolist()
    [0, 1, 4, 9]
    """
    if shape[0] == 0:
        return np.empty(shape, dtype)
    if (array := _complete(final, shape, dtype)) is not None:
        return array
    partial = _Partial(final.with_suffix(".partial"), shape, dtype)
    try:
        # Another process may have finished the file while this one waited for the lock.
        if (array := _complete(final, shape, dtype)) is not None:
            partial.path.unlink(missing_ok=True)
            return array
        with nullcontext() if title is None else progress_bar(title, shape[0], unit, partial.done) as bar:
            for start in range(partial.done, shape[0], chunk):
                part = range(start, min(start + chunk, shape[0]))
                partial.append(np.ascontiguousarray(compute(part), dtype))
                if bar is not None:
                    bar.advance(len(part))
        return partial.finish(final)
    finally:
        partial.close()


class _Partial:
    """A .npy file that grows by whole entries; entries that cannot be written stay in memory."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.header = _header(shape, dtype)
        self.done = 0  # entries on disk
        self.memory: list[Array] = []
        self.file: BinaryIO | None = None
        self.lock = ExitStack()
        try:
            waiting = locked(path.with_suffix(".lock"), lambda holder: console.print(f"note: waiting: {holder}"))
            self.lock.enter_context(waiting)
            self.file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
            self._resume(self.file)
        except OSError as error:
            self._fail(error)

    def _resume(self, file: BinaryIO) -> None:
        """Keep the whole entries in the file, and cut off the torn end of an interrupted write."""
        file.seek(0)
        if file.read(len(self.header)) != self.header:
            file.truncate(0)
            _write(file, self.header)
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        done = min((os.fstat(file.fileno()).st_size - len(self.header)) // size, self.shape[0])
        file.truncate(len(self.header) + done * size)
        self.done = done

    def append(self, entries: Array) -> None:
        if self.file is not None:
            try:
                _write(self.file, entries.tobytes())
                os.fsync(self.file.fileno())
            except OSError as error:
                self._fail(error)
            else:
                self.done += len(entries)
                return
        self.memory.append(entries)

    def finish(self, final: Path) -> Array:
        """Rename the whole file, or join the entries on disk and in memory."""
        if self.file is not None:
            os.replace(self.path, final)
            array: Array = np.lib.format.open_memmap(final, mode="c")
            return array
        if self.done:
            count = self.done * int(np.prod(self.shape[1:]))
            on_disk = np.fromfile(self.path, self.dtype, count, offset=len(self.header))
            self.memory.insert(0, on_disk.reshape(self.done, *self.shape[1:]))
        return np.concatenate(self.memory)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.lock.close()

    def _fail(self, error: OSError) -> None:
        """Continue in memory; entries on disk stay there for the next call."""
        global _warned
        if not _warned:
            errors.print(f"cannot write the feature cache {self.path.parent} ({error.strerror}): computing in memory")
            _warned = True
        if self.file is not None:
            self.file.close()
            self.file = None


def _complete(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """Map a finished file; None if it is missing or damaged."""
    try:
        array: Array = np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`: an unbuffered file may take only a part at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
