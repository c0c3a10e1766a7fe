"""Embeddings that others or `mmts embed` stored: folders of parts, clip-retrieval's folders, .npy files, parquet."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.cluster.embed import ABOUT, FOLDERS, open_folder
from mmts.concepts.kmeans import StoredRows, open_rows
from mmts.data.formats.parquet import open_parquet
from mmts.errors import DataError, nearest
from mmts.files import atomic_write, cache_root, content_hash, why_missing

_ROWS = 8192  # of parquet at a time
_CAPTIONS = ("caption", "text", "TEXT")


class JoinedRows:
    """Arrays (n, W), one after the other, as k-means reads one array (N, W); only what is asked for is read."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        self.arrays, self.dtype = arrays, np.result_type(*arrays)
        self._ends = np.cumsum([len(array) for array in arrays])
        self.shape = int(self._ends[-1]), int(arrays[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: slice | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        rows = np.arange(len(self))[at] if isinstance(at, slice) else at
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        of = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(of).tolist():
            inside, array = of == number, self.arrays[number]
            result[inside] = array[rows[inside] - (self._ends[number] - len(array))]
        return result


@dataclass(frozen=True)
class Stored:
    """Embeddings (N, W) and where their captions are."""

    rows: StoredRows
    tables: tuple[Path, ...] = ()  # parquet files with the same rows

    @cached_property
    def caption_column(self) -> str | None:
        """The column of captions that all tables have."""
        common = {*_CAPTIONS} if self.tables else set()
        for file in self.tables:
            with open_parquet(file) as table:
                common &= {*table.schema_arrow.names}
        return next((name for name in _CAPTIONS if name in common), None)

    def captions(self) -> Iterator[str]:
        """Yield the captions, file by file."""
        for file in self.tables:
            with open_parquet(file) as table:
                for batch in table.iter_batches(columns=[self.caption_column]):
                    yield from (str(caption or "") for caption in batch.column(0).to_pylist())


def open_stored(path: Path, column: str = "embedding") -> Stored:
    """Open the embeddings of texts at a path; nothing is read into memory yet.

    path: a .npy file, a parquet file or a folder of them, whose `column` holds lists of numbers, or a folder with
        text_emb/*.npy (and metadata/*.parquet), as `mmts embed` and clip-retrieval write it.

    Raises DataError naming a file that is missing, damaged, of another width, or of another length than its table.
    """
    if path.is_dir() and (arrays := sorted((path / FOLDERS["text"]).glob("*.npy"))):
        tables, rows = sorted((path / "metadata").glob("*.parquet")), _joined(arrays)
        if (path / ABOUT).is_file() and (found := len(rows.values)) != (wanted := open_folder(path).num_rows):
            raise DataError(f"{path} has {found:,} of {wanted:,} rows; `mmts embed --join {path}` names missing parts")
        if tables:
            _check_fit(tables, arrays)
        return Stored(rows, tuple(tables))
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not path.exists() or not files:
        why = f"has no {FOLDERS['text']}/*.npy and no *.parquet" if path.is_dir() else why_missing(path)
        raise DataError(f"{path} {why}; it must hold embeddings of texts (docs/scaling.md)")
    if files[0].suffix == ".npy":
        return Stored(open_rows(path))
    arrays = [_as_array(file, column) for file in files]
    name = content_hash(*(array.stem for array in arrays))  # not of the copies, which every machine makes for itself
    return Stored(StoredRows(_joined(arrays).values, name), tuple(files))


def _joined(files: Sequence[Path]) -> StoredRows:
    parts = [open_rows(file) for file in files]
    widths = [part.values.shape[1] for part in parts]
    for file, width in zip(files, widths, strict=True):
        if width != widths[0]:
            raise DataError(f"{file} has rows of {width} numbers, and {files[0]} of {widths[0]}")
    values: Any = JoinedRows([part.values for part in parts])
    return StoredRows(values, content_hash(*(part.file for part in parts)))


def _check_fit(tables: Sequence[Path], arrays: Sequence[Path]) -> None:
    """Raise DataError naming a table beside arrays that is missing, or that has other rows than its array."""
    if len(tables) != len(arrays):
        folders = arrays[0].parent, tables[0].parent
        raise DataError(f"{folders[0]} has {len(arrays)} files and {folders[1]} {len(tables)}; one is missing")
    for table, array in zip(tables, arrays, strict=True):
        with open_parquet(table) as opened:
            counts = opened.metadata.num_rows, len(np.load(array, mmap_mode="r"))
        if counts[0] != counts[1]:
            raise DataError(f"{table} has {counts[0]:,} rows, and {array} has {counts[1]:,}")


def _as_array(file: Path, column: str) -> Path:
    """Return a .npy file of the cache with a parquet file's column of lists in float16, written once."""
    state = file.stat()
    key = content_hash(str(file.absolute()), str(state.st_size), str(state.st_mtime_ns), column)
    target = cache_root() / "concepts" / f"{key}.npy"
    if target.exists():
        return target
    with open_parquet(file) as table:
        if column not in (names := table.schema_arrow.names):
            raise DataError(f"{file} has no column {column!r}; {nearest(column, names)} (--column NAME names it)")
        width = None
        with atomic_write(target) as output:
            for batch in table.iter_batches(batch_size=_ROWS, columns=[column]):
                try:
                    lists = batch.column(0).to_numpy(zero_copy_only=False)
                    rows = np.stack([np.asarray(row, np.float16) for row in lists])
                except (TypeError, ValueError):
                    rows = np.empty(0, np.float16)
                if rows.ndim != 2 or width not in (None, rows.shape[1]):
                    raise DataError(f"{file}: {column!r} does not hold lists of numbers, all of one length")
                if width is None:
                    width = rows.shape[1]
                    about = {"descr": "<f2", "fortran_order": False, "shape": (table.metadata.num_rows, width)}
                    np.lib.format.write_array_header_1_0(output, about)
                output.write(rows.tobytes())
            if width is None:
                raise DataError(f"{file} has no rows")
    return target
