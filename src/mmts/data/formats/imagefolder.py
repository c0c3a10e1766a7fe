"""Hugging Face imagefolder: images beside metadata.jsonl or metadata.csv, at the root or in one folder per split."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from mmts.data.formats.captions_jsonl import caption_texts, scalar_text
from mmts.data.formats.collect import Collector, read_lines, split_folders
from mmts.data.formats.json_file import field, json_lines
from mmts.data.formats.table import USUAL_COLUMNS, Row, add_rows, advice, find_column, has_usual_column, table_rows
from mmts.data.records import SPLITS, Dataset, split_name
from mmts.errors import DataError, listed

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


def metadata_files(folder: Path) -> dict[Path, str | None]:
    """Return the metadata files of an imagefolder with the folder of a split each lies in; None: at the root."""
    at_root = _metadata_file(folder)
    if at_root is not None:
        return {at_root: None}
    found = {each.name: _metadata_file(each) for each in split_folders(folder)}
    return {file: name for name, file in found.items() if file is not None}


def read_imagefolder(path: str | Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read an imagefolder, or one metadata file by itself; paths are relative to the metadata file's folder.

    Scalar fields become labels; `columns` names the fields "media" and "caption" where they are not usual ones. The
    split is the field `split`, else the folder that the metadata file lies in. With one metadata file at the root it is
    the first folder of file_name, where one of these is named train, or all of them train, val or test (in any case,
    and by their usual names). Raises DataError naming file and line.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    files: dict[Path, str | None] = {path: None} if path.is_file() else metadata_files(path)
    collector = Collector(path, folder, merge=True)
    for file, name in files.items():
        rows = list(_rows(file, columns, collector.notes))
        _splits_from_folders(collector, rows, [_first_folder(row.path) if name is None else name for row in rows])
        add_rows(collector, rows, name or "")
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
        raise DataError(f"{folder}: both {' and '.join(METADATA_NAMES)}; give the one that counts, as {found[0]}")
    return found[0] if found else None


def _first_folder(path: str) -> str:
    parts = PurePath(path.replace("\\", "/")).parts
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
    roles = (path_name, caption_name, "id", "split")
    others = {key: scalar_text(value) for key, value in record.items() if key not in roles}
    return Row(
        where,
        field(where, record, path_name, str, "a path"),
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
