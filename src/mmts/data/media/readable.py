"""Finding the media that cannot be read, once, before a run meets them."""

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
    """Decode every image and a frame of every clip once, in threads, and say of which positions in `media` it failed.

    Features are read through. The result is kept under the hash of all paths, sizes, times of change and segments; the
    next call with the same media decodes nothing. Of a folder its own time of change counts.
    """
    distinct = {_key(medium): medium for medium in media}  # the same may stand there more than once
    states = {path: _state(path) for path in dict.fromkeys(medium.path for medium in media)}
    hashed = (f"{states[medium.path]}\0{key}" for key, medium in distinct.items())
    cache = cache_root() / "readable" / f"{content_hash(*hashed)}.json"
    kept = read_kept(cache)
    # What failed then may work by now: permissions, a disk that was away.
    todo = {key: medium for key, medium in distinct.items() if kept is None or key in kept}
    reasons = zip(todo, in_threads(_why_unreadable, todo.values(), "checking media", "media", workers), strict=True)
    found = {key: reason for key, reason in reasons if reason is not None}
    if kept is None:
        keep(cache, found)
    return {at: found[_key(medium)] for at, medium in enumerate(media) if _key(medium) in found}


def drop_unreadable(split: Split, reasons: Mapping[int, str], max_share: float = 0.01) -> Split:
    """Return the split without the media that cannot be read, as `unreadable_media` found them.

    Raises DataError, naming the first few, where their share of the split is larger than `max_share`.
    """
    if not 0 <= max_share <= 1:
        raise InputError(f"max_share lies in [0, 1], not {max_share}")
    if len(reasons) > max_share * split.num_media:
        named = [f"{split.media[at].place}: {reason}" for at, reason in list(reasons.items())[:3]]
        more = f"; and {len(reasons) - 3:,} more" if len(reasons) > 3 else ""
        raise DataError(
            f"{len(reasons):,} of the {counted(split.num_media, 'medium', 'media')} of split {split.name!r} cannot "
            f"be read, more than the {percent(max_share)} allowed: {'; '.join(named)}{more}. Mend them, or raise "
            "data.max_unreadable"
        )
    return split.without(reasons)


def _why_unreadable(medium: Medium) -> str | None:
    if medium.is_features:
        return why_unreadable_features(medium.path)
    if medium.kind == "video":
        return why_unreadable_clip(medium)
    return why_unreadable_image(medium.path, medium.member)


def _key(medium: Medium) -> str:
    """Name what is to be decoded."""
    part = (medium.kind, medium.start, medium.end, medium.frames, medium.member)
    return f"{medium.path}\t{part}"


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return f"{path}\0missing"
    return f"{path}\0{state.st_size}\0{state.st_mtime_ns}"
