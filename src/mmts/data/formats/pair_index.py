"""Index millions of pairs once: decode every image, keep each finished piece, and merge the pieces into one table."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmts.data.formats.collect import clean_text, invented_split, note_on_invented, reading
from mmts.data.media.load import why_unreadable
from mmts.data.pair_table import PairRow, PairTable, TableDataset, cannot_write, write_pair_table
from mmts.data.records import SPLITS, Dataset, Medium
from mmts.errors import DataError, counted
from mmts.files import atomic_write, keep, locked, read_kept

NO_CAPTION = "without a caption"
_CLEANED = "cleaned"
_UNREADABLE = "whose image cannot be decoded"
_UNREADABLE_NAME = "unreadable.txt"
_DECODED_AT_ONCE = 1024
_FORMAT = 1  # increase it when a reader takes other pairs than before: old pieces are then made again


class Pair(NamedTuple):
    """A pair that a reader yields: `path` is relative to the reader's root, `member` as in `Medium`."""

    identity: str
    caption: str
    path: str
    member: tuple[int, int] | None = None


# A part of the data: its pairs and notes on the others, as `index_piece` returns them; the folder that the paths are
# relative to; and the split of all pairs, or None to split them by a hash of each id.
Piece = tuple[Mapping[str, Any], Path, str | None]


def read_indexed(
    path: Path,
    root: Path,
    folder: Path,
    make: Callable[[], tuple[Mapping[str, Any], Iterable[Piece]]],
    is_current: Callable[[Mapping[str, Any]], bool] = lambda about: True,
    notes: Sequence[str] = (),
) -> Dataset:
    """Return the data set in the index `folder`; of many processes one makes the index if it is missing or outdated.

    `make` returns what to remember about the state of the data, by which `is_current` judges the index, and the pieces.
    Raises DataError if two pairs have the same id, or no pair remains.
    """

    def opened() -> PairTable | None:
        with suppress(DataError):  # missing, damaged, or of another version
            if is_current((table := PairTable(folder)).about["state"]):
                return table
        return None

    if (table := opened()) is None:
        with alone(folder.parent):
            if (table := opened()) is None:  # another process may have made it in the meantime
                table = _merged(folder, root, *make())
    return _dataset(path, table, notes)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to the index `folder`, and remove what a killed process left there."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "in-use.lock", wait=True))
        except OSError as error:
            raise cannot_write(folder, error) from None
        for left in folder.glob(".*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        yield


def index_piece(file: Path, root: Path, pairs: Iterable[Pair | str], pool: ThreadPoolExecutor) -> Mapping[str, Any]:
    """Return the content of a piece that is kept in `file`, or make it; the threads of `pool` decode its images.

    `pairs` are in file order; a string says why a pair is left out ("without a caption"). Raises DataError from
    `pairs`, or if the disk fails.
    """
    kept = read_kept(file)
    if kept is not None and kept.get("format") == _FORMAT:
        return kept
    counts: Counter[str] = Counter()
    readable: list[Pair] = []
    unreadable: list[str] = []
    cleaned = _cleaned(pairs, counts)
    while part := list(islice(cleaned, _DECODED_AT_ONCE)):
        media = [Medium(pair.identity, root / pair.path, (), member=pair.member) for pair in part]
        for pair, medium, reason in zip(part, media, pool.map(why_unreadable, media), strict=True):
            if reason is None:
                readable.append(pair)
                continue
            offset, length = pair.member or (0, -1)
            # If the disk fails, not the image, raise: such a failure may pass, so the index must not keep it.
            with reading(root / pair.path), open(root / pair.path, "rb") as opened:
                opened.seek(offset)
                opened.read(length)
            counts[_UNREADABLE] += 1
            unreadable.append(f"{medium.place}\t{reason}")
    content = {"format": _FORMAT, "pairs": readable, "counts": dict(counts), "unreadable": unreadable}
    keep(file, content)
    return content


def _cleaned(pairs: Iterable[Pair | str], counts: Counter[str]) -> Iterator[Pair]:
    """Yield the pairs with cleaned captions, and count the others by the reason why they are left out."""
    for pair in pairs:
        if isinstance(pair, str):
            counts[pair] += 1
        elif caption := clean_text(pair.caption):
            counts[_CLEANED] += caption != pair.caption
            yield pair._replace(caption=caption)
        else:
            counts[NO_CAPTION] += 1


def _merged(folder: Path, root: Path, state: Mapping[str, Any], pieces: Iterable[Piece]) -> PairTable:
    """Write the pieces into one table; a file beside it lists the images that cannot be decoded."""
    counts: Counter[str] = Counter()
    unreadable: list[str] = []
    invented = False

    def pairs() -> Iterator[PairRow]:
        nonlocal invented
        for content, base, split in pieces:
            for identity, caption, inner, member in content["pairs"]:
                path = inner if base == root else os.path.relpath(base / inner, root)
                yield identity, caption, path, split or invented_split(identity), member
            counts.update(content["counts"])
            unreadable.extend(content["unreadable"])
            invented |= split is None and len(content["pairs"]) > 0

    def finish(folder: Path) -> Mapping[str, Any]:
        with atomic_write(folder / _UNREADABLE_NAME, "w") as file:
            file.writelines(line + "\n" for line in unreadable)
        return {"state": state, "counts": dict(counts), "invented": invented}

    write_pair_table(folder, root, SPLITS, pairs(), finish)
    return PairTable(folder)


def _dataset(path: Path, table: PairTable, notes: Sequence[str]) -> Dataset:
    """Return a merged table as a data set, with notes about the pairs that were left out."""
    counts: Counter[str] = Counter(table.about["counts"])
    cleaned, unreadable_file = counts.pop(_CLEANED, 0), table.folder / _UNREADABLE_NAME
    notes = [*notes]
    for why, count in sorted(counts.items(), key=lambda item: item[0] == _UNREADABLE):
        named = f"; they are named in {unreadable_file}" if why == _UNREADABLE else ""
        notes.append(f"left out {counted(count, 'pair')} {why}{named}")
    if cleaned:
        what = "control characters, broken characters or outer spaces"
        notes.append(f"cleaned the captions of {counted(cleaned, 'pair')} of {what}")
    if not len(table):
        why = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"{path}: no image with a caption in it{why}")
    dataset = TableDataset(
        table.root.name or str(table.root),
        path,
        table.root,
        table.media_of(),
        empty_captions=counts[NO_CAPTION],
        unreadable=(counts[_UNREADABLE], unreadable_file),
        table=table,
    )
    if table.about["invented"]:
        notes.append(note_on_invented(dataset.split_sizes))
    return replace(dataset, notes=tuple(notes))
