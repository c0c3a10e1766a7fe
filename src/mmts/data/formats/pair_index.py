"""Index millions of pairs once: decode every image, keep each finished piece, and merge the pieces into one table."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmts.console import errors
from mmts.data.formats.collect import clean_text, invented_split
from mmts.data.media.image import why_unreadable_image
from mmts.data.pair_table import PairTable, opened, write_pair_table
from mmts.data.records import SPLITS, Dataset, Medium
from mmts.data.table_dataset import TableDataset
from mmts.errors import DataError, counted, quoted
from mmts.files import atomic_write, locked

NO_CAPTION = "without a caption"
_CLEANED = "cleaned"
_UNREADABLE = "whose image cannot be decoded"
_UNREADABLE_NAME = "unreadable.txt"
_DECODED_AT_ONCE = 1024


class Pair(NamedTuple):
    """A pair as a reader finds it: `path` is relative to the reader's root, `member` as in `Medium`."""

    identity: str
    caption: str
    path: str
    member: tuple[int, int] | None = None


class Piece(NamedTuple):
    """The table of a part of the data; `split` is the split of all its pairs, None for one by a hash of each id."""

    table: PairTable
    split: str | None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to the index `folder`, and remove what a killed process left there.

    Raises DataError if the folder cannot be created.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "in-use.lock", lambda held: errors.print(f"note: waiting: {held}")))
        except OSError as error:
            raise DataError(
                f"cannot write the index {folder}: {error.strerror or error}; MMTS_CACHE names another folder"
            ) from None
        for left in folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def kept_or_made(folder: Path, find: Callable[[], PairTable | None], make: Callable[[], PairTable]) -> PairTable:
    """Return the table that `find` finds in the index `folder`, or else `make` it; of many processes one makes it."""
    table = find()
    if table is None:
        with alone(folder):  # another process may have made it in the meantime
            table = find()
            return make() if table is None else table
    return table


def index_piece(folder: Path, root: Path, pairs: Iterable[Pair | str], pool: ThreadPoolExecutor) -> PairTable:
    """Return the table of one piece from the cache, or write it.

    Args:
        folder: the piece's place in the cache.
        root: the folder that the pairs' paths are relative to.
        pairs: pairs in file order; a string says why a pair is left out ("without a caption").
        pool: threads that decode the images.

    Raises:
        DataError: from `pairs`, or if the table cannot be written.
    """
    table = opened(folder)
    if table is not None:
        return table
    counts: Counter[str] = Counter()
    unreadable: list[str] = []
    cleaned = _cleaned(pairs, counts)
    with write_pair_table(folder, root, SPLITS) as writer:
        file, last_path = -1, None
        while part := list(islice(cleaned, _DECODED_AT_ONCE)):
            reasons = pool.map(lambda pair: why_unreadable_image(root / pair.path, pair.member), part)
            for pair, reason in zip(part, reasons, strict=True):
                if reason is not None:
                    medium = Medium(pair.identity, root / pair.path, (), member=pair.member)
                    _read_bytes(medium)
                    counts[_UNREADABLE] += 1
                    unreadable.append(f"{medium.place}\t{reason}")
                    continue
                if pair.path != last_path:
                    file, last_path = writer.add_file(pair.path), pair.path
                writer.add(pair.identity, pair.caption, file, invented_split(pair.identity), pair.member)
        writer.about |= {"counts": dict(counts), "unreadable": unreadable}
    return PairTable(folder)


def merge_pieces(folder: Path, root: Path, pieces: Iterable[Piece], about: Mapping[str, Any]) -> PairTable:
    """Copy the pieces into one table and return it; a file beside it lists the images that cannot be decoded.

    Raises DataError naming both files if an id occurs twice.
    """
    counts: Counter[str] = Counter()
    unreadable: list[str] = []
    invented = False
    with write_pair_table(folder, root, SPLITS, _check_ids) as writer:
        for table, split in pieces:
            writer.extend(table, split)
            counts.update(table.about["counts"])
            unreadable += table.about["unreadable"]
            invented |= split is None and len(table) > 0
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
    if table.about["invented"]:
        sizes = ", ".join(f"{name} {count:,}" for name, count in table.split_sizes().items())
        notes.append(f"the data has no splits: divided 80/10/10 by a hash of each medium's id ({sizes})")
    return TableDataset(
        table.root.name or str(table.root),
        path,
        table.root,
        table.media_of(),
        tuple(notes),
        counts[NO_CAPTION],
        unreadable=(counts[_UNREADABLE], unreadable_file),
        table=table,
    )


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
    try:
        with open(medium.path, "rb") as file:
            file.seek(offset)
            file.read(length)
    except OSError as error:
        raise DataError(f"cannot read {medium.path}: {error.strerror or error}") from None


def _check_ids(table: PairTable) -> None:
    rows = table.repeated_id()
    if rows is not None:
        first, second = (table.path(int(table.file[row])) for row in rows)
        raise DataError(
            f"{second}: the id {quoted(table.identity(rows[1]))} is there already, in {first}; an id names one pair"
        )
