"""What a medium shows, by its file's bytes: the name its features are kept under, and copies between two splits."""

import hashlib
import stat

from mmts.data.media.threads import in_threads
from mmts.data.records import Medium, Split
from mmts.errors import DataError
from mmts.files import cache_root, content_hash, keep, read_kept

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
    videos the same part counts, by size and the first 16 MiB. Folders of frames or chunks are not looked through.
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
    found = {at: places[name] for at, name in others.items() if name in places}
    keep(cache, found)
    return found


def shared_in_words(train: Split, other: Split) -> list[str]:
    """Say how many media of `other` are in `train` too, with an example, and how many videos have clips in both.

    Tables of shards and CC3M are not looked through.
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
    if found := copies_between(train, other):
        at, there = next(iter(found.items()))
        notes.append(
            f"{len(found):,} of the {other.num_media:,} media of {other.name} are in train too, byte by byte "
            f"({other.media[at].place} is {train.media[there].place}), so the figures on "
            f"{other.name} are too good; remove them from one of the two splits"
        )
    return notes


def _state(medium: Medium) -> tuple[int | None, int]:
    """Return the size of a medium's file, None where it cannot be compared, and its time of change."""
    try:
        state = medium.path.stat()
    except (OSError, ValueError):
        return None, 0
    size = state.st_size if medium.member is None else medium.member[1]
    return (size if stat.S_ISREG(state.st_mode) else None), state.st_mtime_ns


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
