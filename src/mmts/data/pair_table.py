"""Millions of pairs on disk as memory-mapped columns; a pair becomes a Python object only when it is used."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.records import Dataset, Medium, Split
from mmts.errors import DataError, InputError
from mmts.files import atomic_folder, read_json

Rows = npt.NDArray[np.int64]
T = TypeVar("T")

_FORMAT = 4
_ABOUT = "table.json"
_BUFFERED = 1 << 14  # pairs that are held in memory before they are written
_WHOLE_FILE = (-1, -1)
# The file "texts" holds the id and the caption of each pair, the file "paths" the path of each file.
_RECORDS = {
    "pairs": np.dtype(
        [
            ("start", "<i8"),  # of the id in "texts"; the caption follows it
            ("id_length", "<i4"),
            ("caption_length", "<i4"),
            ("file", "<i4"),
            ("member", "<i8", (2,)),  # byte offset and length in the file; -1 -1 if the file is the image
            ("split", "<i1"),
            # 64 bits of BLAKE2b: among 3 million different captions any two are equal with a chance of 2 in 10 million
            ("caption_hash", "<i8"),
        ]
    ),
    "files": np.dtype([("start", "<i8"), ("length", "<i4")]),
    "texts": np.dtype("u1"),
    "paths": np.dtype("u1"),
}


class PairTable:
    """N pairs of one image and one caption, read from a folder that `write_pair_table` wrote.

    Attributes:
        root: the folder that the paths of the files are relative to.
        splits: the names of the splits, in the order of their numbers.
        about: the notes of the writer, as JSON values.
        file: (N,) int32, the number of the file with each pair's image.
        split: (N,) int8, the number of its split.
        caption_hash: (N,) int64; equal numbers mean equal captions.
    """

    def __init__(self, folder: Path, splits: Sequence[str] | None = None) -> None:
        """Open the table, with other names for its splits if given. Raises DataError if it is missing or damaged."""
        self.folder = folder
        try:
            about = read_json(folder / _ABOUT)
            self.root = Path(about["root"])
            self.splits: tuple[str, ...] = tuple(splits or about["splits"])
            self.about: dict[str, Any] = about["about"]
            form, lengths = int(about["format"]), about["lengths"]
            columns = {name: _mapped(folder / name, kind) for name, kind in _RECORDS.items()}
        except (OSError, DataError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder} holds no table of pairs, or a damaged one ({error}); remove it") from None
        if form != _FORMAT:
            raise DataError(f"{folder} was written by another version of mmts; remove it")
        if {name: len(column) for name, column in columns.items()} != lengths:
            raise DataError(f"{folder} is a damaged table of pairs: its columns have the wrong length; remove it")
        self._pairs, self._files, self._texts, self._paths = columns.values()
        self.file: npt.NDArray[np.int32] = self._pairs["file"]
        self.split: npt.NDArray[np.int8] = self._pairs["split"]
        self.caption_hash: npt.NDArray[np.int64] = self._pairs["caption_hash"]

    def __len__(self) -> int:
        return len(self._pairs)

    def __reduce__(self) -> tuple[type["PairTable"], tuple[Path, tuple[str, ...]]]:
        # A worker process maps the files itself: their contents are not sent to it.
        return PairTable, (self.folder, self.splits)

    def identity(self, row: int) -> str:
        """Return the id of a pair."""
        start, length = self._pairs["start"][row], self._pairs["id_length"][row]
        return self._texts[start : start + length].tobytes().decode()

    def caption(self, row: int) -> str:
        """Return the caption of a pair."""
        start = self._pairs["start"][row] + self._pairs["id_length"][row]
        return self._texts[start : start + self._pairs["caption_length"][row]].tobytes().decode()

    def path(self, file: int) -> Path:
        """Return the path of a file by its number."""
        start, length = self._files[file].tolist()
        return self.root / os.fsdecode(self._paths[start : start + length].tobytes())

    def medium(self, row: int) -> Medium:
        """Return a pair as a medium with one caption."""
        offset, length = self._pairs["member"][row].tolist()
        return Medium(
            self.identity(row),
            self.path(int(self.file[row])),
            (self.caption(row),),
            split=self.splits[self.split[row]],
            member=None if offset < 0 else (offset, length),
        )

    def media_of(self, rows: Rows | None = None) -> "LazySequence[Medium]":
        """Return the media of these rows, or of all."""
        return LazySequence(self.medium, np.arange(len(self)) if rows is None else rows)

    def repeated_id(self) -> tuple[int, int] | None:
        """Return two rows with the same id, or None if every id is unique."""
        hashes = np.fromiter((_text_hash(self.identity(row).encode()) for row in range(len(self))), np.int64)
        order = np.argsort(hashes, kind="stable")
        for at in np.flatnonzero(np.diff(hashes[order]) == 0).tolist():
            first, second = int(order[at]), int(order[at + 1])
            if self.identity(first) == self.identity(second):
                return first, second
        return None


class LazySequence(Sequence[T], Generic[T]):
    """The results of `make` for some rows, computed on access; a slice is another such sequence."""

    def __init__(self, make: Callable[[int], T], rows: Rows) -> None:
        self._make = make
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return LazySequence(self._make, self._rows[at])
        return self._make(int(self._rows[at]))


class TableSplit(Split):
    """Some rows of a table as a split: every pair is a medium with one caption, made on access.

    `media_checked` is True because every image was decoded before the table was written.
    """

    media_checked = True

    def __init__(self, name: str, table: PairTable, rows: Rows) -> None:
        """Raises InputError without rows."""
        if not len(rows):
            raise InputError(f"split {name!r} needs at least one medium")
        self.name = name
        self.table = table
        self.rows = rows
        self.graded = None
        self.media = table.media_of(rows)
        self.captions = LazySequence(table.caption, rows)
        self.owner = self.first = torch.arange(len(rows))
        starts = np.flatnonzero(np.diff(table.file[rows], prepend=-1))
        if len(starts) < len(rows):
            self.shard_sizes = np.diff(starts, append=len(rows)).tolist()

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

    def _tables(self, name: str) -> Split:
        return TableSplit(name, self.table, np.flatnonzero(self.table.split == self.table.splits.index(name)))

    def _renamed_media(self, new: Mapping[str, str]) -> dict[str, Any]:
        table = PairTable(self.table.folder, [new.get(name, name) for name in self.table.splits])
        return {"table": table, "media": table.media_of()}

    def whole(self) -> Split:
        """Return all media as one split named "all"."""
        return TableSplit("all", self.table, np.arange(len(self.table)))


class PairWriter:
    """Writes pairs one by one into a new table in bounded memory; see `write_pair_table`."""

    def __init__(self, folder: Path, root: Path, splits: Sequence[str], opened: Mapping[str, IO[bytes]]) -> None:
        self.about: dict[str, Any] = {}
        self.folder = folder
        self._root = root
        self._splits = list(splits)
        self._opened = opened
        self._lengths = dict.fromkeys(_RECORDS, 0)  # with the buffered items
        self._buffered: dict[str, list[Any]] = {name: [] for name in _RECORDS}
        self._last_path: str | None = None

    def add(self, identity: str, caption: str, path: str, split: str, member: tuple[int, int] | None = None) -> None:
        """Add one pair; `path` is relative to the root. Pairs in one file should follow each other."""
        if path != self._last_path:
            name, self._last_path = os.fsencode(path), path
            self._add("files", (self._lengths["paths"], len(name)))
            self._add("paths", name, len(name))
        key, text, number = identity.encode(), caption.encode(), self._splits.index(split)
        start, file = self._lengths["texts"], self._lengths["files"] - 1
        self._add("pairs", (start, len(key), len(text), file, member or _WHOLE_FILE, number, _text_hash(text)))
        self._add("texts", key + text, len(key) + len(text))
        if len(self._buffered["pairs"]) >= _BUFFERED:
            self._flush()

    def _add(self, column: str, item: Any, length: int = 1) -> None:
        self._buffered[column].append(item)
        self._lengths[column] += length

    def _flush(self) -> None:
        for name, items in self._buffered.items():
            is_text = name in ("texts", "paths")
            self._opened[name].write(b"".join(items) if is_text else np.array(items, _RECORDS[name]).tobytes())
            items.clear()

    def _finish(self) -> None:
        self._flush()
        root, lengths = str(self._root), self._lengths
        about = {"format": _FORMAT, "lengths": lengths, "root": root, "splits": self._splits, "about": self.about}
        (self.folder / _ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")


@contextmanager
def write_pair_table(
    folder: Path, root: Path, splits: Sequence[str], check: Callable[["PairTable"], None] | None = None
) -> Iterator[PairWriter]:
    """Open a writer; its table is at `folder` once the body has ended and `check` has accepted it, else nothing is.

    Paths of files are relative to `root`, an absolute folder. `splits` are the names that pairs may have. Raises
    DataError if the table cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with write_pair_table(folder / "table", Path("/data"), ["train"]) as writer:
    ...     writer.add("1", "a cat", "00000.tar", "train", member=(512, 7))
    >>> PairTable(folder / "table").medium(0).member
    (512, 7)
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)  # a reader that has mapped the old files can still read them
        with atomic_folder(folder) as temporary:
            with ExitStack() as stack:
                files = {name: stack.enter_context(open(temporary / name, "wb")) for name in _RECORDS}
                writer = PairWriter(temporary, root, splits, files)
                yield writer
                writer._finish()
            if check is not None:
                check(PairTable(temporary))
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(folder.parent):
            raise  # the body failed on another file
        raise cannot_write(folder, error) from None


def opened(folder: Path, about: Mapping[str, Any] | None = None) -> PairTable | None:
    """Return the table in a folder; None if it is missing or damaged, or its writer noted other values than `about`."""
    try:
        table = PairTable(folder)
    except DataError:
        return None
    return table if all(table.about.get(name) == value for name, value in (about or {}).items()) else None


def cannot_write(folder: Path, error: OSError) -> DataError:
    """Return the error for an index that cannot be written."""
    return DataError(f"cannot write the index {folder}: {error.strerror or error}; MMTS_CACHE names another folder")


def _text_hash(text: bytes) -> int:
    """Return 64 bits of BLAKE2b as a signed number."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _mapped(file: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    items = file.stat().st_size // kind.itemsize
    return np.memmap(file, dtype=kind, mode="r", shape=(items,)) if items else np.empty(0, kind)  # none: no map
