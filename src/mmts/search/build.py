"""Making an index, and bringing it up to date: only new and changed files are embedded."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmts.console import console, progress_bar
from mmts.data.formats.collect import inner_path, read_lines
from mmts.data.formats.imagefolder import metadata_files, read_imagefolder
from mmts.data.formats.parquet import read_parquet
from mmts.data.formats.parts import files_in
from mmts.data.formats.shards import read_shards
from mmts.data.formats.table import has_usual_column
from mmts.data.media.checks import content_name
from mmts.data.media.reading import in_threads, tell_warnings
from mmts.data.media.suffixes import is_medium, is_typescript, left_out
from mmts.data.read import reader_of
from mmts.data.records import Medium
from mmts.distributed.processes import joined, led, main_first
from mmts.errors import DataError, RunError, counted, listed
from mmts.feature_cache import stored_array
from mmts.files import content_hash, locked
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Data
from mmts.search.index_files import Index, Item, Rows, check_folder, load_index, rows_of, write_index
from mmts.training.encoder import Encoder, open_encoder
from mmts.training.splits import open_data, resolved

_CHUNK = 256  # items that an interrupted process loses at most
_LAST = "00"  # of the hash of the last item in a group: one in 256
Embed = Callable[[Sequence[Medium]], Rows]  # to unit embeddings, zeros for media that cannot be read


@joined()
def build_index(run: Path, path: Path, folder: Path | None = None, checkpoint: str = "best") -> Index:
    """Index the media at `path` with a run's checkpoint, or bring the index up to date, and return it.

    Under torchrun all processes embed, and the main one does the rest; all need the folder, by default RUN/index.
    Unreadable media are named and left out. Raises RunError for a folder that is not a run or not of an index, and
    DataError if nothing is left to index.
    """
    directory = RunDirectory(run)
    folder = folder or directory.index
    recipe = directory.recipe()
    kind = recipe.model.kind
    root, media = main_first(lambda: find_media(path, kind, recipe.data))
    check_folder(folder)
    encoder = open_encoder(str(run), media, checkpoint)
    width = encoder.text(["width"]).shape[1]
    write = partial(_write, folder, root, media, encoder, width)
    return led(write, lambda part: encoder.media_or_zeros(part, width)) or load_index(folder)


def _write(folder: Path, root: Path, media: Sequence[Medium], encoder: Encoder, width: int, embed: Embed) -> Index:
    """Bring the index up to date with media whose embeddings (M, width) `embed` gives."""
    before: dict[tuple[Any, ...], Item] = {}
    known, rows = before, dict[str, Rows]()
    with locked(folder / ".lock", wait=True):
        try:
            if (folder / "index.json").exists():
                old = load_index(folder)
                before = known = {item.place: item for item in old.contents.items}
                if old.contents.checkpoint == encoder.fingerprint:
                    rows = dict(zip((item.content for item in old.contents.items), rows_of(old.vectors), strict=True))
                else:
                    console.print(f"note: {folder} was made by another checkpoint, so everything is embedded again")
                if old.contents.root != str(root):
                    console.print(f"note: {folder} was an index of {old.contents.root}; it becomes one of {root}")
                    known = {}
        except RunError as error:  # a damaged one is made again
            console.print(f"note: {error}")
        described = list(in_threads(partial(_describe, root, known), media, "looking for changes", "files"))
        items = [(item, medium) for item, medium in zip(described, media, strict=True) if isinstance(item, Item)]
        notes = [why for why in described if isinstance(why, str)]
        missing = {item.content: medium for item, medium in items if item.content not in rows}
        new_rows, unreadable = _embed_all(encoder, missing, folder, embed, width)
        rows |= new_rows
        kept = [item for item, _ in items if item.content in rows]
        for note in [*notes, *(unreadable[item.content] for item, _ in items if item.content in unreadable)]:
            console.print(f"note: left out {note}")
        tell_warnings()
        if not kept:
            raise DataError(f"{root}: {counted(len(media), encoder.kind)} found, but none can be read")
        kept_rows = np.stack([rows[item.content] for item in kept])
        about: dict[str, Any] = {"checkpoint": encoder.fingerprint, "kind": encoder.kind, "root": root}
        index = write_index(folder, kept, kept_rows, **about)
    after = {item.place for item in kept}
    fresh = len(after - before.keys())
    changed = sum(item.place in before and before[item.place].content != item.content for item in kept)
    changes = f"{fresh:,} new, {changed:,} changed, {len(before.keys() - after):,} removed"
    changes += f", {len(after) - fresh - changed:,} kept; {len(new_rows):,} embedded"
    if copies := len(index) - len({item.content for item in kept}):
        changes += f"; {counted(copies, 'is a copy and shares its', 'are copies and share their')} embedding"
    console.print(f"index: {folder}: {counted(len(index), encoder.kind)}; {changes}")
    return index


def _describe(root: Path, known: Mapping[tuple[Any, ...], Item], medium: Medium) -> Item | str:
    """Return the entry of a medium, reading an unchanged file's hash from the index `known`; or why not."""
    try:
        path = inner_path(os.path.relpath(medium.path, root), str(root))
        path.encode()
        state = medium.path.stat()
        before = known.get((path, medium.start, medium.end, medium.frames, medium.member))
        is_same = before is not None and (before.size, before.changed) == (state.st_size, state.st_mtime_ns)
        return Item(
            path=path, id=medium.id, caption=medium.captions[0], other_captions=medium.captions[1:], split=medium.split,
            size=state.st_size, changed=state.st_mtime_ns, labels=dict(medium.labels),
            content=before.content if before is not None and is_same else content_name(medium),
            start=medium.start, end=medium.end, frames=medium.frames, member=medium.member,
        )  # fmt: skip
    except UnicodeEncodeError:
        return f"{str(medium.path)!r}: its name is not UTF-8"
    except OSError as error:
        return f"{medium.place}: {error.strerror}"
    except DataError as error:
        return str(error)


def _embed_all(
    encoder: Encoder, missing: Mapping[str, Medium], folder: Path, embed: Embed, width: int
) -> tuple[dict[str, Rows], dict[str, str]]:
    """Return the embeddings of media, and why some cannot be read, both by content; an interrupted call is resumed."""
    rows: dict[str, Rows] = {}
    unreadable: dict[str, str] = {}
    kinds = f"{encoder.kind}s"
    # A new file changes one group, not those after it: groups end with a content that ends with `_LAST`.
    groups: list[list[str]] = [[]]
    for content in missing:
        groups[-1].append(content)
        if content.endswith(_LAST):
            groups.append([])
    with progress_bar(f"embedding {kinds}", len(missing), kinds) as bar:
        for group in filter(None, groups):
            media = [missing[content] for content in group]
            file = folder / f"pending-{content_hash(encoder.fingerprint, *group)}.npy"

            def compute(part: range, media: Sequence[Medium] = media) -> Rows:
                return embed(media[part.start : part.stop])

            shape, dtype = (len(media), width), np.dtype(np.float32)
            stored = stored_array(file, shape, dtype, compute, title=None, unit=kinds, chunk=_CHUNK)
            for content, medium, row in zip(group, media, stored, strict=True):
                try:
                    rows[content] = row if row.any() else encoder.media([medium])[0]
                except DataError as error:
                    unreadable[content] = str(error)
            bar.advance(len(group))
    return rows, unreadable


# --- the media to index ----------------------------------------------------------------------------------------------


def find_media(path: Path, kind: str, settings: Data) -> tuple[Path, list[Medium]]:
    """Return the folder that paths start from, and the media of `kind` ("image" or "video") at `path`.

    A data set gives the media of all splits with their captions, read by `settings`, the recipe's data section. Any
    other folder gives all files of that kind below it, except hidden files and links that lead out of it; so does a
    folder of such files that also has a .tar or .parquet, or a metadata file without file names. Raises DataError
    without such media, and the errors of the readers.
    """
    path, other = resolved(path), "image" if kind == "video" else "video"
    files = [file for file in _files(path) if not is_typescript(file)] if path.is_dir() else []
    paths = [file for file in files if is_medium(file, kind)]
    strays = _strays(path) if paths else []
    if strays:
        console.print(f"note: {path} is read as a folder of {kind}s, without {listed(stray.name for stray in strays)}")
    if path.is_dir() and (strays or reader_of(path) is None):
        root, names = path, [file.relative_to(path).as_posix() for file in paths]
        media, notes = [Medium(name, path / name, (name,), kind=kind) for name in names], left_out(files)
        others = sum(is_medium(file, other) for file in files)
    else:
        dataset = open_data(settings, path)
        root, media, notes = dataset.root, [medium for medium in dataset.media if medium.kind == kind], []
        others = len(dataset.media) - len(media)
    if others:
        notes.append(f"left out {counted(others, other)}: this run's model takes {kind}s")
    for note in notes:
        console.print(f"note: {note}")
    if not media:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"{path} holds no {kind}s, which this run's model takes{why}")
    return root, media


def _strays(folder: Path) -> list[Path]:
    """Return the files that make a folder of media look like a data set, if they say nothing about these media."""
    reader = reader_of(folder)
    for read, suffix in ((read_shards, ".tar"), (read_parquet, ".parquet")):
        if reader is read:
            return files_in(folder, suffix)
    files = list(metadata_files(folder)) if reader is read_imagefolder else []
    for file in files:
        with suppress(DataError):  # not even text
            first = next((line for _, line in read_lines(file) if line.strip()), "")
            if has_usual_column(re.findall(r"[\w -]+", first), "media"):
                return []
    return files


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, ordered by name; linked folders are not entered."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and os.path.isfile(path) and path.resolve().is_relative_to(folder):
                yield path
