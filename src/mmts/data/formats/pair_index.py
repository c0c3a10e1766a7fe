"""Indexing millions of pairs once: in pieces that are kept as they are done, every image decoded, then one table."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from mmts.console import errors
from mmts.data.formats.collect import clean_text, invented_split
from mmts.data.media.image import why_unreadable_image
from mmts.data.pair_table import PairTable, write_pair_table
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
    """A part of the data, indexed; `split` is that of all its pairs, or None where a hash of each id decides."""

    table: PairTable
    split: str | None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process indexes into `folder`: of many that start together one does the work.

    What a process that was killed had begun to write there is removed. Raises DataError where the folder cannot be
    made.
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


def index_piece(
    folder: Path, root: Path, found: Iterable[Pair | str], pool: ThreadPoolExecutor, about: Mapping[str, Any]
) -> PairTable:
    """Write the table of one piece into `folder` and return it.

    Args:
        folder: the piece's own place in the cache.
        root: what the pairs' paths are relative to.
        found: pairs in file order, or in place of one why it is left out ("without a caption").
        pool: the threads to decode with.
        about: what is known of the piece beside its pairs.

    Raises:
        DataError: what `found` raises, or that the table cannot be written.
    """
    counts: Counter[str] = Counter()
    unreadable: list[str] = []
    with write_pair_table(folder, root, SPLITS) as writer:
        file = -1
        last_path = None
        for pair, reason in _checked(root, found, counts, pool):
            if reason is not None:
                _read_bytes(root / pair.path, pair.member)
                counts[_UNREADABLE] += 1
                place = Medium(pair.identity, root / pair.path, (), member=pair.member).place
                unreadable.append(f"{place}\t{reason}")
                continue
            if pair.path != last_path:
                file, last_path = writer.add_file(pair.path), pair.path
            writer.add(pair.identity, pair.caption, file, invented_split(pair.identity), pair.member)
        writer.about |= {**about, "counts": dict(counts), "unreadable": unreadable}
    return PairTable(folder)


def merge_pieces(folder: Path, root: Path, pieces: Iterable[Piece], about: Mapping[str, Any]) -> PairTable:
    """Copy the pieces into one table and return it, with a file that names the images that cannot be decoded.

    Raises DataError naming the two files where one id stands twice.
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


def _check_ids(table: PairTable) -> None:
    twice = table.repeated_id()
    if twice is not None:
        first, second = (table.path(int(table.file[row])) for row in twice)
        raise DataError(
            f"{second}: the id {quoted(table.identity(twice[1]))} is there already, in {first}; an id names one pair"
        )


def table_dataset(path: Path, table: PairTable, notes: Sequence[str] = ()) -> Dataset:
    """Return a merged table as a data set, with notes on what was left out.

    Raises DataError where it has no pair.
    """
    counts: dict[str, int] = dict(table.about["counts"])
    cleaned = counts.pop(_CLEANED, 0)
    said = [f"left out {counted(count, 'pair')} {why}" for why, count in counts.items() if why != _UNREADABLE]
    if count := counts.get(_UNREADABLE, 0):
        said.append(
            f"left out {counted(count, 'pair')} {_UNREADABLE}; they are named in {table.folder / _UNREADABLE_NAME}"
        )
    if cleaned:
        said.append(
            f"cleaned the captions of {counted(cleaned, 'pair')} of control characters, broken characters or outer "
            "spaces"
        )
    if not len(table):
        why = f" ({'; '.join([*notes, *said])})" if said or notes else ""
        raise DataError(f"{path}: no image with a caption in it{why}")
    if table.about["invented"]:
        sizes = ", ".join(f"{name} {count:,}" for name, count in table.split_sizes().items())
        said.append(f"the data has no splits: divided 80/10/10 by a hash of each medium's id ({sizes})")
    return TableDataset(
        table.root.name or str(table.root),
        path,
        table.root,
        table.media_of(),
        (*notes, *said),
        counts.get(NO_CAPTION, 0),
        unreadable=(counts.get(_UNREADABLE, 0), table.folder / _UNREADABLE_NAME),
        table=table,
    )


def _checked(
    root: Path, found: Iterable[Pair | str], counts: Counter[str], pool: ThreadPoolExecutor
) -> Iterator[tuple[Pair, str | None]]:
    """Yield the pairs with cleaned captions and why their image cannot be decoded, counting what is left out."""
    pairs = _cleaned(found, counts)
    while part := list(islice(pairs, _DECODED_AT_ONCE)):
        reasons = pool.map(lambda pair: why_unreadable_image(root / pair.path, pair.member), part)
        yield from zip(part, reasons, strict=True)


def _read_bytes(path: Path, member: tuple[int, int] | None) -> None:
    """Raise DataError where it is the disk that fails, not the image: that may pass, and is not to be remembered."""
    try:
        with open(path, "rb") as file:
            file.seek(member[0] if member else 0)
            file.read(member[1] if member else -1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _cleaned(found: Iterable[Pair | str], counts: Counter[str]) -> Iterator[Pair]:
    for pair in found:
        if isinstance(pair, str):
            counts[pair] += 1
            continue
        caption = clean_text(pair.caption)
        if not caption:
            counts[NO_CAPTION] += 1
            continue
        counts[_CLEANED] += caption != pair.caption
        yield pair._replace(caption=caption)
