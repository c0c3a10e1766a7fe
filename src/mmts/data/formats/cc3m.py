"""Conceptual Captions (CC3M): the official TSV files of captions and addresses, with a folder of downloaded images."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmts.console import progress_bar
from mmts.data.formats.collect import read_lines, reading
from mmts.data.formats.pair_index import Pair, Piece, index_piece, read_indexed
from mmts.data.formats.parts import files_in
from mmts.data.formats.shards import read_shards
from mmts.data.media.reading import file_state, threads
from mmts.data.media.suffixes import IMAGE_SUFFIXES
from mmts.data.records import Dataset
from mmts.errors import DataError, quoted
from mmts.files import cache_root, content_hash

_ROWS = 10_000  # rows of a TSV per piece
_COMPARED = 2_000  # images whose own caption file is compared with their row
_MISPLACED = 0.01  # the share of them that may have the caption of another row: captions from the web repeat
_ADDRESS = re.compile(r"\s*https?://", re.IGNORECASE)
_HEADER = ["caption", "url"]
_NO_FILE = "without an image file (failed downloads)"
# 12.jpg, 000000012.jpg, and 12_3890171219 or 12_3890171219.jpg: some download scripts add the address's CRC-32.
_NAME = re.compile(
    rf"(\d{{1,18}})(?:(?:_\d+)?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})|_\d+)", re.IGNORECASE | re.ASCII
)


class Part(NamedTuple):
    """One of the two TSV files: its split, its official number of rows, and where its images may be."""

    tsv: str
    split: str
    num_rows: int
    folders: tuple[str, ...]


PARTS = (
    Part("Train_GCC-training.tsv", "train", 3_318_333, ("training", "Train_GCC-training", "images")),
    Part("Validation_GCC-1.1.0-Validation.tsv", "val", 15_840, ("validation", "Validation_GCC-1.1.0-Validation")),
)


class Images(NamedTuple):
    """The sorted rows (F,) of a part's images, their files, and the state of every folder searched, below the root."""

    rows: npt.NDArray[np.int64]
    paths: list[str]
    folders: dict[str, tuple[int | None, int]]


def find_images(root: Path, folder: str) -> Images:
    """Walk `folder` inside `root`. Raises DataError if it holds no image, or two images of one row; OSError."""
    folders = {}
    files: list[tuple[int, str]] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        folders[here] = file_state(root / here)  # before the scan, so that a later change shows
        with os.scandir(root / here) as entries:
            for entry in entries:
                if entry.is_dir():
                    if not entry.is_symlink():  # which may lead back up
                        waiting.append(f"{here}/{entry.name}")
                elif matched := _NAME.fullmatch(entry.name):
                    files.append((int(matched[1]), f"{here}/{entry.name}"))
    if not files:
        raise DataError(f"{root / folder}: no image in it is named by the number of its row, such as 12.jpg")
    files.sort()
    for (row, first), (next_row, second) in pairwise(files):
        if row == next_row:
            raise DataError(f"{root / first} and {root / second} are both the image of row {row}")
    return Images(np.array([row for row, _ in files]), [path for _, path in files], folders)


def looks_like_cc3m(path: Path) -> bool:
    """Return whether a folder holds one of CC3M's two TSV files."""
    return any((path / part.tsv).is_file() for part in PARTS)


def read_cc3m(path: str | Path) -> Dataset:
    """Read CC3M: a folder with the official TSV files and the images, or with shards (see `read_shards`).

    docs/datasets.md says where images may be and how they are named. Ids are "train-12", "val-12". One of the two TSV
    files is enough. Every image is decoded once. The index is kept until a TSV changes or a file is added or removed;
    then only the pieces of 10,000 rows are made again in which a row, or an image's name, size or time changed.

    Raises DataError naming the line that is not such a row, missing images, two images of one row, a TSV that ends
    before the row of an image, or captions in .txt files beside the images that belong to other rows.
    """
    root = Path(os.path.abspath(Path(path).expanduser()))
    parts = [part for part in PARTS if (root / part.tsv).is_file()]
    with reading(root):
        if files_in(root, ".tar"):
            dataset = read_shards(root)
            beside = " and ".join(part.tsv for part in parts)
            note = [f"the shards in it are read, and not {beside} with the images"] if beside else []
            return replace(dataset, notes=(*note, *dataset.notes))
        if not parts:
            raise DataError(f"{root}: neither {' nor '.join(part.tsv for part in PARTS)} is in it, and no shards")

        def is_current(state: Mapping[str, list[object]]) -> bool:
            # Adding, removing or renaming a file changes the modification time of its folder.
            is_complete = all(part.tsv in state for part in parts)
            return is_complete and all([*file_state(root / name)] == before for name, before in state.items())

        def make() -> tuple[Mapping[str, Any], Iterable[Piece]]:
            state = {part.tsv: file_state(root / part.tsv) for part in parts}
            images = {}
            for part in parts:
                folder = next((name for name in part.folders if (root / name).is_dir()), None)
                if folder is None:
                    where = f"they lie in a folder {part.folders[0]} beside it"
                    raise DataError(f"{root}: the images of {part.tsv} are missing; {where}")
                images[part] = find_images(root, folder)
                state |= images[part].folders
            for part, files in images.items():
                _check_rows(root, part, files)
            return state, _pieces(root, images)

        return read_indexed(root, root, cache_root() / "cc3m" / content_hash(str(root)), make, is_current)


def _pieces(root: Path, images: Mapping[Part, Images]) -> Iterator[Piece]:
    total = sum(len(files.rows) for files in images.values())
    with threads() as pool, progress_bar("checking images", total, "images") as bar:
        for part, files in images.items():
            rows, first = _rows(root / part.tsv), 0
            while captions := list(islice(rows, _ROWS)):
                low, high = np.searchsorted(files.rows, [first, first + len(captions)]).tolist()
                paths = dict(zip(files.rows[low:high].tolist(), files.paths[low:high], strict=True))
                states = (f"{path}\0{[*file_state(root / path)]}" for path in paths.values())
                name = content_hash(str(root), part.split, str(first), *captions, *states)
                pairs = (
                    Pair(f"{part.split}-{row}", caption, paths[row]) if row in paths else _NO_FILE
                    for row, caption in enumerate(captions, first)
                )
                yield index_piece(cache_root() / "cc3m" / f"{name}.json", root, pairs, pool), root, part.split
                bar.advance(high - low)
                first += len(captions)


def _rows(tsv: Path) -> Iterator[str]:
    """Yield the caption of every row; quotes are plain text in these files, and blank lines at the end are skipped."""
    blank = 0
    for number, line in read_lines(tsv):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError(f"{tsv}, line {blank} is blank; images are named by their row, so none may be skipped")
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and [field.strip().lower() for field in fields] == _HEADER:
            continue
        is_swapped = _ADDRESS.match(fields[0]) and not _ADDRESS.match(fields[-1])
        if len(fields) != 2 or not fields[1].strip() or is_swapped:
            raise DataError(f"{tsv}, line {number}: a row is a caption, a tab and an address, and not {quoted(line)}")
        yield fields[0]


def _check_rows(root: Path, part: Part, images: Images) -> None:
    """Read the TSV to the end, which finds broken lines before hours of decoding, and look for images without a row.

    If a download script has written NAME.txt beside NAME.jpg, its caption must be that of the image's row.
    """
    tsv = root / part.tsv
    written = {}  # the captions in files beside up to 2,000 images, evenly spread, by position in `images.rows`
    for at in np.unique(np.linspace(0, len(images.rows) - 1, _COMPARED).astype(int)).tolist():
        with suppress(OSError):  # usually the file does not exist
            text = (root / images.paths[at]).with_suffix(".txt").read_bytes()
            written[at] = _comparable(text.decode("utf-8", "replace"))
    rows_of: dict[str, list[int]] = {text: [] for text in written.values()}
    num_rows = 0
    for row, caption in enumerate(_rows(tsv)):
        num_rows += 1
        if rows_of and (text := _comparable(caption)) in rows_of:
            rows_of[text].append(row)
    known = {at: rows_of[text] for at, text in written.items() if rows_of[text]}
    wrong = {at: rows for at, rows in known.items() if images.rows[at] not in rows}
    if len(wrong) > _MISPLACED * len(written):
        at, rows = next(iter(wrong.items()))
        raise DataError(
            f"{tsv}: {len(wrong):,} of {len(written):,} images have the caption of another row in the .txt file beside "
            f"them: that of {images.paths[at]} is the caption of row {rows[0]:,} counted from 0. Rename each image to "
            "the number of its row, counted from 0 without a gap, or give captions.jsonl"
        )
    beyond = int(np.searchsorted(images.rows, num_rows))
    if beyond < len(images.rows):
        from_one = images.rows[0] > 0 and images.rows[-1] == num_rows
        raise DataError(
            f"{tsv} has {num_rows:,} rows, and the official file {part.num_rows:,}: {images.paths[beyond]} would be "
            f"the image of row {images.rows[beyond]:,} counted from 0, as an image's name is the number of its row"
            f"{'. Image 0 is missing: these seem to be counted from 1' if from_one else ''}"
        )


def _comparable(caption: str) -> str:
    return " ".join(caption.removeprefix("\ufeff").lower().split())
