"""Millions of pairs on disk; a pair becomes a Python object only when it is used."""

import hashlib
import json
import shutil
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.records import Dataset, Medium, Split
from mmts.errors import DataError, quoted
from mmts.files import atomic_folder, read_json, write_json

Rows = npt.NDArray[np.int64]
# The id, the caption, the path relative to the table's root, the split, and `member` as in `Medium`.
PairRow = tuple[str, str, str, str, tuple[int, int] | None]

_FORMAT = 5
_ABOUT = "table.json"
_PAIRS = "pairs.jsonl"  # by line: [id, caption, path, member]
_COLUMNS = "columns"
_ROW = np.dtype(
    [
        ("end", "<i8"),  # of the line in pairs.jsonl
        ("file", "<i4"),  # the same for consecutive pairs in one file
        ("split", "<i1"),  # the number of its name
        # 64 bits of BLAKE2b: among 3 million different captions any two are equal with a chance of 2 in 10 million
        ("caption_hash", "<i8"),
    ]
)
_PACKED = struct.Struct("<qibq")


class PairTable:
    """N pairs of one image and one caption, read from a folder that `write_pair_table` wrote.

    Attributes:
        root: the folder that the paths of the files are relative to.
        splits: the names of the splits, in the order of their numbers.
        about: the notes of the writer, as JSON values.
        file, split, caption_hash: (N,) see `_ROW`.
    """

    def __init__(self, folder: Path, splits: Sequence[str] | None = None) -> None:
        """Open the table, with other names for its splits if given. Raises DataError if it is missing or damaged."""
        self.folder = folder
        try:
            about = read_json(folder / _ABOUT)
            self.root = Path(about["root"])
            self.splits: tuple[str, ...] = tuple(splits or about["splits"])
            self.about: dict[str, Any] = about["about"]
            columns = _mapped(folder / _COLUMNS, _ROW)
            self._lines = _mapped(folder / _PAIRS, np.dtype("u1"))
            is_whole = about["format"] == _FORMAT and about["lengths"] == [len(columns), len(self._lines)]
        except (OSError, DataError, KeyError, TypeError, ValueError):
            is_whole = False
        if not is_whole:
            raise DataError(f"{folder} is damaged, or was written by another version of mmts; remove it")
        self._end: Rows = columns["end"]
        self.file: npt.NDArray[np.int32] = columns["file"]
        self.split: npt.NDArray[np.int8] = columns["split"]
        self.caption_hash: Rows = columns["caption_hash"]

    def __len__(self) -> int:
        return len(self._end)

    def __reduce__(self) -> tuple[type["PairTable"], tuple[Path, tuple[str, ...]]]:
        # A worker process maps the files itself: their contents are not sent to it.
        return PairTable, (self.folder, self.splits)

    def medium(self, row: int) -> Medium:
        """Return a pair as a medium with one caption."""
        identity, caption, path, member = self._line(row)
        place = None if member is None else (member[0], member[1])
        return Medium(identity, self.root / path, (caption,), split=self.splits[self.split[row]], member=place)

    def identity(self, row: int) -> str:
        """Return the id of a pair."""
        return str(self._line(int(row))[0])

    def caption(self, row: int) -> str:
        """Return the caption of a pair."""
        return str(self._line(row)[1])

    def _line(self, row: int) -> Any:
        start = self._end[row - 1] if row else 0
        return json.loads(self._lines[start : self._end[row]].tobytes())

    def media_of(self, rows: npt.NDArray[np.integer[Any]] | None = None) -> "LazySequence":
        """Return the media of these rows, or of all."""
        return LazySequence(self.medium, np.arange(len(self)) if rows is None else rows)


class LazySequence(Sequence[Any]):
    """The results of `make` for some rows, computed on access; a slice is another such sequence."""

    def __init__(self, make: Callable[[int], Any], rows: npt.NDArray[np.integer[Any]] | range) -> None:
        self._make, self._rows = make, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return LazySequence(self._make, self._rows[at])
        return self._make(int(self._rows[at]))


class TableSplit(Split):
    """Some rows of a table as a split: every pair is a medium with one caption, made on access."""

    media_checked = True  # every image was decoded before the table was written

    def __init__(self, name: str, table: PairTable, rows: npt.NDArray[np.integer[Any]]) -> None:
        if len(table) < 2**32:
            rows = rows.astype(np.uint32, copy=False)  # there may be hundreds of millions of them
        self.name, self.table, self.rows, self.graded = name, table, rows, None
        self.media = table.media_of(rows)
        self.captions = LazySequence(table.caption, rows)
        file = table.file[rows]
        starts = 1 + np.flatnonzero(file[1:] != file[:-1])
        if 1 + len(starts) < len(rows):
            self.shard_sizes = np.diff(starts, prepend=0, append=len(rows)).tolist()

    def ids(self) -> Iterator[str]:
        """Yield the id of each medium."""
        return map(self.table.identity, self.rows)

    def text_numbers(self, captions: Rows) -> Rows:
        """Return the hash of each of these captions, (n,)."""
        hashes: Rows = self.table.caption_hash[self.rows[captions]]
        return hashes

    @cached_property
    def text(self) -> Tensor:
        """(N,) int64: equal numbers mean equal caption strings."""
        return torch.from_numpy(np.unique(self.table.caption_hash[self.rows], return_inverse=True)[1].astype(np.int64))

    def _drop(self, dropped: Rows) -> Split:
        return TableSplit(self.name, self.table, np.delete(self.rows, dropped))


@dataclass(frozen=True)
class TableDataset(Dataset):
    """A data set in a table; `media` makes each medium on access."""

    table: PairTable = field(kw_only=True)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of media by split: train, val and test first."""
        counts = np.bincount(self.table.split, minlength=len(self.table.splits)).tolist()
        return {name: count for name, count in zip(self.table.splits, counts, strict=True) if count}

    def _tables(self, name: str | None) -> Split:
        if name is None:
            return TableSplit("all", self.table, np.arange(len(self.table)))
        return TableSplit(name, self.table, np.flatnonzero(self.table.split == self.table.splits.index(name)))

    def _renamed_media(self, new: Mapping[str, str]) -> dict[str, Any]:
        table = PairTable(self.table.folder, [new.get(name, name) for name in self.table.splits])
        return {"table": table, "media": table.media_of()}


def write_pair_table(
    folder: Path,
    root: Path,
    splits: Sequence[str],
    pairs: Iterable[PairRow],
    finish: Callable[[Path], Mapping[str, Any]] = lambda folder: {},
) -> None:
    """Write pairs in bounded memory: the table is at `folder` once all are written; if anything fails, nothing is.

    `root` is an absolute folder. Pairs in one file should follow each other. After the last of them `finish` may add
    files to the folder that it is given; it returns the `about` of the table. Raises DataError if the table cannot be
    written, or two pairs have the same id.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)  # a reader that has mapped the old files can still read them
        with atomic_folder(folder) as temporary:
            file, end, last_path, id_hashes = -1, 0, None, array("q")
            with open(temporary / _PAIRS, "wb") as lines, open(temporary / _COLUMNS, "wb") as columns:
                for identity, caption, path, split, member in pairs:
                    file += path != last_path
                    last_path = path
                    line = json.dumps([identity, caption, path, member], ensure_ascii=False) + "\n"
                    end += lines.write(line.encode("utf-8", "surrogatepass"))
                    columns.write(_PACKED.pack(end, file, splits.index(split), text_hash(caption)))
                    id_hashes.append(text_hash(identity))
            about = finish(temporary)
            head = {"format": _FORMAT, "lengths": [len(id_hashes), end], "root": str(root), "splits": list(splits)}
            write_json(temporary / _ABOUT, {**head, "about": about})
            _check_ids(PairTable(temporary), np.array(id_hashes, dtype=np.int64))
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(folder.parent):
            raise  # the pairs could not be read
        raise cannot_write(folder, error) from None


def _check_ids(table: PairTable, hashes: Rows) -> None:
    order = np.argsort(hashes, kind="stable")
    for at in np.flatnonzero(np.diff(hashes[order]) == 0).tolist():
        first, second = (table.medium(int(row)) for row in order[at : at + 2])
        if first.id == second.id:
            raise DataError(f"{second.path}: the id {quoted(second.id)} is there already, in {first.path}")


def cannot_write(folder: Path, error: OSError) -> DataError:
    """Return the error for an index that cannot be written."""
    return DataError(f"cannot write the index {folder}: {error.strerror or error}; MMTS_CACHE names another folder")


def text_hash(text: str) -> int:
    """Return 64 bits of BLAKE2b as a signed number."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _mapped(file: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.memmap(file, kind, mode="r") if file.stat().st_size else np.empty(0, kind)
