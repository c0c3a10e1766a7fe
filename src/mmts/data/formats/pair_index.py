"""Index millions of pairs once: decode every image, keep each finished piece, and merge the pieces into one table."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmts.data.formats.collect import clean_text, invented_split, note_on_invented, reading
from mmts.data.media.load import why_unreadable
from mmts.data.pair_table import PairTable, TableDataset, cannot_write, write_pair_table
from mmts.data.records import SPLITS, Dataset, Medium
from mmts.errors import DataError, counted, quoted
from mmts.files import atomic_write, keep, locked, read_kept

NO_CAPTION = "without a caption"
_CLEANED = "cleaned"
_UNREADABLE = "whose image cannot be decoded"
_UNREADABLE_NAME = "unreadable.txt"
_DECODED_AT_ONCE = 1024
_FORMAT = 1  # increase it when a reader takes other pairs than before: old pieces are then made again


class Pair(NamedTuple):
    """A pair as a reader finds it: `path` is relative to the reader's root, `member` as in `Medium`."""

    identity: str
    caption: str
    path: str
    member: tuple[int, int] | None = None


class Piece(NamedTuple):
    """A part of the data: its pairs with paths relative to `root`, and notes on the others, as JSON values.

    `split` is the split of all pairs; None splits them by a hash of each id.
    """

    content: Mapping[str, Any]
    root: Path
    split: str | None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to the index `folder`, and remove what a killed process left there.

    Raises DataError if the folder cannot be created.
    """
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


def kept_or_made(folder: Path, find: Callable[[], PairTable | None], make: Callable[[], PairTable]) -> PairTable:
    """Return the table that `find` finds in the index `folder`, or else `make` it; of many processes one makes it."""
    table = find()
    if table is None:
        with alone(folder):  # another process may have made it in the meantime
            table = find()
            return make() if table is None else table
    return table


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
            _read_bytes(medium)
            counts[_UNREADABLE] += 1
            unreadable.append(f"{medium.place}\t{reason}")
    content = {"format": _FORMAT, "pairs": readable, "counts": dict(counts), "unreadable": unreadable}
    keep(file, content)
    return content


def merge_pieces(folder: Path, root: Path, pieces: Iterable[Piece], about: Mapping[str, Any]) -> PairTable:
    """Write the pieces into one table and return it; a file beside it lists the images that cannot be decoded.

    Raises DataError naming both files if an id occurs twice.
    """
    counts: Counter[str] = Counter()
    unreadable: list[str] = []
    invented = False
    with write_pair_table(folder, root, SPLITS, _check_ids) as writer:
        for content, base, split in pieces:
            for identity, caption, inner, member in content["pairs"]:
                path = inner if base == root else os.path.relpath(base / inner, root)
                writer.add(identity, caption, path, split or invented_split(identity), member)
            counts.update(content["counts"])
            unreadable += content["unreadable"]
            invented |= split is None and len(content["pairs"]) > 0
        writer.about |= {**about, "counts": dict(counts), "invented": invented}
        with atomic_write(writer.folder / _UNREADABLE_NAME, "w") as file:
            file.writelines(line + "\n" for line in unreadable)
    return PairTable(folder)


def table_dataset(path: Path, table: PairTable, notes: Sequence[str] = ()) -> Dataset:
    """Return a merged table as a data set, with notes about the pairs that were left out.

    Raises DataError for an empty table.
    """
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


def _read_bytes(medium: Medium) -> None:
    """Raise DataError if the disk fails, not the image: such a failure may pass, so the index must not keep it."""
    offset, length = medium.member or (0, -1)
    with reading(medium.path), open(medium.path, "rb") as file:
        file.seek(offset)
        file.read(length)


def _check_ids(table: PairTable) -> None:
    rows = table.repeated_id()
    if rows is not None:
        first, second = (table.path(int(table.file[row])) for row in rows)
        raise DataError(f"{second}: the id {quoted(table.identity(rows[1]))} is there already, in {first}")
