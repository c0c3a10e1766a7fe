"""Checks of media before a run, each made once: which cannot be read, and which two splits share."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from mmts.data.media.load import why_unreadable
from mmts.data.media.reading import file_state, in_threads
from mmts.data.records import Medium, Split
from mmts.errors import DataError, counted, few, percent
from mmts.files import cache_root, content_hash, keep, read_kept

_COMPARED = 1 << 24  # bytes of a video that are compared, beside its size
Reasons = Sequence[str | None]
"""Why each of several media cannot be read, or None."""


def unreadable_media(
    media: Sequence[Medium], decode: Callable[[Sequence[Medium]], Reasons] | None = None
) -> dict[int, str]:
    """Decode every image, one frame of every clip and all features; return why some fail, by position in `media`.

    `decode` may do it instead, if it needs the pixels for more than that. The result is kept while the files stay the
    same: the next call only tries the failures again, since a missing disk may be back.
    """
    keys = [f"{item.path}\t{(item.kind, item.start, item.end, item.frames, item.member)}" for item in media]
    distinct = dict(zip(keys, media, strict=True))  # the same medium may be there more than once
    states = {path: file_state(path) for path in {medium.path for medium in media}}
    parts = (f"{key}\t{states[medium.path]}" for key, medium in distinct.items())
    file = cache_root() / "readable" / f"{content_hash(*parts)}.json"
    kept = read_kept(file)
    todo = {key: medium for key, medium in distinct.items() if kept is None or key in kept}
    if kept is None and decode is not None:
        reasons = decode([*todo.values()])
    else:
        reasons = [*in_threads(why_unreadable, todo.values(), "checking media", "media")]
    unreadable = {key: reason for key, reason in zip(todo, reasons, strict=True) if reason is not None}
    if kept is None:
        keep(file, unreadable)
    return {at: unreadable[key] for at, key in enumerate(keys) if key in unreadable}


def drop_unreadable(split: Split, reasons: Mapping[int, str], max_share: float = 0.01) -> Split:
    """Return the split without the media that `unreadable_media` found.

    Raises DataError, naming the first five, if their share of the split is larger than `max_share`, in [0, 1].
    """
    if len(reasons) > max_share * split.num_media:
        named = few([f"{split.media[at].place}: {reason}" for at, reason in reasons.items()])
        raise DataError(
            f"{len(reasons):,} of the {counted(split.num_media, 'medium', 'media')} of split {split.name!r} cannot be "
            f"read, more than the {percent(max_share)} allowed: {named}. Repair them, or train without them: --set "
            f"data.max_unreadable={math.ceil(20 * len(reasons) / split.num_media) / 20:g}"
        )
    return split.without(reasons)


def copies_between(train: Split, other: Split) -> dict[int, int]:
    """Return the media of `other` that are byte by byte in `train` too: position in `train` by position in `other`.

    Only files of equal size are read, once while they stay the same. Videos are equal if the segments, the sizes and
    the first 16 MiB are. Folders of frames or chunks are skipped.
    """
    media = (*train.media, *other.media)
    states = [file_state(medium.path) for medium in media]
    sizes = [size if item.member is None else item.member[1] for item, (size, _) in zip(media, states, strict=True)]
    common = {*sizes[: train.num_media]} & {*sizes[train.num_media :]} - {None}
    if not common:
        return {}
    parts = (f"{medium.place}\t{state}" for medium, state in zip(media, states, strict=True))
    file = cache_root() / "copies" / f"{content_hash(str(train.num_media), *parts)}.json"
    kept = read_kept(file)
    if kept is not None:
        return {int(at): there for at, there in kept.items()}
    same_size = {at: medium for at, medium in enumerate(media) if sizes[at] in common}

    def contents(medium: Medium) -> str | None:
        with suppress(OSError):
            return f"{_hash(medium)} {medium.start or 0} {medium.end}"
        return None

    hashes = in_threads(contents, same_size.values(), "looking for copies", "files")
    names = {at: (name, sizes[at]) for at, name in zip(same_size, hashes, strict=True) if name is not None}
    places = {name: at for at, name in reversed(names.items()) if at < train.num_media}
    others = {at - train.num_media: name for at, name in names.items() if at >= train.num_media}
    copies = {at: places[name] for at, name in others.items() if name in places}
    keep(file, copies)
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
            f"({other.media[at].place} is {train.media[there].place}), so the figures on {other.name} are too good; "
            "remove them from one of the two splits"
        )
    return notes


def content_name(medium: Medium) -> str:
    """Return a name for the content of a medium: the hash of an image's bytes, or the file and segment of a video.

    Raises DataError if the file cannot be read.
    """
    try:
        if medium.kind == "image":
            return _hash(medium)
        state = medium.path.stat()
        part = f"{state.st_size} {state.st_mtime_ns} {medium.start} {medium.end} {medium.frames}"
        return content_hash(str(medium.path.absolute()), part)
    except OSError as error:
        raise DataError(f"cannot read the {medium.kind} {medium.place}: {error.strerror or error}") from None


def _hash(medium: Medium) -> str:
    """Return the hash of an image, or of the first 16 MiB of a video."""
    offset, length = medium.member or (0, _COMPARED if medium.kind == "video" else -1)
    with open(medium.path, "rb") as file:
        file.seek(offset)
        return hashlib.blake2b(file.read(length), digest_size=16).hexdigest()
