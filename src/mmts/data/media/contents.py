"""What a medium shows, by the bytes of its file: a name to cache its features under, and copies between two splits."""

import hashlib
import stat

from mmts.data.media.threads import in_threads
from mmts.data.records import Medium, Split
from mmts.errors import DataError
from mmts.files import cache_root, content_hash, keep, read_kept

_COMPARED = 1 << 24  # bytes of a video that are compared, beside its size


def content_name(medium: Medium) -> str:
    """Return a name of what a medium shows: the hash of an image's bytes, or the part of which file a video is.

    Raises DataError if the file cannot be read.
    """
    try:
        if medium.kind == "video":
            state = medium.path.stat()
            return content_hash(
                str(medium.path.absolute()),
                f"{state.st_size} {state.st_mtime_ns} {medium.start} {medium.end} {medium.frames}",
            )
        return _hash(medium, -1)
    except OSError as error:
        raise DataError(f"cannot read the {medium.kind} {medium.place}: {error.strerror or error}") from None


def copies_between(train: Split, other: Split) -> dict[int, int]:
    """Return the media of `other` that are byte by byte in `train` too: position in `train` by position in `other`.

    Only files of equal size are read, once: the result is kept under all paths, sizes and modification times. Videos
    are the same if the segments, the sizes and the first 16 MiB are. Folders of frames or chunks are skipped.
    """
    media = (*train.media, *other.media)
    states = [_state(medium) for medium in media]
    common = {size for size, _ in states[: train.num_media]} & {size for size, _ in states[train.num_media :]} - {None}
    if not common:
        return {}
    parts = (f"{medium.place}\0{state}" for medium, state in zip(media, states, strict=True))
    cache = cache_root() / "copies" / f"{content_hash(str(train.num_media), *parts)}.json"
    kept = read_kept(cache)
    if kept is not None:
        return {int(at): there for at, there in kept.items()}
    same_size = {at: medium for at, (medium, (size, _)) in enumerate(zip(media, states, strict=True)) if size in common}
    names = dict(zip(same_size, in_threads(_name, same_size.values(), "looking for copies", "files"), strict=True))
    places = {name: at for at, name in reversed(names.items()) if name is not None and at < train.num_media}
    others = {at - train.num_media: name for at, name in names.items() if at >= train.num_media}
    copies = {at: places[name] for at, name in others.items() if name in places}
    keep(cache, copies)
    return copies


def shared_in_words(train: Split, other: Split) -> list[str]:
    """Return notes on the media of `other` that are in `train` too, and on videos with clips in both.

    Tables of shards and CC3M are skipped.
    """
    if train.media_checked or other.media_checked:
        return []
    notes = []
    videos, trained = ({medium.path for medium in split.media if medium.kind == "video"} for split in (other, train))
    if shared := sorted(videos & trained):
        notes.append(
            f"{len(shared):,} of {len(videos):,} videos of {other.name} have clips in train too, such as {shared[0]}, "
            "so the two show the same scenes; put all clips of a video into one split"
        )
    if copies := copies_between(train, other):
        at, there = next(iter(copies.items()))
        notes.append(
            f"{len(copies):,} of the {other.num_media:,} media of {other.name} are in train too, byte by byte "
            f"({other.media[at].place} is {train.media[there].place}), so the figures on "
            f"{other.name} are too good; remove them from one of the two splits"
        )
    return notes


def _state(medium: Medium) -> tuple[int | None, int]:
    """Return the size of a medium's file, None if it cannot be compared, and its modification time."""
    try:
        state = medium.path.stat()
    except (OSError, ValueError):
        return None, 0
    size = state.st_size if medium.member is None else medium.member[1]
    return (size if stat.S_ISREG(state.st_mode) else None), state.st_mtime_ns


def _name(medium: Medium) -> str | None:
    """Return a name of a medium's contents, independent of its file's name; None if it cannot be read."""
    try:
        content = _hash(medium, _COMPARED if medium.kind == "video" else -1)
    except OSError:
        return None
    return f"{content} {_state(medium)[0]} {medium.start or 0} {medium.end}"


def _hash(medium: Medium, length: int) -> str:
    """Return the hash of the image in a tar, else of the first `length` bytes of the file, -1 for all."""
    offset, length = medium.member or (0, length)
    with open(medium.path, "rb") as file:
        file.seek(offset)
        return hashlib.blake2b(file.read(length), digest_size=16).hexdigest()
