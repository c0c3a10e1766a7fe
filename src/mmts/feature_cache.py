"""Rows of features on disk, computed once: memory-mapped, keyed by content, resumed after an interrupt."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mmts.console import errors, progress_bar
from mmts.errors import InputError
from mmts.files import cache_root, content_hash, lock

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

    The file is `features/<content_hash(name, *keys)>.npy` under `mmts.files.cache_root()`, memory-mapped copy-on-
    write: writing into the result does not change the file. Until it is complete it is called `.partial`: an
    interrupted call leaves that behind and the next call continues it. Where the cache cannot be written (full or
    read-only disk) that is said once on standard error and the rows are computed in memory. Processes that want the
    same rows wait for each other.

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
    shape = (len(keys), width)
    if len(keys) == 0:
        return np.empty(shape, np.float32)
    final = cache_root() / "features" / f"{content_hash(name, *keys)}.npy"
    if (found := _complete(final, shape)) is not None:
        return found
    partial = _Partial(final.with_suffix(".partial"), shape)
    try:
        # Another process may have finished the file while this one waited for the lock.
        if (found := _complete(final, shape)) is not None:
            partial.remove()
            return found
        with progress_bar(f"encoding {unit}", len(keys), unit, partial.done) as bar:
            for start in range(partial.done, len(keys), chunk):
                part = range(start, min(start + chunk, len(keys)))
                partial.append(_checked(compute(part), part, width))
                bar.advance(len(part))
        return partial.finish(final)
    finally:
        partial.close()


class _Partial:
    """A .npy file that grows by whole rows; rows that cannot be written are kept in memory instead."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self.path = path
        self.shape = shape
        self.done = 0
        self.memory: list[Rows] = []
        self.file: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
            lock(self.file)
            self.done = self._resume(self.file)
        except OSError as error:
            self._fail(error)

    def _resume(self, file: BinaryIO) -> int:
        """Return how many whole rows are there, cutting off the torn end of an interrupted write."""
        header = _header(self.shape)
        file.seek(0)
        if file.read(len(header)) != header:
            file.truncate(0)
            _write(file, header)
            return 0
        row = 4 * self.shape[1]
        done = min((os.fstat(file.fileno()).st_size - len(header)) // row, self.shape[0])
        file.truncate(len(header) + done * row)
        return done

    def append(self, rows: Rows) -> None:
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

    def finish(self, final: Path) -> Rows:
        """Rename the whole file, or put together what is on disk and what is in memory."""
        if self.file is not None:
            os.replace(self.path, final)
            if (found := _complete(final, self.shape)) is None:
                raise OSError(f"{final} was changed while it was written")
            return found
        rows = np.concatenate(self.memory)
        if self.done:
            count = self.done * self.shape[1]
            on_disk = np.fromfile(self.path, np.float32, count, offset=len(_header(self.shape)))
            rows = np.concatenate([on_disk.reshape(self.done, self.shape[1]), rows])
        return rows

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def _fail(self, error: OSError) -> None:
        """Go on in memory; the rows already on disk stay there for the next call."""
        global _warned
        if not _warned:
            errors.print(f"cannot write the feature cache {self.path.parent} ({error.strerror}): computing in memory")
            _warned = True
        if self.file is not None:
            self.file.close()
            self.file = None


def _complete(path: Path, shape: tuple[int, int]) -> Rows | None:
    """Map a finished file; None where there is none, or one that is not what it should be."""
    try:
        rows: Rows = np.lib.format.open_memmap(path, mode="c")
    except (OSError, ValueError):
        return None
    return rows if rows.shape == shape and rows.dtype == np.float32 else None


def _checked(rows: npt.NDArray[np.floating], part: range, width: int) -> Rows:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if rows.shape != (len(part), width):
        raise InputError(f"{len(part)} rows of width {width} were to be computed; the result has shape {rows.shape}")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise InputError(f"the features of row {part[int(np.argmin(finite))]} are NaN or infinite")
    return rows


def _header(shape: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    description = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all of `data`: an unbuffered file may take only a part at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
