"""Webdataset shards, as img2dataset writes them: tars of key.jpg, key.txt and key.json, scanned once."""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from mmts.console import progress_bar
from mmts.data.formats.collect import clean_text, compression, reading
from mmts.data.formats.pair_index import NO_CAPTION, Pair, Piece, index_piece, read_indexed
from mmts.data.formats.parts import FilePart, find_files
from mmts.data.media.reading import file_state, threads
from mmts.data.media.suffixes import IMAGE_SUFFIXES, why_not_read
from mmts.data.records import Dataset
from mmts.errors import DataError, quoted
from mmts.files import cache_root, content_hash

_IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_MAX_TEXT = 1 << 24  # bytes of a caption or .json file
_BLOCK = 512
_LINKED = "with a link in place of a file (symbolic, or to a file that is not before it in its tar)"
_DOTTED = "whose file name has a second dot (webdataset ends the key at the first)"
_Place = tuple[int, int] | None  # offset and length of a file in a tar; None for a link without a target there
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)


def read_shards(path: str | Path) -> Dataset:
    """Read webdataset shards: a folder of .tar files, one of them, a glob, or braces ("shards/{00000..00331}.tar").

    docs/datasets.md says what a sample is, how splits are named, and what is left out. Every shard is scanned once and
    its images decoded; an interrupted scan continues with the next shard.

    Raises DataError naming missing shards, a shard that is compressed or damaged (and at which byte), a shard in which
    the files of a key are not next to each other, or two shards with the same key.
    """
    pattern = Path(os.path.abspath(Path(path).expanduser()))
    with reading(pattern):
        shards, notes = find_files(pattern, ".tar")
        root = Path(os.path.commonpath([path.parent for path, _ in shards]))
        cache = cache_root() / "shards"
        names = [f"{path}\0{_content_key(path)}\0{split}" for path, split in shards]
        folder = cache / f"all-{content_hash(*names)}"
        return read_indexed(pattern, root, folder, lambda: ({}, _pieces(cache, shards)), notes=notes)


def _content_key(shard: Path) -> str:
    return content_hash(str(shard), *map(str, file_state(shard)), *_IMAGES)


def _pieces(cache: Path, shards: Sequence[FilePart]) -> Iterator[Piece]:
    with threads() as pool, progress_bar("indexing shards", len(shards), "shards") as bar:
        for path, split in shards:
            with reading(path):
                file = cache / f"{_content_key(path)}.json"
                yield index_piece(file, path.parent, _samples(path), pool), path.parent, split
            bar.advance()


def _samples(tar: Path) -> Iterator[Pair | str]:
    """Yield the samples of a tar in file order, or why one is left out."""
    members = (  # (KEY, BEFORE, SUFFIX, member) of each file KEY.BEFORE.SUFFIX or KEY.SUFFIX
        (matched[1], *matched[2].lower().rpartition(".")[::2], member)
        for member in _members(tar)
        if (matched := _KEY.fullmatch(member[0]))
    )
    files = (file for file in members if file[2] in (*_IMAGES, "txt", "json") or why_not_read(file[3][0]))
    done: set[str] = set()
    with open(tar, "rb") as texts:
        for key, of_key in groupby(files, key=lambda file: file[0]):
            parts: dict[str, _Place] = {}
            dotted: set[str] = set()  # other samples, whose names continue this key after its dot
            for _, before, suffix, (name, byte, place) in of_key:
                if before:
                    dotted.add(before)
                elif key in done:
                    raise DataError(
                        f"{tar}, byte {byte}: {quoted(name)} is not next to the earlier files of its key; "
                        "keep the files of each key together (tar --sort=name), and use each key once"
                    )
                elif suffix in parts:
                    raise DataError(f"{tar}, byte {byte}: {quoted(name)} is there twice in a row")
                else:
                    parts[suffix] = place
            if parts:
                done.add(key)
                yield _sample(tar, texts, key, parts)
            else:
                yield from [_DOTTED] * len(dotted)


def _sample(tar: Path, texts: IO[bytes], key: str, parts: Mapping[str, _Place]) -> Pair | str:
    places = {suffix: place for suffix, place in parts.items() if place is not None}
    if len(places) < len(parts):
        return _LINKED
    try:
        about: Any = json.loads(_read(texts, places["json"])) if "json" in places else {}
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        return "with a broken json"
    if about.get("status", "success") != "success":
        return "whose download failed"
    image = next((places[suffix] for suffix in _IMAGES if suffix in places), None)
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
    return Pair(clean_text(key), caption, tar.name, image) if isinstance(caption, str) else NO_CAPTION


def _read(file: IO[bytes], member: tuple[int, int]) -> bytes:
    if member[1] > _MAX_TEXT:
        raise ValueError("too long")
    file.seek(member[0])
    return file.read(member[1])


def _members(tar: Path) -> Iterator[tuple[str, int, _Place]]:
    """Yield (name, byte, place) of every file and link in a tar; a hard link has the place of its target before it.

    Raises DataError naming the byte at which the tar is damaged.
    """
    with open(tar, "rb") as file:
        if kind := compression(file.read(8)):
            raise DataError(f"{tar} is compressed with {kind}; unpack it to a plain .tar")
        file.seek(0)
        at, size = 0, os.fstat(file.fileno()).st_size
        places: dict[str, _Place] = {}
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    _check_end(at, archive.offset, size)
                    is_file = member.isreg() and not member.issparse()
                    if is_file or member.islnk() or member.issym():
                        place = (member.offset_data, member.size) if is_file else places.get(member.linkname)
                        places[member.name] = None if member.issym() else place
                        yield member.name, member.offset_data, places[member.name]
                    archive.members.clear()  # type: ignore[attr-defined]  # unused, and it would grow with the tar
                    at = archive.offset
        except (OSError, DataError):
            raise
        except Exception as error:  # numbers in damaged headers raise almost anything
            why = error if isinstance(error, tarfile.TarError) else "its header cannot be right"
            raise DataError(f"{tar} is damaged at byte {at:,}: {why}; fetch or write it again") from None
        # tarfile takes a damaged header for the end of the tar, but only a block of zeros is the end.
        file.seek(at)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise DataError(f"{tar} is damaged or cut off at byte {at:,}: no file begins or ends there; fetch it again")


def _check_end(start: int, end: int, size: int) -> None:
    if not start < end <= size:
        raise tarfile.ReadError(f"the file there does not end within the tar's {size:,} bytes")
