"""Hugging Face imagefolder: images beside metadata.jsonl or metadata.csv, at the root or in one folder per split."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from mmts.data.captions_jsonl import caption_texts, json_lines, kind_in_words, scalar_text
from mmts.data.collect import Collector, read_lines
from mmts.data.records import Dataset, split_name
from mmts.data.table import USUAL_COLUMNS, Row, add_rows, advice, find_column, has_usual_column, table_rows
from mmts.errors import DataError

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
_SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test")


def metadata_files(folder: Path) -> dict[Path, str | None]:
    """Return the metadata files of an imagefolder with the split of each; None is the whole data's, at the root."""
    at_root = _metadata_file(folder)
    if at_root is not None:
        return {at_root: None}
    found = {name: _metadata_file(folder / name) for name in _SPLIT_FOLDERS}
    return {file: split_name(name) for name, file in found.items() if file is not None}


def read_imagefolder(path: str | Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read an imagefolder, or one metadata file by itself; paths are relative to the metadata file's folder.

    Scalar fields become labels; `columns` names the fields "media" and "caption" where they are not usual ones. With
    one metadata file at the root, the split is the first folder of file_name where every row has one of train,
    validation (or val, valid, dev) and test there, else the field `split`. Raises DataError naming file and line.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    files: dict[Path, str | None] = {path: None} if path.is_file() else metadata_files(path)
    collector = Collector(path, folder)
    for file, split in files.items():
        rows = list(_rows(file, columns, collector.notes))
        if split is None:
            _splits_from_folders(rows)
        else:
            for row in rows:
                row.split = split
        add_rows(collector, rows, "" if split is None else file.parent.name)
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
        raise DataError(f"{folder}: both {' and '.join(METADATA_NAMES)}; give the one that counts, as {found[0]}")
    return found[0] if found else None


def _parents(files: dict[Path, str | None]) -> set[Path]:
    return {file.parent for file in files}


def _splits_from_folders(rows: list[Row]) -> None:
    paths = [PurePath(row.path.replace("\\", "/")) for row in rows]
    folders = [path.parts[0] if len(path.parts) > 1 else "" for path in paths]
    if rows and all(name in _SPLIT_FOLDERS for name in folders):
        for row, name in zip(rows, folders, strict=True):
            row.split = split_name(name)


def _rows(file: Path, columns: Mapping[str, str] | None, notes: list[str]) -> Iterator[Row]:
    if file.suffix == ".csv":
        yield from table_rows(file, columns, notes)
        return

    @lru_cache(maxsize=64)  # mostly all rows have the same fields
    def chosen(fields: tuple[str, ...]) -> tuple[str, str]:
        path, caption = (fields[find_column(list(fields), role, columns, notes)] for role in USUAL_COLUMNS)
        return path, caption

    for where, record in json_lines(file):
        yield _row(where, record, chosen)


def _row(where: str, record: dict[str, Any], chosen: Callable[[tuple[str, ...]], tuple[str, str]]) -> Row:
    try:
        path_name, caption_name = chosen(tuple(record))
    except DataError as error:
        raise DataError(f"{where}: {error}{advice(list(record), [[*map(str, record.values())]], None)}") from None
    path = record[path_name]
    if not isinstance(path, str):
        raise DataError(f"{where}: {path_name!r} should be a path, not {kind_in_words(path)}")
    roles = (path_name, caption_name, "id", "split")
    others = {key: scalar_text(value) for key, value in record.items() if key not in roles}
    return Row(
        where,
        path,
        caption_texts(where, caption_name, record[caption_name]),
        scalar_text(record.get("id")),
        scalar_text(record.get("split")),
        {key: text for key, text in others.items() if text is not None},
    )


def looks_like_metadata(file: Path) -> bool:
    """Return whether the first object of a .jsonl file is a row of metadata, not one of captions.jsonl."""
    if not any(line.strip() for _, line in read_lines(file)):
        return False
    _, record = next(json_lines(file))
    if "file_name" in record or not record.keys().isdisjoint(("captions", "start", "end", "frames", "member")):
        return "file_name" in record
    return all(has_usual_column(list(record), role) for role in USUAL_COLUMNS)
