"""Hugging Face imagefolder: images beside metadata.jsonl or metadata.csv, at the root or in one folder per split."""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath

from mmts.data.formats.captions_jsonl import caption_texts, label_value, scalar_text
from mmts.data.formats.collect import Collector, split_folders
from mmts.data.formats.json_file import Record, json_lines
from mmts.data.formats.table import USUAL_COLUMNS, Row, advice, find_column, has_usual_column, table_rows
from mmts.data.records import SPLITS, Dataset, split_name
from mmts.errors import DataError, listed

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


def metadata_files(folder: Path) -> dict[Path, str | None]:
    """Return the metadata files of an imagefolder, each with the folder of its split; None for a file at the root."""
    at_root = _metadata_file(folder)
    if at_root is not None:
        return {at_root: None}
    files = {part.name: _metadata_file(part) for part in split_folders(folder)}
    return {file: name for name, file in files.items() if file is not None}


def read_imagefolder(path: str | Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read an imagefolder, or one metadata file by itself; paths are relative to the metadata file's folder.

    docs/datasets.md says which fields become labels and where splits come from. `columns` names the fields "media" and
    "caption" if their names are not usual ones. Raises DataError naming file and line.
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    files: dict[Path, str | None] = {path: None} if path.is_file() else metadata_files(path)
    collector = Collector(path, folder, merge=True)
    for file, name in files.items():
        is_table, notes = file.suffix == ".csv", collector.notes
        rows = list(table_rows(file, columns, notes) if is_table else record_rows(json_lines(file), columns, notes))
        parents = [PurePath(row["path"].replace("\\", "/")).parts[:-1] for row in rows]
        folders = [next(iter(parts), "") if name is None else name for parts in parents]
        # Folders are splits if one of them is train, or all are named like a split.
        names = {split_name(folder) for folder in folders}
        are_splits = "train" in names or names <= {*SPLITS}
        for row, split in zip(rows, folders, strict=True):
            if are_splits and not (row["split"] or "").strip():
                row["split"] = split
            collector.add(**row, folder=name or "")
    collector.notes += _left_out(folder, files)
    return collector.finish()


def looks_like_metadata(file: Path) -> bool:
    """Return whether the first object of a .jsonl file is a row of metadata, not of captions.jsonl."""
    record = next(json_lines(file), None)
    if record is None:
        return False
    fields = record.fields
    if "file_name" in fields or not fields.keys().isdisjoint(("captions", "start", "end", "frames", "member")):
        return "file_name" in fields
    return all(has_usual_column(list(fields), role) for role in USUAL_COLUMNS)


def _left_out(folder: Path, files: Mapping[Path, str | None]) -> Iterator[str]:
    """Yield notes on the folders that are not read."""
    others = [item for item in sorted(folder.iterdir()) if item not in {file.parent for file in files}]
    why = "as the metadata file at the root counts"
    if None not in files.values():
        why = "as the folders are not named like a split"
        if bare := [item.name for item in split_folders(folder) if item in others]:
            yield f"without metadata.jsonl or metadata.csv, so left out: {', '.join(bare)}"
    if left := [item.name for item in others if any((item / name).is_file() for name in METADATA_NAMES)]:
        yield f"left out the metadata in {listed(left)}, {why}"


def _metadata_file(folder: Path) -> Path | None:
    files = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(files) > 1:
        raise DataError(f"{folder}: both {' and '.join(METADATA_NAMES)}; give the one that counts, as {files[0]}")
    return files[0] if files else None


def record_rows(records: Iterable[Record], columns: Mapping[str, str] | None, notes: list[str]) -> Iterator[Row]:
    """Yield the rows of records with the columns of a table; `columns` and `notes` as in `table_rows`."""

    @lru_cache(maxsize=64)  # most rows have the same fields
    def chosen(fields: tuple[str, ...]) -> tuple[str, str]:
        path, caption = (fields[find_column(list(fields), role, columns, notes)] for role in USUAL_COLUMNS)
        return path, caption

    for record in records:
        fields = record.fields
        try:
            path_name, caption_name = chosen(tuple(fields))
        except DataError as error:
            hint = advice(list(fields), [[*map(str, fields.values())]], None)
            raise DataError(f"{record.where}: {error}{hint}") from None
        others = {key: value for key, value in fields.items() if key not in (path_name, caption_name)}
        identity, split = (scalar_text(others.pop(key, None)) for key in ("id", "split"))
        row = {"where": record.where, "identity": identity, "split": split}
        labels = {}
        for key, value in others.items():
            is_numbers = isinstance(value, list) and not all(isinstance(item, str) for item in value)  # as of a box
            if not is_numbers and (label := label_value(value)) is not None:
                labels[key] = label
        path, captions = record.get(path_name, str, "a path"), caption_texts(record, caption_name)
        yield {**row, "path": path, "captions": captions, "labels": labels}
