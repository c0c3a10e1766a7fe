"""What all readers share: reading lines of text, checking paths, cleaning captions, giving every medium a split."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmts.data.records import Dataset, Medium, split_name
from mmts.errors import DataError, counted, quoted

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv"})
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")  # of what becomes a part of a path
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ABSOLUTE = re.compile(r"[\\/]|[A-Za-z]:[\\/]")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


def clean_text(text: str) -> str:
    r"""Turn control characters (NUL, tab, line ends, ...) into spaces and lone surrogates into U+FFFD, and strip.

    >>> clean_text("  a\x00cat\n"), clean_text("\ud83d"), clean_text("😀 שלום")
    ('a cat', '\ufffd', '😀 שלום')
    """
    if not text.isprintable():
        text = _LONE_SURROGATE.sub("\ufffd", _CONTROL.sub(" ", text))
    return text.strip()


def compression(start: bytes) -> str | None:
    """Return what a file that begins like this, and is not what it should be, is compressed with; None for nothing.

    >>> compression(b"\\x1f\\x8b\\x08\\x00"), compression(b"caption")
    ('gzip', None)
    """
    return next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its end) of a UTF-8 file with or without byte order mark.

    Raises DataError where the file cannot be opened or is compressed, or naming the line that is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            start = b""
            for number, line in enumerate(file, 1):
                start = start or line[:8]
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    if kind := compression(start):
                        raise DataError(f"{path} is compressed with {kind}; unpack it") from None
                    where = f"{path}, line {number}"
                    raise DataError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def inner_path(written: str, where: str) -> str:
    """Return a path as written, tidied, or raise DataError where it is empty, impossible or leads out of the folder.

    The check is lexical: a symbolic link inside the folder may lead wherever its owner pointed it.

    >>> inner_path("images//./a.jpg", "x.jsonl, line 3")
    'images/a.jpg'
    >>> inner_path("../a.jpg", "x.jsonl, line 3")
    Traceback (most recent call last):
    mmts.errors.DataError: x.jsonl, line 3: '../a.jpg' lies outside the data folder; ...
    """
    if not written.strip():
        raise DataError(f"{where}: the path is empty")
    try:
        os.fsencode(written)
    except UnicodeEncodeError:
        raise DataError(f"{where}: {quoted(written)} cannot be a path") from None
    if _CONTROL.search(written):
        raise DataError(f"{where}: {quoted(written)} cannot be a path: it holds a control character")
    tidy = os.path.normpath(written)
    if _ABSOLUTE.match(written) or re.split(r"[\\/]", tidy, maxsplit=1)[0] == "..":
        raise DataError(
            f"{where}: {quoted(written)} lies outside the data folder; paths are relative to it and stay inside"
        )
    return tidy


def find_file(folder: Path, places: Sequence[str], name: str) -> Path | None:
    """Return the first file of this name in the folders `places` inside `folder`, or None."""
    return next((file for inner in places if (file := folder / inner / name).is_file()), None)


class Collector:
    """Takes the media of one data set in file order, checks what concerns them all, and makes a Dataset of them."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path
        self.root = root
        self.notes: list[str] = []
        self._media: list[tuple[Medium, str]] = []
        self._seen: dict[str, str] = {}
        self._cleaned = self._empty = self._bare = self._beyond = 0

    def add(
        self,
        where: str,
        identity: str,
        path: str,
        captions: Sequence[str],
        *,
        kind: str,
        labels: Mapping[str, str],
        split: str | None,
        start: float | None = None,
        end: float | None = None,
        frames: tuple[int, int] | None = None,
        member: tuple[int, int] | None = None,
        keep: int | None = None,
    ) -> None:
        """Take one medium; `where` is its file and line, for messages. Raises DataError on an id already taken.

        `keep`: drop further captions than that many, and count them.
        """
        identity = clean_text(identity)
        if not identity:
            raise DataError(f"{where}: the id is empty")
        if identity in self._seen:
            raise DataError(f"{where}: the id {quoted(identity)} is there already, in {self._seen[identity]}")
        self._seen[identity] = where
        inner = inner_path(path, where)
        texts = tuple(filter(None, (self._clean(caption) for caption in captions)))
        if not texts:
            self._bare += 1
            return
        if keep is not None:
            self._beyond += len(texts[keep:])
            texts = texts[:keep]
        split = split_name(clean_text(split)) if split is not None and clean_text(split) else None
        labels = {clean_text(name): clean_text(value) for name, value in labels.items()}
        medium = Medium(identity, self.root / inner, texts, labels, split, kind, start, end, frames, member)
        self._media.append((medium, where))

    def finish(self) -> Dataset:
        """Return the data set, with 80/10/10 splits by a hash of the id where no medium has one.

        Raises DataError when nothing remains, or when some media have a split and others don't.
        """
        self._note_counts()
        if not self._media:
            why = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DataError(f"{self.path}: no medium with a caption in it{why}")
        media = self._with_splits()
        return Dataset(
            self.root.name or str(self.root), self.path, self.root, tuple(media), tuple(self.notes), self._empty
        )

    def _clean(self, caption: str) -> str:
        text = clean_text(caption)
        self._empty += not text
        self._cleaned += bool(text) and text != caption
        return text

    def _note_counts(self) -> None:
        if self._cleaned:
            self.notes.append(
                f"cleaned {counted(self._cleaned, 'caption')} of control characters, broken characters or outer spaces"
            )
        if self._empty:
            self.notes.append(f"dropped {counted(self._empty, 'empty caption')}")
        if self._beyond:
            self.notes.append(
                f"dropped {counted(self._beyond, 'caption')} of images judged by fewer, as in the published protocol"
            )
        if self._bare:
            self.notes.append(f"left out {counted(self._bare, 'medium', 'media')} without any caption")

    def _with_splits(self) -> list[Medium]:
        bare = [where for medium, where in self._media if medium.split is None]
        if not bare:
            return [medium for medium, _ in self._media]
        if len(bare) < len(self._media):
            others = len(self._media) - len(bare)
            raise DataError(
                f"{bare[0]}: no split here, while {others:,} of {len(self._media):,} media have one; "
                "give it to all or none"
            )
        media = [replace(medium, split=invented_split(medium.id)) for medium, _ in self._media]
        sizes = ", ".join(f"{name} {sum(each.split == name for each in media):,}" for name in ("train", "val", "test"))
        self.notes.append(f"the data has no splits: divided 80/10/10 by a hash of each medium's id ({sizes})")
        return media


def invented_split(text: str) -> str:
    """Return train, val or test (80/10/10) by a hash of `text`: the same on every machine and in every order.

    >>> [invented_split(text) for text in ("1", "2", "3")]
    ['test', 'train', 'train']
    """
    share = int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") / 2**64
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"


def kind_of(path: str) -> str:
    """Return "video" for a file name that ends like one, else "image"."""
    return "video" if Path(path).suffix.lower() in VIDEO_SUFFIXES else "image"
