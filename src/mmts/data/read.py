"""One way in: a path becomes a Dataset, whichever of the formats of docs/datasets.md it holds."""

import difflib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from mmts.data.captions_jsonl import read_captions_jsonl
from mmts.data.cc3m import looks_like_cc3m, read_cc3m
from mmts.data.coco_captions import looks_like_coco_captions, read_coco_captions
from mmts.data.epic_kitchens import looks_like_epic_kitchens, read_epic_kitchens
from mmts.data.imagefolder import METADATA_NAMES, looks_like_metadata, metadata_files, read_imagefolder
from mmts.data.karpathy import looks_like_karpathy, read_karpathy
from mmts.data.records import Dataset
from mmts.data.shards import holds_shards, is_shard_pattern, read_shards
from mmts.data.suffixes import is_medium
from mmts.data.table import read_table
from mmts.data.youcook2 import looks_like_youcook2, read_youcook2
from mmts.errors import DataError

CAPTIONS_NAME = "captions.jsonl"
_TABLES = (".csv", ".tsv")
_LOOKED_FOR = (
    "looked for captions.jsonl, for the files of Flickr30K, MSCOCO, EPIC-KITCHENS-100, YouCook2 and CC3M, for .tar "
    "shards, and for metadata.jsonl or metadata.csv (Hugging Face imagefolder) there and in folders named train, "
    "validation and test"
)
# Files of data sets that are read as a whole folder.
_PARTS = ("*_GCC-*.tsv", "EPIC_100_*.csv", "youcookii_annotations_*.json")
_FILES = "a .jsonl, .csv, .tsv or .tar file, or a .json file of Flickr30K or MSCOCO"


def _has_captions(folder: Path) -> bool:
    return (folder / CAPTIONS_NAME).is_file()


def _read_captions(folder: Path) -> Dataset:
    return read_captions_jsonl(folder / CAPTIONS_NAME)


def _has_metadata(folder: Path) -> bool:
    return bool(metadata_files(folder))


_Reader = tuple[Callable[[Path], bool], Callable[[Path], Dataset]]
# A .json file is read by the first of these that recognises it, a folder by the first of those below.
_JSON: tuple[_Reader, ...] = ((looks_like_karpathy, read_karpathy), (looks_like_coco_captions, read_coco_captions))
_FOLDERS: tuple[_Reader, ...] = (
    (_has_captions, _read_captions),
    (looks_like_karpathy, read_karpathy),
    (looks_like_epic_kitchens, read_epic_kitchens),
    (looks_like_youcook2, read_youcook2),
    (looks_like_cc3m, read_cc3m),
    (looks_like_coco_captions, read_coco_captions),
    (_has_metadata, read_imagefolder),
    (holds_shards, read_shards),
)


def read_dataset(path: str | Path) -> Dataset:
    """Read the data at `path`, recognised by what is there: a folder, a file, or shards ("shards/{000..099}.tar").

    In a folder captions.jsonl counts first, then a public data set's own files, imagefolder metadata, shards. Raises
    DataError where nothing is recognised (naming what was looked for and the nearest thing found), and what the readers
    raise.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "captions.csv").write_text("filepath,caption\\na.jpg,a cat\\na.jpg,a pet\\n")
    >>> [medium.captions for medium in read_dataset(folder / "captions.csv").media]
    [('a cat', 'a pet')]
    """
    path = Path(path).expanduser().absolute()
    try:
        if path.is_dir():
            return _read_folder(path)
        if path.is_file():
            return _read_file(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    if is_shard_pattern(path):
        return read_shards(path)
    raise DataError(f"{path} does not exist{_nearest_name(path)}")


def holds_dataset(folder: Path) -> bool:
    """Return whether a folder is a data set that `read_dataset` recognises."""
    return reader_of(folder) is not None


def reader_of(folder: Path) -> Callable[[Path], Dataset] | None:
    """Return the reader of the data set that a folder is, or None where none recognises it."""
    return next((read for recognises, read in _FOLDERS if recognises(folder)), None)


def _read_folder(folder: Path) -> Dataset:
    read = reader_of(folder)
    if read is not None:
        return read(folder)
    raise DataError(f"{folder}: no data set recognised: {_LOOKED_FOR}. {_nearest_thing(folder)}")


def _read_file(file: Path) -> Dataset:
    suffix = file.suffix.lower()
    if any(file.match(part) for part in _PARTS):
        raise DataError(f"{file} is one file of a data set; give the folder that holds all of it")
    if file.name in METADATA_NAMES:
        return read_imagefolder(file.parent)
    if suffix in _TABLES:
        return read_table(file)
    if suffix == ".jsonl":
        if looks_like_metadata(file):
            raise DataError(
                f"{file}: rows with a file_name are read from files named {' or '.join(METADATA_NAMES)}; rename it"
            )
        return read_captions_jsonl(file)
    if suffix == ".tar":
        return read_shards(file)
    for recognises, read in _JSON if suffix == ".json" else ():
        if recognises(file):
            return read(file)
    raise DataError(f"{file}: data is a folder, {_FILES}; this is neither")


def _nearest_name(path: Path) -> str:
    """Name the existing path most like this one."""
    parent = path.parent
    if not parent.is_dir():
        return f", nor does {parent}"
    near = difflib.get_close_matches(path.name, [each.name for each in islice(parent.iterdir(), 10_000)], n=1)
    return f"; did you mean {parent / near[0]}?" if near else ""


def _nearest_thing(folder: Path) -> str:
    """Say what in the folder comes closest to data."""
    entries = sorted(islice(folder.iterdir(), 10_000))
    tables = [each for each in entries if each.suffix.lower() in (*_TABLES, ".jsonl") and each.is_file()]
    if tables:
        near = difflib.get_close_matches(CAPTIONS_NAME, [each.name for each in tables], n=1, cutoff=0)
        return f"The nearest thing is {near[0]}: give that file itself, or rename it"
    inside = next(_data_folders(entries), None)
    if inside is not None:
        return f"The nearest thing is the folder {inside.name} in it: give {inside}"
    if any(each.suffix.lower() == ".parquet" for each in entries):
        return "It holds .parquet files, which are not read"
    for kind in ("image", "video"):
        if count := sum(is_medium(each, kind) for each in entries):
            what = kind if count == 1 else f"{kind}s"
            return f"It holds {count:,} {what}: write captions into a captions.jsonl beside them (docs/datasets.md)"
    return "The folder is empty" if not entries else f"It holds {', '.join(each.name for each in entries[:5])}"


def _data_folders(entries: list[Path]) -> Iterator[Path]:
    for each in entries:
        if each.is_dir() and holds_dataset(each):
            yield each
