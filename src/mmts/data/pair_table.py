"""Millions of pairs on disk: columns that are memory-mapped, so that no pair becomes a Python object before use."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
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

_FORMAT = 3  # another number where readers take other pairs than they did: kept tables are then made again
_ABOUT = "table.json"
_BUFFERED = 1 << 14  # pairs held back before they are written
_COPIED = 1 << 20  # numbers copied at a time
# Column of text -> its bytes lie in NAME.bytes, and where each one ends, as a running sum, in NAME.ends.
_TEXTS = ("id", "caption", "file")
_NUMBERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "file_of_pair": ("<i4", ()),
    "member": ("<i8", (2,)),  # byte offset and length; -1 -1 for a file of its own
    "split": ("<i1", ()),
    "caption_hash": ("<i8", ()),
}
_WHOLE_FILE = (-1, -1)


class PairTable:
    """N pairs of one image and one caption, read from a folder that `write_pair_table` wrote.

    Attributes:
        folder: where the columns lie.
        root: what the paths of the files are relative to.
        splits: the names of the splits, in the order of their numbers.
        about: what its writer noted, as JSON values.
        file: (N,) int32 number of the file that each pair's image lies in.
        member: (N, 2) int64 byte offset and length in that file; -1 where the file is the image.
        split: (N,) int8 number of its split.
        caption_hash: (N,) int64; captions of one number are the same (by 64 bits of BLAKE2b: among 3 million different
            captions two share a number with a chance of 2 in 10 million).
    """

    def __init__(self, folder: Path, splits: Sequence[str] | None = None) -> None:
        """Read the table, with other names for its splits where they are given.

        Raises DataError where the folder holds no table, or a damaged one.
        """
        self.folder = folder
        try:
            about = read_json(folder / _ABOUT)
            self.root = Path(about["root"])
            self.splits: tuple[str, ...] = tuple(splits or about["splits"])
            self.about: dict[str, Any] = about["about"]
            form, rows, files = int(about["format"]), int(about["rows"]), int(about["files"])
            self._bytes = {name: _mapped(folder / f"{name}.bytes", "u1") for name in _TEXTS}
            self._ends = {name: _mapped(folder / f"{name}.ends", "<i8") for name in _TEXTS}
            columns = {name: _mapped(folder / name, kind, shape) for name, (kind, shape) in _NUMBERS.items()}
        except (OSError, DataError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder} is no table of pairs, or a damaged one ({error}); remove it") from None
        self.file, self.member = columns["file_of_pair"], columns["member"]
        self.split, self.caption_hash = columns["split"], columns["caption_hash"]
        lengths = {name: len(column) for name, column in columns.items()}
        lengths |= {name: len(self._ends[name]) for name in ("id", "caption")}
        whole = all(len(self._bytes[name]) == (ends[-1] if len(ends) else 0) for name, ends in self._ends.items())
        if form != _FORMAT:
            raise DataError(f"{folder} was written by another version of mmts; remove it")
        if set(lengths.values()) != {rows} or len(self._ends["file"]) != files or not whole:
            raise DataError(f"{folder} is a damaged table of pairs: its columns differ in length; remove it")

    def __len__(self) -> int:
        return len(self.split)

    def with_splits(self, names: Sequence[str]) -> "PairTable":
        """Return the same table with other names for its splits, in their order."""
        return PairTable(self.folder, names)

    def __reduce__(self) -> tuple[type["PairTable"], tuple[Path, tuple[str, ...]]]:
        # A worker process maps the files anew instead of being sent their contents.
        return PairTable, (self.folder, self.splits)

    def identity(self, row: int) -> str:
        """Return the id of a pair."""
        return self._text("id", row).decode()

    def caption(self, row: int) -> str:
        """Return the caption of a pair."""
        return self._text("caption", row).decode()

    def path(self, file: int) -> Path:
        """Return the path of a file by its number."""
        return self.root / os.fsdecode(self._text("file", file))

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
        """Return the captions of these rows (of all), each made when it is asked for."""
        return LazySequence(self.caption, np.arange(len(self)) if rows is None else rows)

    def media_of(self, rows: Rows | None = None) -> "LazySequence[Medium]":
        """Return the media of these rows (of all), each made when it is asked for."""
        return LazySequence(self.medium, np.arange(len(self)) if rows is None else rows)

    def text_numbers(self, rows: Rows) -> Tensor:
        """Return (len(rows),) int64: equal numbers are equal captions."""
        return torch.from_numpy(np.unique(self.caption_hash[rows], return_inverse=True)[1].astype(np.int64))

    def split_sizes(self) -> dict[str, int]:
        """Return the pairs of each split that has any."""
        counts = np.bincount(self.split, minlength=len(self.splits)).tolist()
        return {name: count for name, count in zip(self.splits, counts, strict=True) if count}

    def rows_of(self, split: str) -> Rows:
        """Return the rows of a split, in order; none where there is no such split."""
        return np.flatnonzero(self.split == (self.splits.index(split) if split in self.splits else -1))

    def repeated_id(self) -> tuple[int, int] | None:
        """Return two rows with the same id, or None where every id is there once."""
        hashes = np.fromiter((text_hash(self._text("id", row)) for row in range(len(self))), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        for at in np.flatnonzero(np.diff(hashes[order]) == 0).tolist():
            first, second = int(order[at]), int(order[at + 1])
            if self.identity(first) == self.identity(second):
                return first, second
        return None

    def _text(self, column: str, at: int) -> bytes:
        ends = self._ends[column]
        return self._bytes[column][ends[at - 1] if at else 0 : ends[at]].tobytes()


class LazySequence(Sequence[T], Generic[T]):
    """The values that `make` gives for some rows, made one at a time; a slice is another such sequence."""

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
    """Takes pairs one by one, or a whole table, and writes them to the columns of a new one in bounded memory."""

    def __init__(self, folder: Path, root: Path, splits: Sequence[str], files: Mapping[str, IO[bytes]]) -> None:
        """Use `write_pair_table`, which opens `files`."""
        self.about: dict[str, Any] = {}
        self.folder = folder
        self._root = root
        self._splits = list(splits)
        self._files = files
        self._texts: dict[str, list[bytes]] = {name: [] for name in _TEXTS}
        self._last_end = dict.fromkeys(_TEXTS, 0)
        self._numbers: dict[str, list[Any]] = {name: [] for name in _NUMBERS}
        self._num_files = self._rows = 0

    def add_file(self, path: str) -> int:
        """Take the path of a file, relative to the root, and return its number."""
        self._texts["file"].append(os.fsencode(path))
        self._num_files += 1
        return self._num_files - 1

    def add(self, identity: str, caption: str, file: int, split: str, member: tuple[int, int] | None = None) -> None:
        """Take one pair; `file` is a number that `add_file` gave."""
        text = caption.encode()
        self._texts["id"].append(identity.encode())
        self._texts["caption"].append(text)
        values = (file, member or _WHOLE_FILE, self._splits.index(split), text_hash(text))
        for column, value in zip(self._numbers.values(), values, strict=True):
            column.append(value)
        self._rows += 1
        if len(self._numbers["split"]) >= _BUFFERED:
            self._flush()

    def extend(self, table: PairTable, split: str | None = None) -> None:
        """Take all pairs of another table, putting them into `split` where one is given."""
        self._flush()
        numbers = np.array([self._splits.index(name) for name in table.splits], dtype="<i1")
        if split is not None:
            numbers[:] = self._splits.index(split)
        first_file = self._num_files
        for number in range(len(table._ends["file"])):
            self.add_file(os.path.relpath(table.path(number), self._root))
        for name in ("id", "caption"):
            _copy(self._files[f"{name}.bytes"], table._bytes[name], lambda part: part)
            _copy(self._files[f"{name}.ends"], table._ends[name], partial(np.add, self._last_end[name]))
            self._last_end[name] += len(table._bytes[name])
        _copy(self._files["file_of_pair"], table.file, lambda part: part + np.int32(first_file))
        _copy(self._files["member"], table.member, lambda part: part)
        _copy(self._files["split"], table.split, lambda part: numbers[part])
        _copy(self._files["caption_hash"], table.caption_hash, lambda part: part)
        self._rows += len(table)
        self._flush()

    def _flush(self) -> None:
        for name, texts in self._texts.items():
            ends = self._last_end[name] + np.cumsum([len(text) for text in texts], dtype="<i8")
            self._files[f"{name}.bytes"].write(b"".join(texts))
            self._files[f"{name}.ends"].write(ends.tobytes())
            if len(ends):
                self._last_end[name] = int(ends[-1])
            texts.clear()
        for name, (kind, _) in _NUMBERS.items():
            self._files[name].write(np.array(self._numbers[name], dtype=kind).tobytes())
            self._numbers[name].clear()

    def _finish(self) -> None:
        self._flush()
        about = {
            "format": _FORMAT,
            "rows": self._rows,
            "files": self._num_files,
            "root": str(self._root),
            "splits": self._splits,
            "about": self.about,
        }
        (self.folder / _ABOUT).write_text(json.dumps(about, indent=2), encoding="utf-8")


@contextmanager
def write_pair_table(
    folder: Path, root: Path, splits: Sequence[str], check: Callable[["PairTable"], None] | None = None
) -> Iterator[PairWriter]:
    """Open a writer of a table; it stands at `folder`, in place of what was there, once the body has ended.

    Where the body raises, or `check` of the whole table, `folder` is left as it was.

    Args:
        folder: the new table.
        root: an absolute folder that the files' paths are relative to.
        splits: the names of all splits that pairs may have.
        check: gets the finished table before it stands at `folder`.

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
            files = {name: stack.enter_context(open(temporary / name, "wb")) for name in _column_files()}
            writer = PairWriter(temporary, root, splits, files)
            yield writer
            writer._finish()
        if check is not None:
            check(PairTable(temporary))
        _put(temporary, folder)
    except OSError as error:
        if error.filename is not None and not Path(error.filename).is_relative_to(folder.parent):
            raise  # the body's own trouble with another file
        raise DataError(
            f"cannot write the index {folder}: {error.strerror or error}; MMTS_CACHE names another folder"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def opened(folder: Path, about: Mapping[str, Any] | None = None) -> PairTable | None:
    """Return the table in a folder; None where there is none, a damaged one, or one that notes other values."""
    try:
        table = PairTable(folder)
    except DataError:
        return None
    return table if all(table.about.get(name) == value for name, value in (about or {}).items()) else None


def text_hash(text: bytes) -> int:
    """Return 64 bits of BLAKE2b as a signed number.

    >>> text_hash(b"a cat") == text_hash("a cat".encode()), text_hash(b"a cat") == text_hash(b"a dog")
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _column_files() -> list[str]:
    return [*(f"{name}{suffix}" for name in _TEXTS for suffix in (".bytes", ".ends")), *_NUMBERS]


def _mapped(file: Path, kind: str, shape: tuple[int, ...] = ()) -> npt.NDArray[Any]:
    items = file.stat().st_size // (np.dtype(kind).itemsize * int(np.prod(shape)))
    if items == 0:  # an empty file cannot be mapped
        return np.empty((0, *shape), dtype=kind)
    return np.memmap(file, dtype=kind, mode="r", shape=(items, *shape))


def _copy(target: IO[bytes], source: npt.NDArray[Any], change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    for start in range(0, len(source), _COPIED):
        target.write(change(source[start : start + _COPIED]).tobytes())


def _put(temporary: Path, folder: Path) -> None:
    """Give a finished table its name; one that stood there goes, though who has it open reads on."""
    temporary.chmod(0o755)
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        os.rename(folder, old / "old")
        os.rename(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
