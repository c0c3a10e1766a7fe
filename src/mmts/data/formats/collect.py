"""What all readers share: reading lines of text, checking paths, cleaning captions, giving every medium a split."""

import ast
import hashlib
import json
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmts.data.media.suffixes import kind_of
from mmts.data.records import SPLITS, Dataset, Label, Medium, split_name, values_of
from mmts.errors import DataError, counted, listed, plain, quoted

PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")  # for what becomes a part of a path
_MAX_FRAMES = 1_000_000  # of one clip: nine hours at 30 frames per second
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ABSOLUTE = re.compile(r"/|~/|[A-Za-z]:/|file:/", re.IGNORECASE)  # once backslashes are slashes
_STRING = r"""(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"|None|null|nan|NaN)"""
_LIST = re.compile(rf"\[\s*(?:{_STRING}(?:\s*,\s*|\s+|(?=\])))*\]")
MISSING_CAPTIONS = frozenset({"nan", "none", "null", "<na>", "n/a", "#n/a"})  # as programs write an empty cell
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
WITH_ARTICLE = {"image": "an image", "video": "a video"}
# The notes on what a Collector counts are printed in this order.
_COUNTED = {
    "backslashes": ("read {} written with backslashes as with slashes", "path"),
    "accents": ("read {} with the accents composed as in the files' names", "path"),
    "lists": ("{} in the form of a list read as the captions in it", "caption"),
    "cleaned": ("cleaned {} of control characters, broken characters or outer spaces", "caption"),
    "empty": ("dropped {}", "empty caption"),
    "beyond": ("dropped {} beyond the number per image in the published protocol", "caption"),
}
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {error.filename or path}: {error.strerror or error}") from None


def compression(start: bytes) -> str | None:
    """Return how a file with these first bytes is compressed, or None."""
    return next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its end) of a UTF-8 file with or without byte order mark.

    Raises DataError if the file cannot be opened, is compressed or UTF-16, or naming the line that is not UTF-8.
    """
    excel = "" if "json" in path.suffix else " (in Excel: CSV UTF-8, not Unicode Text or CSV)"
    remedy = f"save the file as UTF-8{excel}"
    with reading(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and (kind := compression(line)):
                workbook = " (an Excel workbook is a zip file too: save it as CSV UTF-8)" if kind == "zip" else ""
                raise DataError(f"{path} is compressed with {kind}; unpack it{workbook}")
            if number == 1 and (line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line[:4]):
                raise DataError(f"{path} is not UTF-8 but perhaps UTF-16; {remedy}")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                around = line[max(error.start - 10, 0) : error.start + 10].decode("cp1252", "replace")
                raise DataError(
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8 (in Windows-1252 it reads "
                    f"{quoted(around.strip())}); {remedy}"
                ) from None


def inner_path(written: str, where: str, root: Path | None = None, folder: str = "") -> str:
    """Return a path as written, below `folder`, normalized. Raises DataError if it is impossible or leads out.

    With a `root`, a path with backslashes or accents is spelled like the file there, or else with slashes. A symbolic
    link inside the root may lead anywhere.

    >>> inner_path("images//./a.jpg", "x.jsonl, line 3")
    'images/a.jpg'
    >>> inner_path("../a.jpg", "x.jsonl, line 3")
    Traceback (most recent call last):
    mmts.errors.DataError: x.jsonl, line 3: '../a.jpg' lies outside the data folder; ...
    """
    slashes = written.replace("\\", "/")
    tidy = os.path.normpath(os.path.join(folder, slashes))
    is_absolute = _ABSOLUTE.match(slashes) is not None
    why = None
    if not written.strip():
        raise DataError(f"{where}: the path is empty")
    if _CONTROL.search(written) or _LONE_SURROGATE.search(written):
        why = " cannot be a path"
    elif written.startswith(("data:image/", "{'bytes'")):  # the latter as Hugging Face's datasets write a table
        why = " is an image, not a path; save it as a file and write its path"
    elif "://" in written and not is_absolute:
        why = " is an address, not a path; download the files first, and write where each is"
    elif is_absolute or tidy.split(os.sep, 1)[0] == "..":
        why = " lies outside the data folder; paths are relative to it and stay inside"
        if root is not None and (inside := _inside(slashes, root / folder)):
            why = f": paths are relative to {root / folder}; write {quoted(inside)}"
    if why is not None:
        raise DataError(f"{where}: {quoted(written)}{why}")
    as_written = os.path.normpath(os.path.join(folder, written))
    if root is None or (as_written == tidy and tidy.isascii()):
        return as_written
    spellings = [as_written, tidy, *(unicodedata.normalize(form, tidy) for form in ("NFC", "NFD"))]
    return next((path for path in spellings if os.path.lexists(root / path)), tidy)


def _inside(slashes: str, root: Path) -> str | None:
    """Return the path inside `root` that an absolute path means: the longest end of it that exists there, if any."""
    parts = [part for part in slashes.removeprefix("file://").split("/") if part not in ("", ".", "..")]
    ends = ("/".join(parts[at:]) for at in range(len(parts)))
    there = next((end for end in ends if os.path.lexists(root / end)), None)
    below = f"/{'/'.join(parts)}"
    return there or (below.removeprefix(f"{root}/") if below.startswith(f"{root}/") else None)


def listed_strings(text: str) -> list[str] | None:
    """Return the strings in a list as JSON, Python or numpy writes it; None for any other text.

    >>> listed_strings("['a cat', 'a pet']"), listed_strings('["a", null]'), listed_strings("[a cat]")
    (['a cat', 'a pet'], ['a', ''], None)
    """
    if not (text.startswith("[") and _LIST.fullmatch(text)):
        return None
    try:
        return [_unquoted(item) for item in re.findall(_STRING, text)]
    except (ValueError, SyntaxError):
        return None


def _unquoted(written: str) -> str:
    """Return the text of a string as JSON or Python writes it; none for null, None and nan."""
    if written[0] not in "'\"":
        return ""
    with suppress(ValueError):
        return str(json.loads(written))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of unknown escapes
        return str(ast.literal_eval(written))


def find_file(folder: Path, places: Sequence[str], name: str) -> Path | None:
    """Return the first file of this name in the folders `places` inside `folder`, or None."""
    return next((file for inner in places if (file := folder / inner / name).is_file()), None)


def split_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder with names like train, val or test, in this order."""
    named = [item for item in folder.iterdir() if split_name(item.name) in SPLITS and item.is_dir()]
    return sorted(named, key=lambda item: (SPLITS.index(split_name(item.name)), item.name))


def notes_on_names(spellings: Mapping[str, Iterable[str]]) -> list[str]:
    """Return notes on the splits that have several names in the data; `spellings` are by our name."""
    names = {split: list(written) for split, written in spellings.items()}
    return [f"the splits {listed(written)} are one: {split}" for split, written in names.items() if len(written) > 1]


@dataclass
class _Entry:
    """A medium from all its lines so far; `where` is the first of them, `path` relative to the root."""

    where: str
    path: str
    medium: Medium
    lines: int = 1


class Collector:
    """Collects the media of a data set in file order, checks them, and makes a Dataset of them.

    With `merge`, lines of the same file and part of it are one medium with the captions of all; it keeps the id of the
    first line, and the labels that are equal in all. Without it every line is a medium.
    """

    def __init__(self, path: Path, root: Path, merge: bool = False) -> None:
        self.path, self.root, self._merge = path, root, merge
        self.notes: list[str] = []
        self._entries: list[_Entry] = []
        self._by_place: dict[tuple[object, ...], _Entry] = {}
        self._by_id: dict[str, _Entry] = {}
        self._by_path: dict[str, _Entry] = {}
        self._spellings: dict[str, dict[str, None]] = {}
        self._varying: dict[str, None] = {}
        self._ids_merged = False
        self._counts: Counter[str] = Counter()

    def add(
        self,
        where: str,
        identity: str | None,
        path: str,
        captions: Iterable[str],
        *,
        split: str | None,
        kind: str | None = None,
        labels: Mapping[str, Label] | None = None,
        folder: str = "",
        keep: int | None = None,
        **part: Any,
    ) -> Medium:
        """Add one medium, or more captions of one, and return what this line says about it.

        Raises DataError if another medium has the id, the part ends before it starts, or lines of one file differ in
        the split or the kind.

        Args:
            where: its file and line, for messages.
            identity, path, captions, kind, split, labels: see `Medium`; if the id is None it is the path, and if the
                kind is None the suffix says it.
            folder: the folder in the root that `path` is relative to.
            keep: the number of captions to keep; the others are counted. None keeps all.
            part: start, end, frames or member, see `Medium`.
        """
        inner = inner_path(path, where, self.root, folder)
        backslashes = "\\" in path and "\\" not in inner
        self._counts["backslashes"] += backslashes
        self._counts["accents"] += not (backslashes or inner.isascii() or inner.endswith(os.path.normpath(path)))
        identity = inner if identity is None else clean_text(identity)
        if not identity:
            raise DataError(f"{where}: the id is empty")
        texts = [text for caption in captions for text in self._texts(caption)]
        self._counts["beyond"] += len(texts) - len(texts[:keep])
        cleaned: dict[str, Label] = {}
        for name, value in (labels or {}).items():
            distinct = list(dict.fromkeys(map(clean_text, values_of(value))))
            cleaned[clean_text(name)] = distinct[0] if isinstance(value, str) else distinct
        written = clean_text(split or "")
        kind, split = kind or kind_of(inner), split_name(written) or None
        if split is not None:
            self._spellings.setdefault(split, {})[written] = None
        medium = Medium(identity, self.root / inner, (*texts[:keep],), cleaned, split, kind, **part)
        if medium.end is not None and medium.end <= (medium.start or 0):
            start = plain(medium.start or 0)
            raise DataError(f"{where}: the end, {plain(medium.end)} s, is not after the start, {start} s")
        first_frame, last_frame = medium.frames or (0, 0)
        if not 0 <= last_frame - first_frame < _MAX_FRAMES:
            raise DataError(f"{where}: the frames are {first_frame} to {last_frame}; a clip has 1 to {_MAX_FRAMES:,}")
        entry = _Entry(where, inner, medium)
        place = (inner, medium.start or 0, medium.end, medium.frames, medium.member)
        known = self._by_place.setdefault(place, entry) if self._merge else entry
        first = self._by_path.setdefault(inner, entry)
        if first.medium.kind != kind:
            here, there = WITH_ARTICLE[kind], WITH_ARTICLE[first.medium.kind]
            raise DataError(f"{where}: {quoted(inner)} is {here} here and {there} in {first.where}")
        if self._by_id.setdefault(identity, known) is not known:
            raise DataError(f"{where}: the id {quoted(identity)} is there already, in {self._by_id[identity].where}")
        if known is entry:
            self._entries.append(entry)
        else:
            self._merge_into(known, entry)
        return medium

    def finish(self) -> Dataset:
        """Return the data set, with 80/10/10 splits by a hash if no medium has a split.

        Raises DataError if no medium remains, or if only some media have a split.
        """
        entries = [entry for entry in self._entries if entry.medium.captions]
        self._note_counts()
        if bare := len(self._entries) - len(entries):
            self.notes.append(f"left out {counted(bare, 'medium', 'media')} without any caption")
        if not entries:
            why = f" ({'; '.join(self.notes)})" if self.notes else ""
            raise DataError(f"{self.path}: no medium with a caption in it{why}")
        self._fill_splits(entries)
        media, empty = tuple(entry.medium for entry in entries), self._counts["empty"]
        return Dataset(self.root.name or str(self.root), self.path, self.root, media, tuple(self.notes), empty)

    def _texts(self, caption: str) -> Iterator[str]:
        """Yield the cleaned captions in a text that is a list of them, else the caption alone; none if it is empty."""
        texts = listed_strings(clean_text(caption))
        self._counts["lists"] += texts is not None
        for written in [caption] if texts is None else texts:
            text = clean_text(written)
            if text and text.lower() not in MISSING_CAPTIONS:
                self._counts["cleaned"] += text != written
                yield text
            else:
                self._counts["empty"] += 1

    def _merge_into(self, known: _Entry, entry: _Entry) -> None:
        old, new = known.medium, entry.medium
        if old.split != new.split:
            here, there = (quoted(medium.split) if medium.split else "none" for medium in (new, old))
            raise DataError(
                f"{entry.where}: {quoted(entry.path)} has the split {here} here and {there} in {known.where}; "
                "all lines of a file need the same split"
            )
        known.lines += 1
        self._ids_merged |= old.id != new.id
        labels = {name: value for name, value in old.labels.items() if new.labels.get(name) == value}
        self._varying |= dict.fromkeys(name for name in {**old.labels, **new.labels} if name not in labels)
        known.medium = replace(old, captions=old.captions + new.captions, labels=labels)

    def _note_counts(self) -> None:
        merged = [entry.lines for entry in self._entries if entry.lines > 1]
        if merged:
            ids = "; each keeps the id of its first line" if self._ids_merged else ""
            self.notes.append(
                f"merged {sum(merged):,} lines that name the same files into {counted(len(merged), 'medium', 'media')} "
                f"with several captions{ids}"
            )
        if self._varying:
            names = ", ".join(map(repr, self._varying))
            self.notes.append(f"not used as labels, since they differ between the lines of one medium: {names}")
        self.notes += notes_on_names(self._spellings)
        counts = ((self._counts[name], note, what) for name, (note, what) in _COUNTED.items())
        self.notes += [note.format(counted(count, what)) for count, note, what in counts if count]

    def _fill_splits(self, entries: Sequence[_Entry]) -> None:
        bare = [entry for entry in entries if entry.medium.split is None]
        if not bare:
            return
        if len(bare) < len(entries):
            raise DataError(
                f"{bare[0].where}: no split here, while {len(entries) - len(bare):,} of {len(entries):,} media have "
                "one; give it to all or none"
            )
        clips, sizes = "", dict.fromkeys(SPLITS, 0)
        for entry in entries:
            medium, key = entry.medium, entry.medium.id
            if (medium.start, medium.end, medium.frames) != (None, None, None):
                # The clips of one video stay together, so that no scene of a test clip is trained on.
                key, clips = entry.path, ", for clips of their video's path"
            split = invented_split(key)
            sizes[split] += 1
            entry.medium = replace(medium, split=split)
        self.notes.append(note_on_invented(sizes, clips))


def note_on_invented(sizes: Mapping[str, int], clips: str = "") -> str:
    """Return the note on splits by `invented_split`."""
    listing = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    return f"the data has no splits: divided 80/10/10 by a hash of each medium's id{clips} ({listing})"


def invented_split(text: str) -> str:
    """Return train, val or test (80/10/10) by a hash of `text`: the same on every machine and in every order.

    >>> [invented_split(text) for text in ("1", "2", "3")]
    ['test', 'train', 'train']
    """
    share = int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "big") / 2**64
    return "train" if share < 0.8 else "val" if share < 0.9 else "test"
