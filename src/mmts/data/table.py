"""CSV and TSV files with the columns filepath and caption, as open_clip writes them."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmts.data.collect import Collector, inner_path, read_lines
from mmts.data.records import Dataset
from mmts.data.suffixes import kind_of
from mmts.errors import DataError, listed

PATH_COLUMNS = ("filepath",)
CAPTION_COLUMNS = ("caption", "title")


@dataclass
class Row:
    """One row of a table: a path and its captions; rows of one path are one medium."""

    where: str
    path: str
    captions: list[str]
    identity: str | None = None
    split: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


def read_table(file: str | Path) -> Dataset:
    """Read a table; paths in it are relative to its folder. Other columns than id and split become labels.

    Raises DataError naming the columns found and expected, or the line that cannot be.
    """
    file = Path(file)
    collector = Collector(file, file.parent, merge=True)
    add_rows(collector, table_rows(file, PATH_COLUMNS, CAPTION_COLUMNS))
    return collector.finish()


def table_rows(file: Path, path_columns: Iterable[str], caption_columns: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of a CSV or TSV file; of the columns named, the first that is there counts."""
    records = csv_records(file)
    try:
        _, header = next(records)
    except StopIteration:
        raise DataError(f"{file}: the file is empty; its first line should name the columns") from None
    header = [name.strip() for name in header]
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise DataError(f"{file}: the column {twice[0]!r} is there twice")
    path_at = _column(file, header, tuple(path_columns))
    caption_at = _column(file, header, tuple(caption_columns))
    named = {name: at for at, name in enumerate(header) if name and at not in (path_at, caption_at)}
    id_at, split_at = named.pop("id", None), named.pop("split", None)
    for where, cells in records:
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} fields, while the header names {len(header)} columns")
        yield Row(
            where,
            cells[path_at],
            [cells[caption_at]],
            None if id_at is None else cells[id_at],
            None if split_at is None else cells[split_at],
            {name: cells[at] for name, at in named.items() if cells[at].strip()},
        )


def add_rows(collector: Collector, rows: Iterable[Row], prefix: str = "") -> None:
    """Hand rows to `collector`, which merges those of one path; `prefix` goes before every path."""
    for row in rows:
        path = inner_path(prefix + row.path, row.where)
        identity = path if row.identity is None else row.identity
        collector.add(row.where, identity, path, row.captions, kind=kind_of(path), labels=row.labels, split=row.split)


def _column(file: Path, header: list[str], names: tuple[str, ...]) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    expected = " or ".join(map(repr, names))
    raise DataError(f"{file}: the column {expected} is missing; found {listed(header)}")


def csv_records(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ("FILE, line N", cells) for every row that is not blank; N is the line on which the row starts."""
    # A NUL becomes another control character: older csv modules stop at NUL, and captions are cleaned of both alike.
    lines = (line.replace("\0", "\1") for _, line in read_lines(file))
    first = next(lines, "")
    tabs = file.suffix.lower() != ".csv" or ("\t" in first and "," not in first)
    reader = csv.reader(_chain(first, lines), delimiter="\t" if tabs else ",", strict=True)
    line = 1
    while (cells := _next_row(reader, f"{file}, line {line}")) is not None:
        if any(cell.strip() for cell in cells):
            yield f"{file}, line {line}", cells
        line = reader.line_num + 1


def _next_row(reader: Iterator[list[str]], where: str) -> list[str] | None:
    limit = csv.field_size_limit(2**31 - 1)  # the module's usual limit, 131,072, stops at long captions
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(f'{where}: {error}; a quoted field begins and ends with "') from None
    finally:
        csv.field_size_limit(limit)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
        yield from rest
