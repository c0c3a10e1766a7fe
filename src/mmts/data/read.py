"""Read a path in any of the formats of docs/datasets.md as a Dataset."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mmts.data.epic_kitchens import looks_like_epic_kitchens, read_epic_kitchens
from mmts.data.formats.captions_jsonl import read_captions_jsonl
from mmts.data.formats.cc3m import looks_like_cc3m, read_cc3m
from mmts.data.formats.coco import looks_like_coco_captions, looks_like_karpathy, read_coco_captions, read_karpathy
from mmts.data.formats.imagefolder import METADATA_NAMES, looks_like_metadata, metadata_files, read_imagefolder
from mmts.data.formats.json_file import beginning, json_lines
from mmts.data.formats.parquet import read_parquet
from mmts.data.formats.parts import files_in
from mmts.data.formats.shards import read_shards
from mmts.data.formats.table import read_table, table_rows
from mmts.data.formats.youcook2 import looks_like_youcook2, read_youcook2
from mmts.data.media.suffixes import is_medium
from mmts.data.records import Dataset
from mmts.data.remote import fetch_data, fetch_media
from mmts.errors import DataError, counted, listed
from mmts.files import as_address, why_missing

CAPTIONS_NAME = "captions.jsonl"
_TABLES = (".csv", ".tsv", ".txt")
_IN_PARTS: Mapping[str, Callable[..., Dataset]] = {".tar": read_shards, ".parquet": read_parquet}
_SAVE_AS_CSV = "save the table as CSV UTF-8 and give that file"
_AS_PARQUET = 'write it as parquet (in Python: pandas.read_feather("FILE").to_parquet("captions.parquet"))'
# Formats of tables that are not read, and what to do.
_NOT_READ = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"), _SAVE_AS_CSV),
    **dict.fromkeys((".arrow", ".feather"), _AS_PARQUET),
    **dict.fromkeys((".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"), "unpack it and give its contents"),
}
_LOOKED_FOR = (
    "looked for captions.jsonl, for the files of Flickr30K, MSCOCO, EPIC-KITCHENS-100, YouCook2 and CC3M, for .tar "
    "shards, .parquet tables, and metadata.jsonl or metadata.csv (Hugging Face imagefolder) there and in folders named "
    "train, validation and test"
)
# Files of data sets that are read as a whole folder.
_PARTS = {
    "*_GCC-*.tsv": looks_like_cc3m,
    "EPIC_100_*.csv": looks_like_epic_kitchens,
    "youcookii_annotations_*.json": looks_like_youcook2,
}
_FILES = "a .jsonl, .csv, .tsv, .txt, .parquet or .tar file, or a .json file of Flickr30K or MSCOCO"
_Reader = tuple[Callable[[Path], object], Callable[..., Dataset]]
# A .json file is read by the first of these that recognizes it, a folder by the first of those below.
_JSON: tuple[_Reader, ...] = ((looks_like_karpathy, read_karpathy), (looks_like_coco_captions, read_coco_captions))
_FOLDERS: tuple[_Reader, ...] = (
    (lambda folder: (folder / CAPTIONS_NAME).is_file(), lambda folder: _read(folder / CAPTIONS_NAME, {})),
    (looks_like_karpathy, read_karpathy),
    (looks_like_epic_kitchens, read_epic_kitchens),
    (looks_like_youcook2, read_youcook2),
    (looks_like_cc3m, read_cc3m),
    (looks_like_coco_captions, read_coco_captions),
    (metadata_files, read_imagefolder),
    (lambda folder: files_in(folder, ".tar"), read_shards),
    (lambda folder: files_in(folder, ".parquet"), read_parquet),
)


def read_dataset(path: str | Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read the data at `path`, a folder, a file, or a pattern ("shards/{000..099}.tar"); the format is recognized.

    `columns` names the columns "media" and "caption" of a table if their names are not usual ones. Raises DataError if
    no format is recognized, naming the nearest thing, and the errors of the readers.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "captions.csv").write_text("filepath,caption\\na.jpg,a cat\\na.jpg,a pet\\n")
    >>> [medium.captions for medium in read_dataset(folder / "captions.csv").media]
    [('a cat', 'a pet')]
    """
    if address := as_address(path):
        local, suffix = fetch_data(address)
        dataset = _read(local, columns or {}, _IN_PARTS[suffix])
        if suffix == ".parquet":  # it may name images that are files of their own
            fetch_media([medium.path for medium in dataset.media])
        return replace(dataset, path=Path(path))
    path = Path(os.path.expanduser(path)).absolute()
    try:
        if path.is_dir() or path.is_file() or path.suffix in _IN_PARTS:  # the latter may be a pattern
            return _read(file if (file := path / CAPTIONS_NAME).is_file() else path, columns or {})
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    raise DataError(f"{path} {why_missing(path)}")


def reader_of(folder: Path) -> Callable[..., Dataset] | None:
    """Return the reader of the data set in a folder, or None if no format is recognized."""
    return next((read for recognizes, read in _FOLDERS if recognizes(folder)), None)


def _read(path: Path, columns: Mapping[str, str], read: Callable[..., Dataset] | None = None) -> Dataset:
    read = read or (reader_of(path) if path.is_dir() else _reader_of_file(path, columns))
    if read is None:
        raise DataError(f"{path}: no data set recognized: {_LOOKED_FOR}. {_nearest_thing(path, columns)}")
    if read in (read_table, read_imagefolder, read_parquet):
        return read(path, columns)
    dataset = read(path)
    if columns:
        note = f"the columns {listed(columns.values())} are ignored: only tables and metadata files have columns"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    return dataset


def _reader_of_file(file: Path, columns: Mapping[str, str]) -> Callable[..., Dataset]:
    suffix = file.suffix.lower()
    if columns and suffix in _TABLES:  # a table of its own, also where it is one file of a data set
        return read_table
    for folder in (file.parent.parent, file.parent):
        if any(file.match(part) and recognizes(folder) for part, recognizes in _PARTS.items()):
            alone = "; --columns media=NAME,caption=NAME reads it alone" if suffix in _TABLES else ""
            raise DataError(f"{file} is one file of a data set{alone}; give the folder that holds all of it, {folder}")
    if file.name in METADATA_NAMES or (suffix == ".jsonl" and looks_like_metadata(file)):
        return read_imagefolder
    by_suffix = {**dict.fromkeys(_TABLES, read_table), ".jsonl": read_captions_jsonl, **_IN_PARTS}
    if suffix in by_suffix:
        return by_suffix[suffix]
    for recognizes, read in _JSON if suffix == ".json" else ():
        if recognizes(file):
            return read
    if suffix in _NOT_READ:
        raise DataError(f"{file}: {suffix} files are not read; {_NOT_READ[suffix]}")
    if suffix == ".json" and beginning(file).lstrip().startswith(b"["):
        raise DataError(f"{file} holds a list; write its objects one per line into a .jsonl file (docs/datasets.md)")
    raise DataError(f"{file}: data is a folder, {_FILES}; this is neither")


def _nearest_thing(folder: Path, columns: Mapping[str, str]) -> str:
    """Return what in the folder comes closest to data."""
    entries = sorted(islice(folder.iterdir(), 10_000))
    broken = None
    for file in sorted(entries, key=lambda file: "caption" not in file.name.lower()):
        try:
            if _is_data(file, columns):
                return f"The nearest thing is {file.name}: give that file itself, {file}"
        except DataError as error:
            broken = broken or (None if file.suffix.lower() == ".txt" else error)
    for inside in entries:
        if inside.is_dir() and reader_of(inside) is not None:
            return f"The nearest thing is the folder {inside.name} in it: give {inside}"
    if broken is not None:
        return f"The nearest thing is a file that cannot be read either: {broken}"
    for item in entries:
        if remedy := _NOT_READ.get(suffix := item.suffix.lower()):
            return f"It holds {item.name}, and {suffix} files are not read; {remedy}"
    for kind in ("image", "video"):
        if count := sum(is_medium(item, kind) for item in entries):
            return f"It holds {counted(count, kind)}: write captions into a captions.jsonl beside them"
    return "The folder is empty" if not entries else f"It holds {', '.join(item.name for item in entries[:5])}"


def _is_data(file: Path, columns: Mapping[str, str]) -> bool:
    """Return whether a file has a format of data. Raises DataError if its first row cannot be read."""
    suffix = file.suffix.lower()
    if suffix in _TABLES and file.is_file():
        next(table_rows(file, columns), None)
        return True
    if suffix == ".jsonl" and file.is_file():
        fields = next((record.fields for record in json_lines(file)), {})
        if not (looks_like_metadata(file) or {"id", "captions"} <= fields.keys()):
            what = "each line should have 'id', 'captions' and 'image' or 'video'"
            raise DataError(f"{file}: {what}; found {listed(fields)}")
        return True
    return suffix == ".json" and any(recognizes(file) for recognizes, _ in _JSON)
