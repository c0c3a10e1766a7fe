"""What a medium shows, by its file's bytes: the name its features are kept under, and copies between two splits."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from mmts.console import errors
from mmts.data.records import Medium, Split
from mmts.errors import DataError
from mmts.files import cache_root, content_hash, read_json, write_json

_OF_A_VIDEO = 1 << 24  # bytes that are compared, beside the size


def content_name(medium: Medium) -> str:
    """Name what a medium shows: the hash of an image's bytes, or which part of which file a video is.

    Raises DataError where the file cannot be read.
    """
    try:
        if medium.kind == "video":
            state = medium.path.stat()
            return content_hash(
                str(medium.path.absolute()),
                f"{state.st_size} {state.st_mtime_ns} {medium.start} {medium.end} {medium.frames}",
            )
        offset, length = medium.member or (0, -1)
        return _hash(medium, offset, length)
    except OSError as error:
        raise DataError(f"cannot read the {medium.kind} {medium.place}: {error.strerror or error}") from None


def copies_between(train: Split, other: Split) -> dict[int, int]:
    """Return which media of `other` are in `train` too, byte by byte: position there by position in `other`.

    Only files of the same size are read, once: the result is kept under all paths, sizes and times of change. Of
    videos the same part counts, by size and the first 16 MiB. Tables of shards and CC3M are not looked through, nor
    are folders of frames or chunks.
    """
    if train.media_checked or other.media_checked:
        return {}
    sizes = [list(_sizes(split.media)) for split in (train, other)]
    common = {size for size, _ in sizes[0]} & {size for size, _ in sizes[1]} - {None}
    if not common:
        return {}
    media = (*train.media, *other.media)
    states = (f"{medium.place}\0{state}" for medium, state in zip(media, (*sizes[0], *sizes[1]), strict=True))
    cache = cache_root() / "copies" / f"{content_hash(str(train.num_media), *states)}.json"
    try:
        return {int(at): int(there) for at, there in read_json(cache).items()}
    except (OSError, ValueError, TypeError, AttributeError, DataError):
        pass
    named = [[at for at, (size, _) in enumerate(of) if size in common] for of in sizes]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        first, second = (
            dict(zip(at, pool.map(_name, (split.media[each] for each in at)), strict=True))
            for split, at in zip((train, other), named, strict=True)
        )
    places = {name: at for at, name in reversed(first.items()) if name is not None}
    found = {at: places[name] for at, name in second.items() if name in places}
    try:
        write_json(cache, found)
    except OSError as error:  # only costs the next run this again
        errors.print(f"note: cannot write {cache} ({error})")
    return found


def shared_in_words(train: Split, other: Split) -> list[str]:
    """Say how many media of `other` are in `train` too, with an example, and how many videos have clips in both."""
    if train.media_checked or other.media_checked:
        return []
    notes = []
    videos, trained = ({medium.path for medium in split.media if medium.kind == "video"} for split in (other, train))
    if shared := sorted(videos & trained):
        notes.append(
            f"{len(shared):,} of {len(videos):,} videos of {other.name} have clips in train too, such as {shared[0]}, "
            "so the two show the same scenes; put all clips of a video into one split"
        )
    if found := copies_between(train, other):
        at, there = next(iter(found.items()))
        notes.append(
            f"{len(found):,} of the {other.num_media:,} media of {other.name} are in train too, byte by byte "
            f"({other.media[at].place} is {train.media[there].place}), so the figures on "
            f"{other.name} are too good; remove them from one of the two splits"
        )
    return notes


def _sizes(media: Sequence[Medium]) -> Iterator[tuple[int | None, int]]:
    """Yield the size of each medium's file, None where it cannot be compared, and its time of change."""
    for medium in media:
        try:
            state = medium.path.stat()
        except (OSError, ValueError):
            yield None, 0
            continue
        size = state.st_size if medium.member is None else medium.member[1]
        yield (None if os.path.isdir(medium.path) else size), state.st_mtime_ns


def _name(medium: Medium) -> str | None:
    """Name a medium's contents, whatever its file is called; None where it cannot be read."""
    offset, length = medium.member or (0, _OF_A_VIDEO if medium.kind == "video" else -1)
    try:
        size = medium.path.stat().st_size if medium.member is None else medium.member[1]
        return f"{_hash(medium, offset, length)} {size} {medium.start or 0} {medium.end}"
    except OSError:
        return None


def _hash(medium: Medium, offset: int, length: int) -> str:
    with open(medium.path, "rb") as file:
        file.seek(offset)
        return hashlib.blake2b(file.read(length), digest_size=16).hexdigest()
