"""Millions of pairs on disk as memory-mapped columns; a pair becomes a Python object only when it is used."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.records import Medium
from mmts.errors import DataError
from mmts.files import read_json

Rows = npt.NDArray[np.int64]
T = TypeVar("T")

_FORMAT = 4  # increase it when a reader takes other pairs than before: old tables are then rebuilt
_ABOUT = "table.json"
_BUFFERED = 1 << 14  # pairs that are held in memory before they are written
_COPIED = 1 << 18  # pairs, or bytes of text, that are copied at a time
_WHOLE_FILE = (-1, -1)
# The file "texts" holds the id and the caption of each pair, the file "paths" the path of each file.
_RECORDS = {
    "pairs": np.dtype(
        [
            ("start", "<i8"),  # of the id in "texts"; the caption follows it
            ("id_length", "<i4"),
            ("caption_length", "<i4"),
            ("file", "<i4"),
            ("member", "<i8", (2,)),
            ("split", "<i1"),
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
        folder: the folder of the columns.
        root: the folder that the paths of the files are relative to.
        splits: the names of the splits, in the order of their numbers.
        about: the notes of the writer, as JSON values.
        file: (N,) int32, the number of the file with each pair's image.
        member: (N, 2) int64, byte offset and length in that file; -1 if the file is the image.
        split: (N,) int8, the number of its split.
        caption_hash: (N,) int64; equal numbers mean equal captions (64 bits of BLAKE2b: among 3 million different
            captions the chance that any two share a number is 2 in 10 million).
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
        self.file, self.member = self._pairs["file"], self._pairs["member"]
        self.split, self.caption_hash = self._pairs["split"], self._pairs["caption_hash"]

    def __len__(self) -> int:
        return len(self._pairs)

    def with_splits(self, names: Sequence[str]) -> "PairTable":
        """Return the same table with other names for its splits, in their order."""
        return PairTable(self.folder, names)

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
        offset, length = self.member[row].tolist()
        return Medium(
            self.identity(row),
            self.path(int(self.file[row])),
            (self.caption(row),),
            split=self.splits[self.split[row]],
            member=None if offset < 0 else (offset, length),
        )

    def captions_of(self, rows: Rows | None = None) -> "LazySequence[str]":
        """Return the captions of these rows, or of all."""
        return LazySequence(self.caption, np.arange(len(self)) if rows is None else rows)

    def media_of(self, rows: Rows | None = None) -> "LazySequence[Medium]":
        """Return the media of these rows, or of all."""
        return LazySequence(self.medium, np.arange(len(self)) if rows is None else rows)

    def text_numbers(self, rows: Rows) -> Tensor:
        """Return (len(rows),) int64: equal numbers mean equal captions."""
        return torch.from_numpy(np.unique(self.caption_hash[rows], return_inverse=True)[1].astype(np.int64))

    def split_sizes(self) -> dict[str, int]:
        """Return the number of pairs of each split that is not empty."""
        counts = np.bincount(self.split, minlength=len(self.splits)).tolist()
        return {name: count for name, count in zip(self.splits, counts, strict=True) if count}

    def rows_of(self, split: str) -> Rows:
        """Return the rows of a split, in order; no rows for an unknown split."""
        return np.flatnonzero(self.split == (self.splits.index(split) if split in self.splits else -1))

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

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> "LazySequence[T]": ...

    def __getitem__(self, at: int | slice) -> "T | LazySequence[T]":
        if isinstance(at, slice):
            return LazySequence(self._make, self._rows[at])
        return self._make(int(self._rows[at]))


class PairWriter:
    """Writes pairs one by one, or whole tables, into a new table in bounded memory; see `write_pair_table`."""

    def __init__(self, folder: Path, root: Path, splits: Sequence[str], opened: Mapping[str, IO[bytes]]) -> None:
        self.about: dict[str, Any] = {}
        self.folder = folder
        self._root = root
        self._splits = list(splits)
        self._opened = opened
        self._lengths = dict.fromkeys(_RECORDS, 0)  # with the buffered items
        self._buffered: dict[str, list[Any]] = {name: [] for name in _RECORDS}

    def add_file(self, path: str) -> int:
        """Add the path of a file, relative to the root, and return its number."""
        data = os.fsencode(path)
        self._add("files", (self._lengths["paths"], len(data)))
        self._add("paths", data, len(data))
        return self._lengths["files"] - 1

    def add(self, identity: str, caption: str, file: int, split: str, member: tuple[int, int] | None = None) -> None:
        """Add one pair; `file` is a number that `add_file` returned."""
        key, text = identity.encode(), caption.encode()
        start, place, number = self._lengths["texts"], member or _WHOLE_FILE, self._splits.index(split)
        self._add("pairs", (start, len(key), len(text), file, place, number, _text_hash(text)))
        self._add("texts", key + text, len(key) + len(text))
        if len(self._buffered["pairs"]) >= _BUFFERED:
            self._flush()

    def extend(self, table: PairTable, split: str | None = None) -> None:
        """Add all pairs of another table, to `split` if given, else each to its own split."""
        numbers = np.array([self._splits.index(split or name) for name in table.splits], dtype="<i1")
        first_text, first_file = self._lengths["texts"], self._lengths["files"]
        for number in range(len(table._files)):
            self.add_file(os.path.relpath(table.path(number), self._root))
        self._flush()
        for start in range(0, len(table), _COPIED):
            pairs = table._pairs[start : start + _COPIED].copy()
            pairs["start"] += first_text
            pairs["file"] += first_file
            pairs["split"] = numbers[pairs["split"]]
            self._opened["pairs"].write(pairs.tobytes())
        for start in range(0, len(table._texts), _COPIED):
            self._opened["texts"].write(table._texts[start : start + _COPIED].tobytes())
        self._lengths["pairs"] += len(table)
        self._lengths["texts"] += len(table._texts)

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
    """Open a writer; its table replaces `folder` when the body has ended.

    If the body raises, or `check` of the finished table, `folder` is left unchanged.

    Args:
        folder: the new table.
        root: an absolute folder that the files' paths are relative to.
        splits: the names of all splits that pairs may have.
        check: called with the finished table before it replaces `folder`.

    Raises:
        DataError: the table cannot be written.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with write_pair_table(folder / "table", Path("/data"), ["train"]) as writer:
    ...     writer.add("1", "a cat", writer.add_file("00000.tar"), "train", member=(512, 7))
    >>> PairTable(folder / "table").medium(0).member
    (512, 7)
    """
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        with ExitStack() as stack:
            opened = {name: stack.enter_context(open(temporary / name, "wb")) for name in _RECORDS}
            writer = PairWriter(temporary, root, splits, opened)
            yield writer
            writer._finish()
        if check is not None:
            check(PairTable(temporary))
        temporary.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)  # a reader that has mapped the old files can still read them
        temporary.rename(folder)
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(folder.parent):
            raise  # the body failed on another file
        raise DataError(
            f"cannot write the index {folder}: {error.strerror or error}; MMTS_CACHE names another folder"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def opened(folder: Path, about: Mapping[str, Any] | None = None) -> PairTable | None:
    """Return the table in a folder; None if it is missing or damaged, or its writer noted other values than `about`."""
    try:
        table = PairTable(folder)
    except DataError:
        return None
    return table if all(table.about.get(name) == value for name, value in (about or {}).items()) else None


def _text_hash(text: bytes) -> int:
    """Return 64 bits of BLAKE2b as a signed number."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _mapped(file: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    items = file.stat().st_size // kind.itemsize
    return np.memmap(file, dtype=kind, mode="r", shape=(items,)) if items else np.empty(0, kind)  # none: no map
