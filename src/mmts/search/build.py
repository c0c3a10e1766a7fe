"""Making an index, and bringing it up to date: only new and changed files are embedded."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.concepts.encoders import Encoder
from mmts.console import console, progress_bar
from mmts.data.formats.collect import inner_path
from mmts.data.media.checks import content_name
from mmts.data.media.load import load_medium, why_unreadable
from mmts.data.media.reading import in_threads, tell_warnings
from mmts.data.media.video import FrameSampling
from mmts.data.records import Medium
from mmts.errors import DataError, RunError, counted
from mmts.feature_cache import stored_array
from mmts.files import content_hash, locked
from mmts.recipe.run_directory import RunDirectory
from mmts.search.encoder import load_encoder
from mmts.search.index_files import Index, Item, check_folder, load_index, write_index
from mmts.search.media import find_media
from mmts.search.nearest import Rows, rows_of

_CHUNK = 256  # items that an interrupted process loses at most
_LAST = "00"  # of the hash of the last item in a group: one in 256


def build_index(run: Path, path: Path, folder: Path | None = None) -> Index:
    """Index the media at `path` with a run's best checkpoint, or bring the index up to date, and return it.

    folder: of the index, by default RUN/index. A file whose size and time of change are those in the index is not read
    again, and contents that are known under another name are not embedded again. Unreadable media are named and left
    out. Raises RunError for a folder that is not a run or not of an index, DataError if nothing is left to index.
    """
    directory = RunDirectory(run)
    folder = folder or directory.index
    recipe = directory.recipe()
    kind = recipe.model.kind
    root, media = find_media(path, kind, recipe.data)
    check_folder(folder)
    encoder = load_encoder(run, media)
    with locked(folder / ".lock", wait=True):
        old = _load_old(folder, root)
        same_root = old is not None and old.contents.root == str(root)
        known = {item.place: item for item in old.contents.items} if old is not None and same_root else {}
        described = list(in_threads(partial(_describe, root, known=known), media, "looking for changes", "files"))
        items = [(item, medium) for item, medium in zip(described, media, strict=True) if isinstance(item, Item)]
        notes = [why for why in described if isinstance(why, str)]
        rows: dict[str, Rows] = {}
        if old is not None and old.contents.checkpoint == encoder.checkpoint:
            rows = dict(zip((item.content for item in old.contents.items), rows_of(old.vectors), strict=True))
        elif old is not None:
            console.print(f"note: {folder} was made by another checkpoint, so everything is embedded again")
        missing = {item.content: medium for item, medium in items if item.content not in rows}
        new_rows, unreadable = _embed_all(encoder, missing, folder)
        rows |= new_rows
        kept = [item for item, _ in items if item.content in rows]
        notes += [unreadable[item.content] for item, _ in items if item.content in unreadable]
        for note in notes:
            console.print(f"note: left out {note}")
        tell_warnings()
        if not kept:
            raise DataError(f"{path}: {counted(len(media), kind)} found, but none can be read")
        index = write_index(
            folder, kept, np.stack([rows[item.content] for item in kept]),
            checkpoint=encoder.checkpoint, kind=kind, root=root,
        )  # fmt: skip
    copies, shared = len(index) - len({item.content for item in kept}), ""
    if copies:
        shared = f"; {counted(copies, 'is a copy and shares its', 'are copies and share their')} embedding"
    changes = f"{counted(len(index), kind)}; {_changes(old, index)}; {len(new_rows):,} embedded{shared}"
    console.print(f"index: {folder}: {changes}")
    return index


def _load_old(folder: Path, root: Path) -> Index | None:
    """Load the present index, if there is one that can be updated."""
    if not (folder / "index.json").exists():
        return None
    try:
        old = load_index(folder)
    except RunError as error:
        console.print(f"note: {error}")
        return None
    if old.contents.root != str(root):
        console.print(f"note: {folder} was an index of {old.contents.root}; it becomes one of {root}")
    return old


def _describe(root: Path, medium: Medium, known: Mapping[tuple[Any, ...], Item]) -> Item | str:
    """Return the entry of a medium, reading an unchanged file's hash from the index `known`; or why not."""
    try:
        path = inner_path(os.path.relpath(medium.path, root), str(root))
        path.encode()
        state = medium.path.stat()
        before = known.get((path, medium.start, medium.end, medium.frames, medium.member))
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


def _embed_all(encoder: Encoder, missing: Mapping[str, Medium], folder: Path) -> tuple[dict[str, Rows], dict[str, str]]:
    """Return the embeddings of media, and why some cannot be read, both by content; an interrupted call is resumed."""
    rows: dict[str, Rows] = {}
    unreadable: dict[str, str] = {}
    kinds, width = f"{encoder.kind}s", encoder.text(["width"]).shape[1]
    with progress_bar(f"embedding {kinds}", len(missing), kinds) as bar:
        for group in _groups(missing):
            media = [missing[content] for content in group]
            file = folder / f"pending-{content_hash(encoder.checkpoint, *group)}.npy"
            compute = partial(_embed, encoder, media, width)
            stored = stored_array(
                file, (len(media), width), np.dtype(np.float32), compute, title=None, unit=kinds, chunk=_CHUNK
            )
            for content, medium, row in zip(group, media, stored, strict=True):
                try:
                    rows[content] = row if row.any() else encoder.media([medium])[0]
                except DataError as error:
                    unreadable[content] = str(error)
            bar.advance(len(group))
    return rows, unreadable


def _groups(contents: Iterable[str]) -> Iterator[list[str]]:
    """Cut a list of hashes after those that end in `_LAST`: then a new file changes one group, not those after it."""
    group = []
    for content in contents:
        group.append(content)
        if content.endswith(_LAST):
            yield group
            group = []
    if group:
        yield group


def _embed(encoder: Encoder, media: Sequence[Medium], width: int, part: range) -> Rows:
    """Return the embeddings (M, width) of a part of media, zeros for those that cannot be read."""
    media = media[part.start : part.stop]
    if encoder.media_tower is None:
        rows = np.zeros((len(media), width), np.float32)
        readable = [at for at, medium in enumerate(media) if why_unreadable(medium) is None]
        if readable:
            rows[readable] = encoder.media([media[at] for at in readable])
        return rows
    unreadable = set()

    def load(medium: Medium, size: int, resize: str, sampling: FrameSampling | None) -> Tensor:
        try:
            return load_medium(medium, size, resize, sampling)
        except DataError:  # noticed while embedding, so that nothing is decoded twice
            unreadable.add(id(medium))
            return torch.zeros((3, size, size) if sampling is None else (sampling.frames, 3, size, size))

    rows = encoder.media(media, load)
    rows[[id(medium) in unreadable for medium in media]] = 0
    return rows


def _changes(old: Index | None, new: Index) -> str:
    """Count the new, changed, removed and kept items."""
    before = {} if old is None else {item.place: item.content for item in old.contents.items}
    after = {item.place: item.content for item in new.contents.items}
    changed = sum(place in before and before[place] != content for place, content in after.items())
    fresh, removed = len(after.keys() - before.keys()), len(before.keys() - after.keys())
    return f"{fresh:,} new, {changed:,} changed, {removed:,} removed, {len(after) - fresh - changed:,} kept"
