"""Hugging Face imagefolder: images beside metadata.jsonl or metadata.csv, at the root or in one folder a split."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from mmts.data.captions_jsonl import json_lines, kind_in_words, scalar_text
from mmts.data.collect import Collector, read_lines, split_folders
from mmts.data.records import SPLITS, Dataset, split_name
from mmts.data.table import Row, add_rows, table_rows
from mmts.errors import DataError, listed

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


def metadata_files(folder: Path) -> dict[Path, str | None]:
    """Return the metadata files of an imagefolder with the folder of a split each lies in; None: at the root."""
    at_root = _metadata_file(folder)
    if at_root is not None:
        return {at_root: None}
    found = {each.name: _metadata_file(each) for each in split_folders(folder)}
    return {file: name for name, file in found.items() if file is not None}


def read_imagefolder(folder: str | Path) -> Dataset:
    """Read an imagefolder; file_name is relative to the metadata file's folder, scalar fields become labels.

    The split is the field `split`, else the folder that the metadata file lies in. With one metadata file at the root
    it is the first folder of file_name, where one of these is named train, or all of them train, val or test (in any
    case, and by their usual names). Raises DataError naming file and line.
    """
    folder = Path(folder)
    collector = Collector(folder, folder, merge=True)
    files = metadata_files(folder)
    for file, name in files.items():
        rows = list(_rows(file))
        _splits_from_folders(collector, rows, [_first_folder(row.path) if name is None else name for row in rows])
        add_rows(collector, rows, "" if name is None else f"{name}/")
    collector.notes += _left_out(folder, files)
    return collector.finish()


def _left_out(folder: Path, files: Mapping[Path, str | None]) -> Iterator[str]:
    read = {file.parent for file in files}
    others = [each.name for each in sorted(folder.iterdir()) if each not in read and each.is_dir()]
    with_metadata = [name for name in others if any((folder / name / each).is_file() for each in METADATA_NAMES)]
    if None in files.values():
        why = "as the metadata file at the root counts"
    else:
        why = "as the folders are not named like a split"
        bare = [each.name for each in split_folders(folder) if each not in read]
        if bare:
            yield f"without metadata.jsonl or metadata.csv, so left out: {', '.join(bare)}"
    if with_metadata:
        yield f"left out the metadata in {listed(with_metadata)}, {why}"


def _metadata_file(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder}: both {' and '.join(METADATA_NAMES)}; keep the one that counts")
    return found[0] if found else None


def _first_folder(path: str) -> str:
    parts = PurePath(path).parts
    return parts[0] if len(parts) > 1 else ""


def _splits_from_folders(collector: Collector, rows: list[Row], folders: list[str]) -> None:
    """Give the rows without a split that of their folder, where the folders are splits."""
    names = {split_name(name) for name in folders}
    if "train" not in names and not names <= {*SPLITS}:
        return
    others = 0
    for row, name in zip(rows, folders, strict=True):
        if row.split is None or not row.split.strip():
            row.split = name
        others += split_name(row.split) != split_name(name) != ""
    if others:
        collector.notes.append(
            f"the field split counts, and it is another than the folder's in {others:,} of {len(rows):,} rows"
        )


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
