"""Making an index, and bringing it up to date: only new and changed files are embedded."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.console import console, errors, progress_bar
from mmts.data.formats.collect import inner_path
from mmts.data.media.contents import content_name
from mmts.data.media.feature_files import why_unreadable_features
from mmts.data.media.load import load_medium
from mmts.data.media.read_warnings import tell_warnings
from mmts.data.media.threads import in_threads
from mmts.data.media.video import FrameSampling
from mmts.data.records import Medium
from mmts.errors import DataError, RunError, counted
from mmts.files import locked
from mmts.recipe.run_directory import RunDirectory
from mmts.search.encoder import Encoder, load_encoder
from mmts.search.index_files import Index, Item, Pending, check_folder, load_index, write_index
from mmts.search.media import find_media
from mmts.search.nearest import rows_of

Rows = npt.NDArray[np.float32]

_CHUNK = 256  # items that an interrupted process loses at most


def build_index(run: Path, path: Path, folder: Path | None = None) -> Index:
    """Index the media at `path` for a run's best checkpoint, or bring the index up to date, and return it.

    folder: where it lies; RUN/index where None. A file whose size and time of change are those of the index is not
    read again, and contents that are known under another name are not embedded again. What cannot be read is named and
    left out. Raises RunError for what is no run or no folder of an index, DataError where nothing is left to index.
    """
    directory = RunDirectory(run)
    folder = folder or directory.index
    recipe = directory.recipe()
    kind = recipe.model.kind
    root, media = find_media(path, kind, recipe.data)
    check_folder(folder)
    encoder = load_encoder(run, media)
    with (
        locked(folder / ".lock", lambda held: errors.print(f"note: waiting: {held}")),
        closing(Pending(folder, encoder.checkpoint, encoder.width)) as pending,
    ):
        old = _load_old(folder, root)
        items, notes = _describe_all(root, media, old)
        rows = dict(pending.rows)
        if old is not None and old.contents.checkpoint == encoder.checkpoint:
            rows |= zip((item.content for item in old.contents.items), rows_of(old.vectors), strict=True)
        elif old is not None:
            console.print(f"note: {folder} was made by another checkpoint: everything is embedded again")
        missing = {item.content: medium for item, medium in items if item.content not in rows}
        unreadable = _embed_all(encoder, missing, pending)
        rows |= pending.rows
        kept = [item for item, _ in items if item.content in rows]
        for note in [*notes, *(unreadable[item.content] for item, _ in items if item.content in unreadable)]:
            console.print(f"note: left out {note}")
        tell_warnings()
        if not kept:
            raise DataError(f"{path}: {counted(len(media), kind)} found, but none can be read")
        index = write_index(
            folder, kept, np.stack([rows[item.content] for item in kept]),
            checkpoint=encoder.checkpoint, kind=kind, root=root,
        )  # fmt: skip
        pending.empty()
    embedded = len(missing) - len(unreadable)
    counts, shared = _counts(old, index), ""
    if copies := len(index) - len({item.content for item in index.contents.items}):
        shared = f"; {counted(copies, 'is a copy and shares its', 'are copies and share their')} embedding"
    console.print(f"index: {folder}: {counted(len(index), kind)}; {counts}; {embedded:,} embedded{shared}")
    return index


def _load_old(folder: Path, root: Path) -> Index | None:
    """Load the index that is there, saying so where it cannot be gone on with."""
    if not (folder / "index.json").exists():
        return None
    try:
        old = load_index(folder)
    except RunError as error:
        console.print(f"note: {error}")
        return None
    if old.contents.root != str(root):
        console.print(f"note: {folder} was of {old.contents.root}; from now on it is of {root}")
    if old.contents.version == 1:
        console.print(
            f"note: {folder} is of an earlier version; it is written again with the other columns of the data"
        )
    return old


def _describe_all(
    root: Path, media: Sequence[Medium], old: Index | None
) -> tuple[list[tuple[Item, Medium]], list[str]]:
    """Return what the index will say of each medium, and why others cannot be read."""
    same_root = old is not None and old.contents.root == str(root)
    known = {item.place: item for item in old.contents.items} if old is not None and same_root else {}
    items = list(in_threads(partial(_describe, root, known=known), media, "looking for changes", "files"))
    described = [(item, medium) for item, medium in zip(items, media, strict=True) if isinstance(item, Item)]
    return described, [why for why in items if isinstance(why, str)]


def _describe(root: Path, medium: Medium, known: Mapping[tuple[Any, ...], Item]) -> Item | str:
    """Return an item, with its content's hash as the index `known` has it where the file is unchanged; or why not."""
    try:
        path = inner_path(os.path.relpath(medium.path, root), str(root))
        path.encode()
        state = medium.path.stat()
        place = (path, medium.start, medium.end, medium.frames, medium.member)
        before = known.get(place)
        is_same = before is not None and (before.size, before.changed) == (state.st_size, state.st_mtime_ns)
        return Item(
            path=path, id=medium.id, caption=medium.captions[0], size=state.st_size, changed=state.st_mtime_ns,
            content=before.content if before is not None and is_same else content_name(medium),
            start=medium.start, end=medium.end, frames=medium.frames, member=medium.member, labels=dict(medium.labels),
        )  # fmt: skip
    except UnicodeEncodeError:
        return f"{str(medium.path)!r}: its name is not UTF-8"
    except OSError as error:
        return f"{medium.place}: {error.strerror}"
    except DataError as error:
        return str(error)


def _embed_all(encoder: Encoder, missing: Mapping[str, Medium], pending: Pending) -> dict[str, str]:
    """Embed media by content into `pending`, chunk by chunk; return why some cannot be read, by content."""
    unreadable: dict[str, str] = {}
    contents = list(missing)
    with progress_bar(f"embedding {encoder.kind}s", len(contents), f"{encoder.kind}s") as bar:
        for start in range(0, len(contents), _CHUNK):
            chunk = contents[start : start + _CHUNK]
            rows, reasons = _embed(encoder, [missing[content] for content in chunk])
            readable = [at for at in range(len(chunk)) if at not in reasons]
            pending.add([chunk[at] for at in readable], rows[: len(readable)])
            unreadable |= {chunk[at]: reason for at, reason in reasons.items()}
            bar.advance(len(chunk))
    return unreadable


def _embed(encoder: Encoder, media: Sequence[Medium]) -> tuple[Rows, dict[int, str]]:
    """Return the embeddings of those media that can be read, in order, and why the others cannot, by position."""
    reasons: dict[int, str] = {}
    if encoder.media_tower is None:
        found = ((at, why_unreadable_features(medium.path)) for at, medium in enumerate(media))
        reasons = {at: f"{media[at].place}: {why}" for at, why in found if why is not None}
        readable = [medium for at, medium in enumerate(media) if at not in reasons]
        return encoder.media(readable) if readable else np.empty((0, encoder.width), np.float32), reasons

    positions = {id(medium): at for at, medium in enumerate(media)}

    def load(medium: Medium, size: int, resize: str, sampling: FrameSampling | None) -> Tensor:
        try:
            return load_medium(medium, size, resize, sampling)
        except DataError as error:  # found while embedding, so that nothing is decoded twice
            reasons[positions[id(medium)]] = str(error)
            return torch.zeros((3, size, size) if sampling is None else (sampling.frames, 3, size, size))

    rows = encoder.media(media, load)
    return rows[[at for at in range(len(media)) if at not in reasons]], reasons


def _counts(old: Index | None, new: Index) -> str:
    """Say how many items are new, changed, removed and kept."""
    before = {} if old is None else {item.place: item.content for item in old.contents.items}
    after = {item.place: item.content for item in new.contents.items}
    changed = sum(place in before and before[place] != content for place, content in after.items())
    fresh, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    kept = len(after) - fresh - changed
    return f"{fresh:,} new, {changed:,} changed, {removed:,} removed, {kept:,} kept"
