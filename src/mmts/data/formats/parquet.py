"""Parquet tables of captions with paths, or with the images themselves, which are unpacked into the cache once."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmts.console import progress_bar
from mmts.data.formats.collect import Collector, reading
from mmts.data.formats.imagefolder import record_rows
from mmts.data.formats.json_file import Record
from mmts.data.formats.pair_index import alone
from mmts.data.formats.parts import find_files
from mmts.data.formats.table import find_column
from mmts.data.media.reading import file_state
from mmts.data.pair_table import cannot_write
from mmts.data.records import Dataset
from mmts.errors import DataError, counted, first_line
from mmts.files import atomic_folder, cache_root, content_hash, file_name

_ROWS = 256  # read at a time
_IMAGES_AT_ONCE = 16
_IMAGES = "images"
_ENDS = "ends.npy"


def read_parquet(path: str | Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read parquet tables: a folder of .parquet files, one of them, a glob, or braces ("tables/{000..099}.parquet").

    docs/datasets.md says which columns are read; `columns` names "media" and "caption" if their names are not usual
    ones. Images in a column of bytes are copied once into a file of the cache.

    Raises DataError naming missing tables, a table that is damaged, or the row that is wrong, counted from 0.
    """
    pattern = Path(os.path.abspath(Path(path).expanduser()))
    with reading(pattern):
        files, notes = find_files(pattern, ".parquet")
        root = Path(os.path.commonpath([file.parent for file, _ in files]))
        tables = [_opened(file, columns) for file, _ in files]
        with_images = [table.images is not None for table in tables]
        if any(with_images) and not all(with_images):
            one, other = tables[with_images.index(True)], tables[with_images.index(False)]
            raise DataError(f"{one.file} has images in its column {one.images!r}, and {other.file} has none")
        cache = cache_root() / "parquet" / file_name(root.name or "root")
        collector = Collector(pattern, cache if all(with_images) else root, merge=not any(with_images))
        bare = 0
        with progress_bar("reading tables", sum(table.num_rows for table in tables), "rows") as bar:
            for table, (file, split) in zip(tables, files, strict=True):
                inside = os.path.relpath(file.parent, root)
                images, ends = ("", None) if table.images is None else _unpacked(table, cache)
                for row in record_rows(_records(table), table.columns, notes):
                    bar.advance()
                    if ends is None:
                        row["folder"] = inside
                    else:
                        number = int(row["path"])
                        start, end = ends[number : number + 2].tolist()
                        if start == end:
                            bare += 1
                            continue
                        name = os.path.normpath(os.path.join(inside, f"{file.stem}-{number}"))
                        row["identity"] = name if row["identity"] is None else row["identity"]
                        row |= {"path": images, "kind": "image", "member": (start, end - start)}
                    if not (row["split"] or "").strip():
                        row["split"] = split
                    collector.add(**row)
        if bare:
            notes.append(f"left out {counted(bare, 'row')} without an image")
        collector.notes[:0] = dict.fromkeys(notes)  # each table may have added the same note
        return collector.finish()


@contextmanager
def open_parquet(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file. Raises DataError, also for what the body finds damaged when it reads."""
    try:
        # With other settings a whole group of rows, often gigabytes of images, is in memory at once.
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system: it names the file
            raise
        raise DataError(f"{file}: not a parquet file, or damaged ({first_line(error)})") from None


@dataclass(frozen=True)
class _Table:
    """A table: its columns that are read, and the column of images and the parquet column of its bytes, if any."""

    file: Path
    num_rows: int
    names: Sequence[str]
    columns: Mapping[str, str]
    images: str | None = None
    bytes_of: str | None = None


def _opened(file: Path, columns: Mapping[str, str] | None) -> _Table:
    with open_parquet(file) as opened:
        schema, num_rows = opened.schema_arrow, opened.metadata.num_rows
    stored = {field.name: place for field in schema if (place := _place_of_bytes(field))}
    roles = {**({"media": next(iter(stored))} if len(stored) == 1 else {}), **(columns or {})}
    names = [field.name for field in schema if _is_plain(field.type)]
    with suppress(DataError):  # the first row says what is there instead
        media = schema.names[find_column(schema.names, "media", roles, [])]
        if media in stored:
            return _Table(file, num_rows, names, {**roles, "media": media}, media, stored[media])
    return _Table(file, num_rows, names, roles)


def _place_of_bytes(field: pa.Field) -> str | None:
    """Return the parquet column with the bytes of a field: bytes, or a struct of bytes and path as `datasets` has."""
    if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
        return str(field.name)
    is_image = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    return f"{field.name}.bytes" if is_image else None


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether a column holds texts, numbers, true or false, or lists of these."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = ("string", "large_string", "integer", "floating", "boolean")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in kinds)


def _records(table: _Table) -> Iterator[Record]:
    """Yield the rows; the number of the row stands for its image."""
    number = 0
    with open_parquet(table.file) as opened:
        for batch in opened.iter_batches(_ROWS, columns=list(table.names)):
            for fields in batch.to_pylist():
                image = {} if table.images is None else {table.images: str(number)}
                yield Record(f"{table.file}, row {number}", image | fields)
                number += 1


def _unpacked(table: _Table, cache: Path) -> tuple[str, npt.NDArray[np.int64]]:
    """Return the file in the cache with all images of a table, and the ends: image i is between ends i and i + 1."""
    key = content_hash(str(table.file), *map(str, file_state(table.file)), str(table.bytes_of))
    folder = cache / key
    if not folder.is_dir():
        with alone(cache):
            if not folder.is_dir():  # another process may have written it in the meantime
                _unpack(table, folder)
    return f"{key}/{_IMAGES}", np.load(folder / _ENDS, mmap_mode="r")


def _unpack(table: _Table, folder: Path) -> None:
    ends = [0]
    try:
        with (
            atomic_folder(folder) as new,
            open(new / _IMAGES, "wb") as images,
            open_parquet(table.file) as opened,
            progress_bar(f"unpacking {table.file.name}", table.num_rows, "images") as bar,
        ):
            for batch in opened.iter_batches(_IMAGES_AT_ONCE, columns=[table.bytes_of]):
                values: Any = batch.column(0)
                if pa.types.is_struct(values.type):
                    values = values.field("bytes")
                for value in values:
                    ends.append(ends[-1] + (images.write(value.as_buffer()) if value.is_valid else 0))
                bar.advance(len(batch))
            np.save(new / _ENDS, np.array(ends))
    except OSError as error:
        raise cannot_write(folder, error) from None
