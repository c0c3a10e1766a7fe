"""Hugging Face imagefolder: images beside metadata.jsonl or metadata.csv, at the root or in one folder a split."""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from mmts.data.captions_jsonl import json_lines, kind_in_words, scalar_text
from mmts.data.collect import Collector, read_lines
from mmts.data.records import Dataset, split_name
from mmts.data.table import Row, add_rows, table_rows
from mmts.errors import DataError, listed

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
_SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test")


def metadata_files(folder: Path) -> dict[Path, str | None]:
    """Return the metadata files of an imagefolder with the split of each; None is the whole data's, at the root."""
    at_root = _metadata_file(folder)
    if at_root is not None:
        return {at_root: None}
    found = {name: _metadata_file(folder / name) for name in _SPLIT_FOLDERS}
    return {file: split_name(name) for name, file in found.items() if file is not None}


def read_imagefolder(folder: str | Path) -> Dataset:
    """Read an imagefolder; file_name is relative to the metadata file's folder, scalar fields become labels.

    With one metadata file at the root, the split is the first folder of file_name where every row has one of train,
    validation (or val, valid, dev) and test there, else the field `split`. Raises DataError naming file and line.
    """
    folder = Path(folder)
    collector = Collector(folder, folder)
    files = metadata_files(folder)
    for file, split in files.items():
        rows = list(_rows(file))
        if split is None:
            _splits_from_folders(rows)
        else:
            for row in rows:
                row.split = split
        prefix = "" if split is None else f"{file.parent.name}/"
        add_rows(collector, rows, prefix)
    if None not in files.values():
        left_out = [
            name for name in _SPLIT_FOLDERS if (folder / name).is_dir() and folder / name not in _parents(files)
        ]
        if left_out:
            collector.notes.append(f"without metadata.jsonl or metadata.csv, so left out: {', '.join(left_out)}")
    return collector.finish()


def _metadata_file(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: both {' and '.join(METADATA_NAMES)}; keep the one that counts")
    return found[0] if found else None


def _parents(files: dict[Path, str | None]) -> set[Path]:
    return {file.parent for file in files}


def _splits_from_folders(rows: list[Row]) -> None:
    folders = [PurePath(row.path).parts[0] if len(PurePath(row.path).parts) > 1 else "" for row in rows]
    if rows and all(name in _SPLIT_FOLDERS for name in folders):
        for row, name in zip(rows, folders, strict=True):
            row.split = split_name(name)


def _rows(file: Path) -> Iterator[Row]:
    if file.suffix == ".csv":
        return table_rows(file, ("file_name",), ("text", "caption"))
    return (_row(where, record) for where, record in json_lines(file))


def _row(where: str, record: dict[str, Any]) -> Row:
    path = record.get("file_name")
    if not isinstance(path, str):
        what = "is missing" if path is None else f"should be a path, not {kind_in_words(path)}"
        raise DataError(f"{where}: 'file_name' {what}; found {listed(record)}")
    name = next((name for name in ("text", "caption") if name in record), None)
    if name is None:
        raise DataError(f"{where}: 'text' (or 'caption') is missing; found {listed(record)}")
    others = {key: scalar_text(value) for key, value in record.items() if key not in ("file_name", name, "id", "split")}
    return Row(
        where,
        path,
        _texts(where, name, record[name]),
        scalar_text(record.get("id")),
        scalar_text(record.get("split")),
        {key: text for key, text in others.items() if text is not None},
    )


def _texts(where: str, name: str, value: object) -> list[str]:
    texts: list[str] = []
    for text in value if isinstance(value, list) else [] if value is None else [value]:
        if isinstance(text, str):
            texts.append(text)
        else:
            raise DataError(f"{where}: {name!r} should be a string or a list of strings, not {kind_in_words(text)}")
    return texts


def looks_like_metadata(file: Path) -> bool:
    """Return whether the first object of a .jsonl file has a file_name, as an imagefolder's metadata does."""
    if not any(line.strip() for _, line in read_lines(file)):
        return False
    return "file_name" in next(json_lines(file))[1]
