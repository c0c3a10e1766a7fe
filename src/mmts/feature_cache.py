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
    """Return the (M, width) float32 features of M keys, computing only what the cache does not hold.

    The file is `features/<content_hash(name, *keys)>.npy` under `mmts.files.cache_root()`; the rest as in
    `stored_array`.

    Args:
        name: What computes the rows: encoder, weights, preprocessing. Another name is another file.
        keys: (M,) what each row is computed from: a caption, or the hash of a file's contents. Order matters.
        width: Numbers in a row.
        compute: Gets a range of positions in `keys`, returns their rows (len(range), width).
        unit: What is counted in the progress bar, for instance "captions".
        chunk: Rows computed, written and lost on an interrupt at a time.

    Raises:
        InputError: `compute` returned another shape, or a NaN or infinite row.

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
    return stored_array(
        cache_root() / "features" / f"{content_hash(name, *keys)}.npy",
        (len(keys), width),
        np.dtype(np.float32),
        lambda part: _checked(compute(part), part, width),
        title=f"encoding {unit}",
        unit=unit,
        chunk=chunk,
    )


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
    """Return the array in a .npy file of this shape and type, computing only what the file does not hold.

    It is memory-mapped copy-on-write: writing into the result does not change the file. Until it is complete it is
    called `.partial`: an interrupted call leaves that behind and the next call continues it. Where it cannot be
    written (full or read-only disk) that is said once on standard error and the rest is computed in memory. Processes
    that want the same file wait for each other.

    Args:
        final: The file; its name must say all that `compute` depends on.
        shape: (M, ...); nothing is written where M is 0.
        dtype: Of its numbers.
        compute: Gets a range of positions below M, returns their entries (len(range), ...).
        title: What the progress bar says; None where `compute` has a bar of its own.
        unit: What the bar counts.
        chunk: Entries computed, written and lost on an interrupt at a time.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "squares.npy"
    >>> squares = lambda part: np.array([i * i for i in part])
    >>> stored_array(file, (4,), np.dtype("<i4"), squares, title="squaring", unit="numbers", chunk=2).tolist()
    [0, 1, 4, 9]
    """
    if shape[0] == 0:
        return np.empty(shape, dtype)
    if (found := _complete(final, shape, dtype)) is not None:
        return found
    partial = _Partial(final.with_suffix(".partial"), shape, dtype)
    try:
        # Another process may have finished the file while this one waited for the lock.
        if (found := _complete(final, shape, dtype)) is not None:
            partial.remove()
            return found
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
    """A .npy file that grows by whole entries; those that cannot be written are kept in memory instead."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.done = 0
        self.memory: list[Array] = []
        self.file: BinaryIO | None = None
        self.lock = ExitStack()
        try:
            waiting = locked(path.with_suffix(".lock"), lambda held: console.print(f"note: waiting: {held}"))
            self.lock.enter_context(waiting)
            self.file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
            self.done = self._resume(self.file)
        except OSError as error:
            self._fail(error)

    def _resume(self, file: BinaryIO) -> int:
        """Return how many whole entries are there, cutting off the torn end of an interrupted write."""
        header = _header(self.shape, self.dtype)
        file.seek(0)
        if file.read(len(header)) != header:
            file.truncate(0)
            _write(file, header)
            return 0
        size = self._entry() * self.dtype.itemsize
        done = min((os.fstat(file.fileno()).st_size - len(header)) // size, self.shape[0])
        file.truncate(len(header) + done * size)
        return done

    def _entry(self) -> int:
        """Return how many numbers an entry has."""
        return int(np.prod(self.shape[1:]))

    def append(self, rows: Array) -> None:
        if self.file is not None:
            try:
                _write(self.file, rows.tobytes())
                os.fsync(self.file.fileno())
            except OSError as error:
                self._fail(error)
            else:
                self.done += len(rows)
                return
        self.memory.append(rows)

    def finish(self, final: Path) -> Array:
        """Rename the whole file, or put together what is on disk and what is in memory."""
        if self.file is not None:
            os.replace(self.path, final)
            if (found := _complete(final, self.shape, self.dtype)) is None:
                raise OSError(f"{final} was changed while it was written")
            return found
        rows = np.concatenate(self.memory)
        if self.done:
            header = len(_header(self.shape, self.dtype))
            on_disk = np.fromfile(self.path, self.dtype, self.done * self._entry(), offset=header)
            rows = np.concatenate([on_disk.reshape(self.done, *self.shape[1:]), rows])
        return rows

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.lock.close()

    def _fail(self, error: OSError) -> None:
        """Go on in memory; what is on disk already stays there for the next call."""
        global _warned
        if not _warned:
            errors.print(f"cannot write the feature cache {self.path.parent} ({error.strerror}): computing in memory")
            _warned = True
        if self.file is not None:
            self.file.close()
            self.file = None


def _complete(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """Map a finished file; None where there is none, or one that is not what it should be."""
    try:
        array: Array = np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _checked(rows: npt.NDArray[np.floating], part: range, width: int) -> Rows:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if rows.shape != (len(part), width):
        raise InputError(f"{len(part)} rows of width {width} were to be computed; the result has shape {rows.shape}")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InputError(f"the features of row {part[int(np.argmin(finite))]} are NaN or infinite")
    return rows


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    file = io.BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`: an unbuffered file may take only a part at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
