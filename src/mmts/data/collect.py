"""What all readers share: reading lines of text, checking paths, cleaning captions, giving every medium a split."""

import ast
import hashlib
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmts.data.records import Dataset, Medium, split_name
from mmts.errors import DataError, quoted, shortened

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv"})
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")  # of what becomes a part of a path
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ABSOLUTE = re.compile(r"/|~/|[A-Za-z]:/|file:/", re.IGNORECASE)  # once backslashes are slashes
_STRING = r"""(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"|None|null|nan|NaN)"""
_LIST = re.compile(rf"\[\s*(?:{_STRING}(?:\s*,\s*|\s+|(?=\])))*\]")
MISSING_CAPTIONS = frozenset({"nan", "none", "null", "<na>", "n/a", "#n/a"})  # as programs write an empty cell
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


def check_is_text(path: Path, start: bytes) -> None:
    """Raise DataError, saying what to do, where a file that begins like this is compressed or UTF-16."""
    if kind := compression(start):
        workbook = " (an Excel workbook is a zip file too: save it as CSV UTF-8)" if kind == "zip" else ""
        raise DataError(f"{path} is compressed with {kind}; unpack it{workbook}")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        raise DataError(f"{path} is not UTF-8 but perhaps UTF-16; {_save_as_utf8(path)}")


def _save_as_utf8(path: Path) -> str:
    return f"save the file as UTF-8{'' if 'json' in path.suffix else ' (in Excel: CSV UTF-8, not Unicode Text or CSV)'}"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its end) of a UTF-8 file with or without byte order mark.

    Raises DataError where the file cannot be opened, is compressed or UTF-16, or naming the line that is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    check_is_text(path, line[:8])
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    around = line[max(error.start - 10, 0) : error.start + 10].decode("cp1252", "replace")
                    raise DataError(
                        f"{path}, line {number}: byte {error.start + 1} is not UTF-8 (in Windows-1252 it reads "
                        f"{quoted(around.strip())}); {_save_as_utf8(path)}"
                    ) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def inner_path(written: str, where: str, root: Path | None = None, folder: str = "") -> str:
    """Return a path as written, below `folder`, tidied; raise DataError where it is impossible or leads out.

    With a `root`, a path with backslashes or accents is spelled as the file there is, with slashes where there is none.
    The check is lexical: a symbolic link inside the root may lead wherever its owner pointed it.

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
    slashes = written.replace("\\", "/")
    if written.startswith(("data:image/", "{'bytes'")):  # the latter as Hugging Face's datasets write a table
        raise DataError(f"{where}: {quoted(written)} is an image, not a path; save it as a file and write its path")
    is_absolute = _ABSOLUTE.match(slashes) is not None
    if "://" in written and not is_absolute:
        raise DataError(
            f"{where}: {quoted(written)} is an address, not a path; download the files first, and write where each is"
        )
    tidy = os.path.normpath(os.path.join(folder, slashes))
    if is_absolute or tidy.split(os.sep, 1)[0] == "..":
        base = None if root is None else root / folder
        inside = None if base is None else _inside(slashes, base)
        if inside is not None:
            raise DataError(f"{where}: {quoted(written)}: paths are relative to {base}; write {quoted(inside)}")
        raise DataError(
            f"{where}: {quoted(written)} lies outside the data folder; paths are relative to it and stay inside"
        )
    as_written = os.path.normpath(os.path.join(folder, written))
    if root is None or (as_written == tidy and tidy.isascii()):
        return as_written
    spellings = [as_written, tidy, *(unicodedata.normalize(form, tidy) for form in ("NFC", "NFD"))]
    return next((each for each in spellings if os.path.lexists(root / each)), tidy)


def _inside(slashes: str, root: Path) -> str | None:
    """Return the path inside `root` that a whole path means: the longest end of it that exists there, if any."""
    parts = [part for part in slashes.removeprefix("file://").split("/") if part not in ("", ".", "..")]
    ends = ("/".join(parts[at:]) for at in range(len(parts)))
    there = next((end for end in ends if os.path.lexists(root / end)), None)
    below = f"/{'/'.join(parts)}"
    return there or (below.removeprefix(f"{root}/") if below.startswith(f"{root}/") else None)


def listed_captions(text: str) -> list[str] | None:
    """Return the captions of a text that is a flat list of strings, in JSON, Python or as numpy prints it; else None.

    >>> listed_captions("['a cat', 'a pet']"), listed_captions('["a", null]'), listed_captions("[a cat]")
    (['a cat', 'a pet'], ['a', ''], None)
    """
    if told := re.fullmatch(r'\{"text":\s*(\[.*\])\}', text):  # as Label Studio writes several texts
        text = told[1]
    if not (text.startswith("[") and _LIST.fullmatch(text)):
        return None
    try:
        return [_unquoted(each) for each in re.findall(_STRING, text)]
    except (ValueError, SyntaxError):
        return None


def _unquoted(written: str) -> str:
    """Return the string that JSON or Python writes like this, "" for a missing one."""
    if written[0] not in "'\"":
        return ""
    if written[0] == '"':
        try:
            return str(json.loads(written))
        except ValueError:
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of escapes that it does not know
        return str(ast.literal_eval(written))


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
        self._backslashes = self._accents = self._lists = 0
        self._broken_list: str | None = None

    def inner_path(self, written: str, where: str, folder: str = "") -> str:
        """Return a path as written, below `folder`, as `inner_path` does, and count what is spelled in another way."""
        path = inner_path(written, where, self.root, folder)
        backslashes = "\\" in written and "\\" not in path
        self._backslashes += backslashes
        self._accents += not backslashes and not path.isascii() and not path.endswith(os.path.normpath(written))
        return path

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
        inner = self.inner_path(path, where)
        texts = tuple(
            filter(None, (self._clean(text) for caption in captions for text in self._split_list(caption, where)))
        )
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

    def _split_list(self, caption: str, where: str) -> list[str]:
        """Return the captions of a cell that holds a list of them, else the caption alone."""
        text = clean_text(caption)
        texts = listed_captions(text)
        self._lists += texts is not None
        if texts is None and re.match(r"\[\s*['\"]", text) and text.endswith("]"):
            self._broken_list = self._broken_list or f"{where}: {shortened(text)}"
        return [caption] if texts is None else texts

    def _clean(self, caption: str) -> str:
        text = clean_text(caption)
        if text.lower() in MISSING_CAPTIONS:
            text = ""
        self._empty += not text
        self._cleaned += bool(text) and text != caption
        return text

    def _note_counts(self) -> None:
        if self._backslashes:
            self.notes.append(f"read {_count(self._backslashes, 'path')} written with backslashes as with slashes")
        if self._accents:
            self.notes.append(f"read {_count(self._accents, 'path')} with the accents composed as in the files' names")
        if self._lists:
            self.notes.append(f"{_count(self._lists, 'caption')} in the form of a list read as the captions in it")
        if self._broken_list:
            self.notes.append(f"taken as one caption, though it looks like a list that is broken: {self._broken_list}")
        if self._cleaned:
            self.notes.append(
                f"cleaned {_count(self._cleaned, 'caption')} of control characters, broken characters or outer spaces"
            )
        if self._empty:
            self.notes.append(f"dropped {_count(self._empty, 'empty caption')}")
        if self._beyond:
            self.notes.append(
                f"dropped {_count(self._beyond, 'caption')} of images judged by fewer, as in the published protocol"
            )
        if self._bare:
            self.notes.append(f"left out {_count(self._bare, 'medium', 'media')} without any caption")

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


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
