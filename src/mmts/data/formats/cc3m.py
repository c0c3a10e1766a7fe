"""Conceptual Captions (CC3M): the official TSV files of captions and addresses, with a folder of downloaded images."""

import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmts.console import progress_bar
from mmts.data.formats.collect import read_lines
from mmts.data.formats.pair_index import Pair, Piece, alone, index_piece, merge_pieces, table_dataset
from mmts.data.formats.shards import holds_shards, read_shards
from mmts.data.media.suffixes import IMAGE_SUFFIXES
from mmts.data.media.threads import threads
from mmts.data.pair_table import PairTable, opened
from mmts.data.records import Dataset
from mmts.errors import DataError
from mmts.files import cache_root, content_hash

_ROWS = 10_000  # of a TSV, to a piece
_COMPARED = 2_000  # images whose own caption file is compared with their row
_MISPLACED = 0.01  # of these, so many may have the caption of another row: the web's captions repeat
_ADDRESS = re.compile(r"\s*https?://", re.IGNORECASE)
_HEADER = ["caption", "url"]
_NO_FILE = "without an image file (failed downloads)"
# 12.jpg, 000000012.jpg, and 12_3890171219 or 12_3890171219.jpg: some download scripts add the address's CRC-32.
_NAME = re.compile(
    rf"(\d{{1,18}})(?:(?:_\d+)?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})|_\d+)", re.IGNORECASE | re.ASCII
)


class Part(NamedTuple):
    """One of the two TSV files: its split, its official rows, and the folders of its images, the first there counts."""

    tsv: str
    split: str
    num_rows: int
    folders: tuple[str, ...]


PARTS = (
    Part("Train_GCC-training.tsv", "train", 3_318_333, ("training", "Train_GCC-training", "images")),
    Part("Validation_GCC-1.1.0-Validation.tsv", "val", 15_840, ("validation", "Validation_GCC-1.1.0-Validation")),
)


class Images:
    """Which rows have an image file, as flat arrays: 32 bytes and the path for each.

    Attributes:
        rows: (F,) int64, sorted.
        folders: every folder looked into, with its time of change, by path relative to the root.
    """

    def __init__(self, root: Path, folder: str) -> None:
        """Walk `folder`; raises DataError where no image is in it or naming two of one row, or OSError."""
        self.folders: dict[str, int] = {}
        rows, ends, paths = array("q"), array("q", [0]), bytearray()
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            self.folders[here] = os.stat(root / here).st_mtime_ns  # before the look, so that a change after it shows
            with os.scandir(root / here) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if not entry.is_symlink():  # which may lead back up
                            waiting.append(f"{here}/{entry.name}")
                    elif matched := _NAME.fullmatch(entry.name):
                        rows.append(int(matched[1]))
                        paths += os.fsencode(f"{here}/{entry.name}")
                        ends.append(len(paths))
        numbers = np.array(rows, dtype=np.int64)
        self._order = np.argsort(numbers, kind="stable")
        self.rows: npt.NDArray[np.int64] = numbers[self._order]
        self._ends, self._paths = ends, paths
        if not len(numbers):
            raise DataError(
                f"{root / folder}: no image in it is named by the number of its row, such as 12.jpg or 000000012.jpg"
            )
        repeated = np.flatnonzero(np.diff(self.rows) == 0)
        if len(repeated):
            at = int(repeated[0])
            first, second = (root / self.path(each) for each in (at, at + 1))
            raise DataError(
                f"{first} and {second} are both the image of row {self.rows[at]}; an image's name is its row"
            )

    def path(self, at: int) -> str:
        """Return the path of the file of row `rows[at]`, relative to the root."""
        place = self._order[at]
        return os.fsdecode(bytes(self._paths[self._ends[place] : self._ends[place + 1]]))


def looks_like_cc3m(path: Path) -> bool:
    """Say whether a folder holds one of CC3M's two TSV files."""
    return any((path / part.tsv).is_file() for part in PARTS)


def read_cc3m(path: str | Path) -> Dataset:
    """Read CC3M: a folder with the official TSV files and the images, or with shards (see `read_shards`).

    Train_GCC-training.tsv is split train, its images lie in training/ (or images/); Validation_GCC-1.1.0-Validation.tsv
    is val, its images lie in validation/; a folder named as the TSV without its suffix does too. One of the two files
    is enough. A row is caption, tab, address; a first line "caption, tab, url", as some tools want it, is no row. An
    image's name is the number of its row, counted from 0, with zeros before it or not, in any subfolder; a row without
    an image is a failed download, left out and counted. Ids are "train-12", "val-12".

    Every image is decoded once. The index is kept until a TSV changes or a file is added or removed, and of its parts
    of 10,000 rows only those are made again in which a row, or an image's name, size or time of change is another.

    Raises:
        DataError: naming the line that is no such row, images missing altogether, two images of one row, a TSV that
            ends before the row of an image, or captions in .txt files beside the images that are those of other rows.
    """
    root = Path(os.path.abspath(Path(path).expanduser()))
    try:
        if not root.is_dir():
            names = " and ".join(part.tsv for part in PARTS)
            raise DataError(f"{root} is no folder; CC3M is the folder that holds {names} and the images")
        if not holds_shards(root):
            return _read(root)
        dataset = read_shards(root)
        beside = [part.tsv for part in PARTS if (root / part.tsv).is_file()]
        note = [f"the shards in it are read, and not {' and '.join(beside)} with the images"] if beside else []
        return replace(dataset, notes=(*note, *dataset.notes))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from None


def _read(root: Path) -> Dataset:
    parts = [part for part in PARTS if (root / part.tsv).is_file()]
    if not parts:
        raise DataError(f"{root}: neither {' nor '.join(part.tsv for part in PARTS)} is in it, and no shards")
    table = _kept(root, parts)
    if table is None:
        with alone(cache_root() / "cc3m"):  # by now another process may have made it
            table = _kept(root, parts) or _indexed(root, parts)
    return table_dataset(root, table)


def _index_folder(root: Path) -> Path:
    return cache_root() / "cc3m" / content_hash(str(root))


def _kept(root: Path, parts: Sequence[Part]) -> PairTable | None:
    table = opened(_index_folder(root), {"tables": {part.tsv: _state(root / part.tsv) for part in parts}})
    return table if table is not None and _unchanged(root, table.about["folders"]) else None


def _indexed(root: Path, parts: Sequence[Part]) -> PairTable:
    tables = {part.tsv: _state(root / part.tsv) for part in parts}
    images = {part: Images(root, _image_folder(root, part)) for part in parts}
    for part, found in images.items():
        _check_rows(root, part, found)
    folders = {name: time for found in images.values() for name, time in found.folders.items()}
    return merge_pieces(_index_folder(root), root, _pieces(root, images), {"tables": tables, "folders": folders})


def _image_folder(root: Path, part: Part) -> str:
    for name in part.folders:
        if (root / name).is_dir():
            return name
    raise DataError(f"{root}: the images of {part.tsv} are missing; they lie in a folder {part.folders[0]} beside it")


def _state(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def _unchanged(root: Path, folders: Mapping[str, int]) -> bool:
    """Say whether no file was added, removed or renamed: each would change its folder's time."""
    try:
        return all(os.stat(root / name).st_mtime_ns == time for name, time in folders.items())
    except OSError:
        return False


def _pieces(root: Path, images: Mapping[Part, Images]) -> Iterator[Piece]:
    total = sum(len(found.rows) for found in images.values())
    with threads() as pool, progress_bar("checking images", total, "images") as bar:
        for part, found in images.items():
            rows = _rows(root / part.tsv)
            first = 0
            while captions := list(islice(rows, _ROWS)):
                low, high = np.searchsorted(found.rows, [first, first + len(captions)]).tolist()
                yield Piece(_piece(root, part, first, captions, found, range(low, high), pool), part.split)
                bar.advance(high - low)
                first += len(captions)


def _piece(
    root: Path,
    part: Part,
    first: int,
    captions: list[str],
    found: Images,
    files: range,
    pool: ThreadPoolExecutor,
) -> PairTable:
    """Index the rows from `first` on, of which `files` have an image; from the cache where nothing has changed."""
    paths = {int(found.rows[at]) - first: found.path(at) for at in files}
    states = (f"{path}\0{_state(root / path)}" for path in paths.values())
    folder = cache_root() / "cc3m" / content_hash(str(root), part.split, str(first), *captions, *states)
    table = opened(folder)
    if table is None:
        pairs: Iterator[Pair | str] = (
            Pair(f"{part.split}-{first + at}", caption, paths[at]) if at in paths else _NO_FILE
            for at, caption in enumerate(captions)
        )
        about: dict[str, Any] = {"tsv": str(root / part.tsv), "first": first}
        table = index_piece(folder, root, pairs, pool, about)
    return table


def _rows(tsv: Path) -> Iterator[str]:
    """Yield the caption of every row; quotes mean nothing in these files, nor do blank lines at their end."""
    blank = 0
    for number, line in read_lines(tsv):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError(
                f"{tsv}, line {blank} is blank; images are named by the number of their row, so none is skipped"
            )
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and [field.strip().lower() for field in fields] == _HEADER:
            continue
        if len(fields) != 2 or not fields[1].strip():
            raise DataError(
                f"{tsv}, line {number}: a row is a caption, a tab and an address; this one has {len(fields) - 1} tabs"
                f"{'' if len(fields) != 2 else ' and nothing after it'}"
            )
        if _ADDRESS.match(fields[0]) and not _ADDRESS.match(fields[1]):
            raise DataError(f"{tsv}, line {number}: the address comes first; a row is a caption, a tab and an address")
        yield fields[0]


def _check_rows(root: Path, part: Part, found: Images) -> None:
    """Read the TSV through, which finds broken lines before hours of decoding, and look for images of no row.

    Where a download script has written the caption into NAME.txt beside NAME.jpg, it must be that of the image's row.
    """
    tsv = root / part.tsv
    written = _captions_beside(root, found)
    rows_of: dict[str, list[int]] = {text: [] for text in written.values()}
    num_rows = 0
    for row, caption in enumerate(_rows(tsv)):
        num_rows += 1
        if rows_of and (text := _as_compared(caption)) in rows_of:
            rows_of[text].append(row)
    wrong = {at: rows_of[text] for at, text in written.items() if rows_of[text] and found.rows[at] not in rows_of[text]}
    if len(wrong) > _MISPLACED * len(written):
        at, rows = next(iter(wrong.items()))
        raise DataError(
            f"{tsv}: {len(wrong):,} of {len(written):,} images have the caption of another row in the .txt file beside "
            f"them: that of {found.path(at)} is the caption of row {rows[0]:,} counted from 0. An image's name is the "
            "number of its row, counted from 0 without a gap; rename the images, or give captions.jsonl"
        )
    beyond = int(np.searchsorted(found.rows, num_rows))
    if beyond < len(found.rows):
        short = f"; the official file has {part.num_rows:,}, so it may be cut short" if num_rows < part.num_rows else ""
        from_one = found.rows[0] > 0 and found.rows[-1] == num_rows
        raise DataError(
            f"{tsv} has {num_rows:,} rows{short}: {found.path(beyond)} would be the image of row "
            f"{found.rows[beyond]:,} counted from 0, as an image's name is the number of its row"
            f"{'. There is no image 0: these seem to be counted from 1' if from_one else ''}"
        )


def _captions_beside(root: Path, found: Images) -> dict[int, str]:
    """Return what the .txt files beside some images hold, evenly spread over all, by position in `found.rows`."""
    captions = {}
    for at in np.unique(np.linspace(0, len(found.rows) - 1, _COMPARED).astype(int)).tolist():
        try:
            text = (root / found.path(at)).with_suffix(".txt").read_bytes()
        except OSError:  # most often there is none
            continue
        captions[at] = _as_compared(text.decode("utf-8", "replace"))
    return captions


def _as_compared(caption: str) -> str:
    return " ".join(caption.removeprefix("\ufeff").lower().split())
