"""Find the media that cannot be read, once, before or while a run decodes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmts.data.media.feature_files import why_unreadable_features
from mmts.data.media.image import why_unreadable_image
from mmts.data.media.threads import in_threads
from mmts.data.media.video import why_unreadable_clip
from mmts.data.records import Medium, Split
from mmts.errors import DataError, InputError, counted, percent
from mmts.files import cache_root, content_hash, keep, read_kept


def unreadable_media(media: Sequence[Medium], workers: int | None = None) -> dict[int, str]:
    """Decode every image, one frame of every clip and all features, in threads; return the failures.

    They are by position in `media`, with the reason. The result is kept under the hash of all paths, sizes,
    modification times and segments: the next call with the same media only tries the failures again, since a missing
    permission or disk may be back. For a folder its own modification time counts.
    """
    notes = _notes_file(media)
    kept = read_kept(notes)
    distinct = {_key(medium): medium for medium in media}  # the same medium may be there more than once
    todo = {key: medium for key, medium in distinct.items() if kept is None or key in kept}
    reasons = zip(todo, in_threads(_why_unreadable, todo.values(), "checking media", "media", workers), strict=True)
    unreadable = {key: reason for key, reason in reasons if reason is not None}
    if kept is None:
        keep(notes, unreadable)
    return _by_position(media, unreadable)


def is_checked(media: Sequence[Medium]) -> bool:
    """Return whether the result of `unreadable_media` for these media is kept, so that it need not decode them all."""
    return read_kept(_notes_file(media)) is not None


def note_unreadable(media: Sequence[Medium], failures: Mapping[int, DataError]) -> dict[int, str]:
    """Keep what decoding all of `media` for another purpose has shown, and return what `unreadable_media` would.

    `failures` are the errors of `load_medium` or `load_clip` by position in `media`; every other medium was decoded.
    """
    unreadable = {
        _key(media[at]): str(error).removeprefix(media[at].place).removeprefix(": ") for at, error in failures.items()
    }
    keep(_notes_file(media), unreadable)
    return _by_position(media, unreadable)


def drop_unreadable(split: Split, reasons: Mapping[int, str], max_share: float = 0.01) -> Split:
    """Return the split without the media that `unreadable_media` found.

    Raises DataError, naming the first three, if their share of the split is larger than `max_share`.
    """
    if not 0 <= max_share <= 1:
        raise InputError(f"max_share must be in [0, 1], not {max_share}")
    if len(reasons) > max_share * split.num_media:
        named = [f"{split.media[at].place}: {reason}" for at, reason in list(reasons.items())[:3]]
        more = f"; and {len(reasons) - 3:,} more" if len(reasons) > 3 else ""
        raise DataError(
            f"{len(reasons):,} of the {counted(split.num_media, 'medium', 'media')} of split {split.name!r} cannot "
            f"be read, more than the {percent(max_share)} allowed: {'; '.join(named)}{more}. Repair them, or raise "
            "data.max_unreadable"
        )
    return split.without(reasons)


def _why_unreadable(medium: Medium) -> str | None:
    if medium.is_features:
        return why_unreadable_features(medium.path)
    if medium.kind == "video":
        return why_unreadable_clip(medium)
    return why_unreadable_image(medium.path, medium.member)


def _by_position(media: Sequence[Medium], unreadable: Mapping[str, str]) -> dict[int, str]:
    return {at: unreadable[key] for at, key in enumerate(map(_key, media)) if key in unreadable}


def _notes_file(media: Sequence[Medium]) -> Path:
    states = {path: _state(path) for path in dict.fromkeys(medium.path for medium in media)}
    distinct = {_key(medium): states[medium.path] for medium in media}
    name = content_hash(*(f"{state}\0{key}" for key, state in distinct.items()))
    return cache_root() / "readable" / f"{name}.json"


def _key(medium: Medium) -> str:
    """Return a name of the part of the file that is decoded."""
    part = (medium.kind, medium.start, medium.end, medium.frames, medium.member)
    return f"{medium.path}\t{part}"


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return f"{path}\0missing"
    return f"{path}\0{state.st_size}\0{state.st_mtime_ns}"
