"""Webdataset shards, as img2dataset writes them: tars of key.jpg, key.txt and key.json, scanned once."""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from braceexpand import braceexpand

from mmts.console import progress_bar
from mmts.data.formats.collect import clean_text, compression, notes_on_names, split_folders
from mmts.data.formats.pair_index import (
    NO_CAPTION,
    Pair,
    Piece,
    alone,
    index_piece,
    merge_pieces,
    table_dataset,
)
from mmts.data.media.suffixes import IMAGE_SUFFIXES, why_not_read
from mmts.data.media.threads import threads
from mmts.data.pair_table import PairTable, opened
from mmts.data.records import SPLITS, Dataset, split_name
from mmts.errors import DataError, listed, quoted
from mmts.files import cache_root, content_hash

IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_TEXTS = ("txt", "json")
_MOST_SHARDS = 100_000
_MOST_TEXT = 1 << 24  # bytes; a longer caption or .json is none
_BLOCK = 512
_LINKED = "with a link in place of a file (symbolic, or to a file that is not before it in its tar)"
_DOTTED = "whose file name has a second dot (webdataset ends the key at the first)"
Place = tuple[int, int] | None  # of a file in a tar: its offset and length; None for a link that leads nowhere there
_RANGE = re.compile(r"{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?}")
_WILD = re.compile(r"[*?\[]")
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]+")


class Shard(NamedTuple):
    """One tar, the split its name or folder gives (or None), and a hash of its path, size and time of change."""

    path: Path
    split: str | None
    key: str


def read_shards(path: str | Path) -> Dataset:
    """Read webdataset shards: a folder of .tar files, one of them, a glob, or braces ("shards/{00000..00331}.tar").

    A sample is an image (jpg, png, webp, ...), a caption (txt, or the "caption" of its json where that is missing
    or empty) and a json of which only `caption` and `status` count. What lacks one, or whose status is not "success",
    is left out and counted. The key, a file's name up to its first dot, is the sample's id; the files of one key stand
    together. Splits are the folders named train, val and test, or these words in the shards' names; else 80/10/10 by a
    hash of the key. A word that all names have and that does not tell them apart is of the data set's own name.

    Every shard is scanned once and its images decoded; the index is kept under the shard's path, size and time of
    change, so an interrupted scan goes on with the next shard.

    Raises:
        DataError: naming missing shards, a shard that is compressed or damaged (and at which byte), one in which the
            files of a key do not stand together, or two that hold the same key.
    """
    pattern = Path(os.path.abspath(Path(path).expanduser()))
    try:
        found = _find(pattern)
        shards = _with_splits(found, pattern)
        root = Path(os.path.commonpath([shard.path.parent for shard in shards]))
        names = [f"{shard.path}\0{shard.key}\0{shard.split}" for shard in shards]
        cache = cache_root() / "shards"
        folder = cache / f"all-{content_hash(*names)}"
        table = opened(folder)
        if table is None:
            with alone(cache):  # by now another process may have made it
                table = opened(folder) or merge_pieces(folder, root, _pieces(shards), {})
        return table_dataset(pattern, table, [*_notes_on_folders(pattern, found), *_failed_downloads(shards)])
    except OSError as error:
        raise DataError(f"cannot read {error.filename or pattern}: {error.strerror or error}") from None


def is_shard_pattern(path: str | Path) -> bool:
    """Say whether a path means shards: it ends in .tar, with braces or wildcards or without.

    >>> is_shard_pattern("shards/{00000..00331}.tar"), is_shard_pattern("captions.csv")
    (True, False)
    """
    return str(path).endswith(".tar")


def holds_shards(folder: Path) -> bool:
    """Say whether a folder, or one in it named like a split, has .tar files."""
    return bool(tars_in(folder))


def tars_in(folder: Path) -> list[Path]:
    """Return the .tar files of a folder and of those in it that are named like a split."""
    return [tar for each in [folder, *split_folders(folder)] for tar in _tars(each)]


def _find(pattern: Path) -> list[tuple[Path, str | None]]:
    """Return the shards meant, sorted, with the split of the folder they lie in."""
    if pattern.is_file():
        return [(pattern, None)]
    if pattern.is_dir():
        return _in_folder(pattern)
    found: list[Path] = []
    missing: list[Path] = []
    ranges = ((int(first), int(last), int(step or 1)) for first, last, step in _RANGE.findall(str(pattern)))
    # Each range becomes a list when it is expanded.
    is_short = all(abs(last - first) < _MOST_SHARDS * max(step, 1) for first, last, step in ranges)
    try:
        names = list(islice(braceexpand(str(pattern)), _MOST_SHARDS + 1)) if is_short else []
    except (ValueError, RecursionError):
        raise DataError(f'{pattern}: a brace is not closed; write shards like "shards/{{00000..00331}}.tar"') from None
    if not 0 < len(names) <= _MOST_SHARDS:
        raise DataError(f"{pattern} names more than {_MOST_SHARDS:,} shards")
    for name in names:
        matches = sorted(glob(name)) if _WILD.search(name) else [name] if os.path.isfile(name) else []
        found += map(Path, matches)
        if not matches:
            missing.append(Path(name))
    if missing and len(names) > 1:
        raise DataError(
            f"{pattern}: {len(missing):,} of the {len(names):,} shards are missing, the first is {missing[0]}"
        )
    if missing:
        raise DataError(f"{pattern}: there is no such shard")
    twice, count = Counter(found).most_common(1)[0]
    if count > 1:
        raise DataError(f"{pattern} names the shard {twice} {'twice' if count == 2 else f'{count:,} times'}")
    # The names of several folders tell the splits apart; the name of a single folder does not.
    folders = list({each.parent: None for each in found})
    said = dict(zip(folders, _splits_in_names([each.name for each in folders]), strict=True)) if folders[1:] else {}
    return [(each, said.get(each.parent)) for each in found]


def _in_folder(folder: Path) -> list[tuple[Path, str | None]]:
    here: list[tuple[Path, str | None]] = [(each, None) for each in _tars(folder)]
    inside: list[tuple[Path, str | None]] = [
        (each, split_name(part.name)) for part in split_folders(folder) for each in _tars(part)
    ]
    if here and inside:
        raise DataError(
            f"{folder} holds shards itself and in the folder {inside[0][0].parent.name}; keep them in one place"
        )
    if not here and not inside:
        raise DataError(f"{folder}: no .tar files in it, nor in folders named train, val and test")
    return here or inside


def _tars(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob("*.tar") if each.is_file() and not each.name.startswith("."))


def _with_splits(found: Sequence[tuple[Path, str | None]], pattern: Path) -> list[Shard]:
    """Give every shard the split of its folder, else the one its name has; all of them have one or none has."""
    in_names = _splits_in_names([path.stem for path, _ in found])
    splits = [folder or name for (_, folder), name in zip(found, in_names, strict=True)]
    bare = splits.count(None)
    if 0 < bare < len(splits):
        without, named = found[splits.index(None)][0], next(at for at, split in enumerate(splits) if split)
        raise DataError(
            f"{pattern}: {found[named][0].name} says that it is of {splits[named]}, {without.name} says nothing; "
            "name the split of all shards or of none"
        )
    shards = []
    for (path, _), split in zip(found, splits, strict=True):
        state = path.stat()
        shards.append(Shard(path, split, content_hash(str(path), str(state.st_size), str(state.st_mtime_ns), *IMAGES)))
    return shards


def _splits_in_names(names: Sequence[str]) -> list[str | None]:
    """Return the split that each name of a shard or folder says by a word in it.

    >>> _splits_in_names(["my-test-set-train-0", "my-test-set-validation-0"]), _splits_in_names(["latest-3"])
    (['train', 'val'], [None])
    """
    said = [{split for word in _WORD.findall(name) if (split := split_name(word)) in SPLITS} for name in names]
    common = set.intersection(*said)
    apart = [each if len(each) == 1 else each - common for each in said]
    return [each.pop() if len(each) == 1 else None for each in apart]


def _notes_on_folders(pattern: Path, found: Sequence[tuple[Path, str | None]]) -> list[str]:
    names: dict[str, dict[str, None]] = {}
    for path, split in found:
        if split is not None:
            names.setdefault(split, {})[path.parent.name] = None
    notes = notes_on_names(names)
    if names and pattern.is_dir():
        read = {path.parent for path, _ in found}
        others = [each.name for each in sorted(pattern.iterdir()) if each not in read and each.is_dir() and _tars(each)]
        if others:
            notes.append(f"left out the shards in {listed(others)}, as the folders are not named like a split")
    return notes


def _pieces(shards: Sequence[Shard]) -> Iterator[Piece]:
    with threads() as pool, progress_bar("indexing shards", len(shards), "shards") as bar:
        for shard in shards:
            yield Piece(_index(shard, pool), shard.split)
            bar.advance()


def _index(shard: Shard, pool: ThreadPoolExecutor) -> PairTable:
    """Return the table of one shard, from the cache where it is there."""
    folder = cache_root() / "shards" / shard.key
    table = opened(folder)
    if table is None:
        table = index_piece(folder, shard.path.parent, _samples(shard.path), pool, {"path": str(shard.path)})
    return table


def _samples(tar: Path) -> Iterator[Pair | str]:
    """Yield the samples of a tar in file order, or why one is left out.

    Raises DataError where the files of a sample do not stand next to each other.
    """
    try:
        yield from _read_samples(tar)
    except OSError as error:
        raise DataError(f"cannot read {tar}: {error.strerror or error}") from None


def _read_samples(tar: Path) -> Iterator[Pair | str]:
    with open(tar, "rb") as texts:
        key = ""
        parts: dict[str, Place] = {}
        dotted: set[str] = set()  # files that belong to another sample, of a key with a dot, or that add to this one
        done: set[str] = set()
        for name, byte, place in _members(tar):
            matched = _KEY.fullmatch(name)
            before, _, suffix = matched[2].lower().rpartition(".") if matched else ("", "", "")
            if matched is None or not (suffix in (*IMAGES, *_TEXTS) or why_not_read(name)):
                continue
            if matched[1] != key:
                yield from _finished(tar, texts, key, parts, dotted)
                if parts:
                    done.add(key)
                key, parts, dotted = matched[1], {}, set()
            if before:
                dotted.add(before)
                continue
            if key in done:
                raise DataError(
                    f"{tar}, byte {byte}: {quoted(name)} stands apart from earlier files of its key; "
                    "the files of one key must stand together (tar --sort=name), and each key be there once"
                )
            if suffix in parts:
                raise DataError(f"{tar}, byte {byte}: {quoted(name)} is there twice in a row")
            parts[suffix] = place
        yield from _finished(tar, texts, key, parts, dotted)


def _finished(
    tar: Path, texts: IO[bytes], key: str, parts: Mapping[str, Place], dotted: set[str]
) -> Iterator[Pair | str]:
    """Yield what the files of one key make."""
    if parts:
        yield _sample(tar, texts, key, parts)
    else:
        yield from [_DOTTED] * len(dotted)


def _sample(tar: Path, texts: IO[bytes], key: str, parts: Mapping[str, Place]) -> Pair | str:
    about: Any = {}
    places = {suffix: place for suffix, place in parts.items() if place is not None}
    if len(places) < len(parts):
        return _LINKED
    if "json" in places:
        try:
            about = json.loads(_read(texts, places["json"]))
        except (ValueError, RecursionError):
            return "with a broken json"
        if not isinstance(about, dict):
            return "with a broken json"
    if about.get("status", "success") != "success":
        return "whose download failed"
    image = next((places[suffix] for suffix in IMAGES if suffix in places), None)
    if image is None:
        others = [f"whose image is .{suffix} ({why})" for suffix in parts if (why := why_not_read(f"a.{suffix}"))]
        return others[0] if others else "without an image"
    caption = about.get("caption")
    if "txt" in places:
        try:
            text = _read(texts, places["txt"]).decode("utf-8-sig")
        except ValueError:
            return "with a caption that is not UTF-8"
        if clean_text(text) or not isinstance(caption, str):
            caption = text
    if not isinstance(caption, str):
        return NO_CAPTION
    return Pair(clean_text(key), caption, tar.name, image)


def _read(file: IO[bytes], member: tuple[int, int]) -> bytes:
    offset, length = member
    if length > _MOST_TEXT:
        raise ValueError("too long")
    file.seek(offset)
    return file.read(length)


def _members(tar: Path) -> Iterator[tuple[str, int, Place]]:
    """Yield (name, byte, place) of every file and link in a tar.

    A hard link is the file before it in the same tar that it names. Raises DataError naming the byte where the tar is
    damaged.
    """
    with open(tar, "rb") as file:
        if kind := compression(file.read(8)):
            raise DataError(
                f"{tar} is compressed with {kind}; unpack it to a plain .tar, images in it are read at random"
            )
        file.seek(0)
        at, size = 0, os.fstat(file.fileno()).st_size
        known: dict[str, Place] = {}  # by name
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    _check_end(at, archive.offset, size)
                    is_file = member.isreg() and not member.issparse()
                    if is_file or member.islnk() or member.issym():
                        place = (member.offset_data, member.size) if is_file else known.get(member.linkname)
                        known[member.name] = None if member.issym() else place
                        yield member.name, member.offset_data, known[member.name]
                    archive.members.clear()  # type: ignore[attr-defined]  # of no use here, and it would grow with the tar
                    at = archive.offset
        except Exception as error:  # numbers in damaged headers end in nearly anything
            if isinstance(error, OSError | DataError):
                raise
            why = error if isinstance(error, tarfile.TarError) else "its header cannot be right"
            raise DataError(f"{tar} is damaged at byte {at:,}: {why}; fetch or write it again") from None
        # tarfile takes a damaged header for the end: only a block of zeros is one.
        file.seek(at)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise DataError(f"{tar} is damaged or cut off at byte {at:,}: no file begins or ends there; fetch it again")


def _check_end(start: int, end: int, size: int) -> None:
    if not start < end <= size:
        raise tarfile.ReadError(f"the file there does not end within the tar's {size:,} bytes")


def _failed_downloads(shards: Sequence[Shard]) -> list[str]:
    """Return what the NAME_stats.json that img2dataset writes beside each NAME.tar say."""
    total: Counter[str] = Counter()
    for shard in shards:
        try:
            stats = json.loads(shard.path.with_name(f"{shard.path.stem}_stats.json").read_bytes())
            total.update({name: int(stats[name]) for name in ("count", "successes")})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # they only serve this note
            continue
    failed = total["count"] - total["successes"]
    return [f"{failed:,} of {total['count']:,} downloads had failed, by img2dataset's own count"] if failed > 0 else []
