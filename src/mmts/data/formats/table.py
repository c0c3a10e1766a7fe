"""CSV and TSV files with a column of paths and one of captions, as open_clip, Excel, pandas and others write them."""

import csv
import mimetypes
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import Collector, inner_path, listed_strings, read_lines
from mmts.data.records import Dataset, Label
from mmts.errors import DataError, listed, nearest, quoted

# The usual names of the columns of a medium, in lower case with _ for spaces; the first one that is there counts.
USUAL_COLUMNS = {
    "media": (
        *("filepath", "file_path", "file_name", "filename", "path", "file", "image_path", "img_path", "video_path"),
        *("image_name", "image_file", "image", "img", "video", "picture", "photo"),
    ),
    "caption": ("caption", "captions", "title", "text", "description", "sentence", "comment"),
}
_ROLES = {"media": "paths (filepath, file_name, image, ...)", "caption": "captions (caption, text, title, ...)"}
_SEPARATORS = ",;\t|"
_EXAMPLES = 50  # rows that tell whether a column looks like paths or text
_LOOKS = {"address": "://", "path": r"\S.*\.[A-Za-z][A-Za-z0-9]{1,4}\Z", "text": r"[^\W\d]"}
Row = dict[str, Any]  # the arguments of `Collector.add` for a path and its captions; rows of one path are one medium


def read_table(file: str | Path, columns: Mapping[str, str] | None = None) -> Dataset:
    """Read a table; paths in it are relative to its folder. Other columns than id and split become labels.

    `columns` names the columns "media" and "caption" if their names are not usual ones. Raises DataError naming the
    columns found and expected, or the invalid line.
    """
    file = Path(file)
    collector = Collector(file, file.parent, merge=True)
    folder = None
    for row in table_rows(file, columns, collector.notes):
        if folder is None:
            folder = _folder_of_media(file.parent, inner_path(row["path"], row["where"], file.parent))
            if folder:
                collector.notes.append(f"paths are those of files in {folder}/, where the first one is")
        collector.add(**row, folder=folder)
    return collector.finish()


def _folder_of_media(root: Path, path: str) -> str:
    """Return the folder in `root` that paths are relative to, given the first of them; "" for `root` itself.

    Kaggle's Flickr8k and others have a table beside the folder of images.
    """
    if os.path.lexists(root / path):
        return ""
    with os.scandir(root) as entries:
        folders = [entry.name for entry in entries if entry.is_dir() and os.path.exists(root / entry.name / path)]
    return folders[0] if len(folders) == 1 else ""


def table_rows(file: Path, columns: Mapping[str, str] | None = None, notes: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a table; `columns` as in `read_table`. Choices and corrections are added to `notes`."""
    notes = [] if notes is None else notes
    records = csv_records(file, columns)
    _, header = next(records, ("", []))
    if not header:
        raise DataError(f"{file}: the file is empty; its first line should name the columns")
    header = [name.strip().strip("\ufeff") for name in header]
    if repeated := [name for name in header if name and header.count(name) > 1]:
        raise DataError(f"{file}: the column {repeated[0]!r} is there twice")
    try:
        path_at, caption_at = (find_column(header, role, columns, notes) for role in USUAL_COLUMNS)
    except DataError as error:
        examples = [cells for _, cells in islice(records, _EXAMPLES)]
        raise DataError(f"{file}: {error}{advice(header, examples, columns)}") from None
    others = {name: at for at, name in enumerate(header) if name and at not in (path_at, caption_at)}
    roles = {_plain(name): others.pop(name) for name in list(others) if _plain(name) in ("id", "split")}
    short = bare = 0
    for where, cells in records:
        if max(path_at, caption_at) < len(cells) < len(header):  # Excel omits empty cells at the end of a row
            short += 1
            cells += [""] * (len(header) - len(cells))
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            raise DataError(f"{where}: {len(cells)} fields, while the header names {len(header)} columns")
        if not cells[path_at].strip() and not cells[caption_at].strip():
            bare += 1
            continue
        identity, split = (cells[roles[role]] if role in roles else None for role in ("id", "split"))
        labels: dict[str, Label] = {}
        for name, at in others.items():
            if cells[at].strip():
                values = listed_strings(cells[at].strip())
                labels[name] = cells[at] if values is None else [value for value in values if value.strip()]
        row = {"where": where, "identity": identity, "split": split, "labels": labels}
        yield {**row, "path": cells[path_at].strip(), "captions": [cells[caption_at]]}
    if bare:
        notes.append(f"left out rows with neither a path nor a caption: {bare:,}")
    if short:
        notes.append(f"rows that end early, whose last columns count as empty: {short:,}")


def find_column(names: list[str], role: str, columns: Mapping[str, str] | None, notes: list[str]) -> int:
    """Return the place of the column of a role ("media" or "caption"): the one in `columns`, else a usual name.

    A choice among several usual names is added to `notes`. Raises DataError if there is no such column.

    >>> find_column(["Nr", "File Name"], "media", None, []), find_column(["Bild"], "media", {"media": "bild"}, [])
    (1, 0)
    """
    plain = [_plain(name) for name in names]
    if wanted := (columns or {}).get(role):
        if wanted in names:
            return names.index(wanted)
        if _plain(wanted) in plain:
            return plain.index(_plain(wanted))
        raise DataError(f"there is no column {wanted!r} for {role}; {nearest(wanted, filter(None, names))}")
    usual = [name for name in USUAL_COLUMNS[role] if name in plain]
    if not usual:
        raise DataError(f"the column of {_ROLES[role]} is missing")
    if len(usual) > 1:
        chosen, *others = (repr(names[plain.index(name)]) for name in usual)
        notes.append(f"{role} from the column {chosen}, not {' or '.join(others)}; --columns {role}=NAME takes another")
    return plain.index(usual[0])


def has_usual_column(names: Iterable[str], role: str) -> bool:
    """Return whether one of these names is usual for the column of a role."""
    return not {*map(_plain, names)}.isdisjoint(USUAL_COLUMNS[role])


def _plain(name: str) -> str:
    """Return a column's name for comparison: in lower case, with _ for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def advice(header: list[str], rows: list[list[str]], columns: Mapping[str, str] | None) -> str:
    """Return which columns there are, which ones look like paths and text by some rows, and how to name both."""
    if any((mimetypes.guess_type(name)[0] or "").startswith(("image/", "video/")) for name in header):
        return f"; the first line should name the columns, and is {listed(header)}"
    if usual := [row for row in rows if all(has_usual_column(row, role) for role in USUAL_COLUMNS)]:
        return f"; remove the lines above the one that names the columns: {listed(filter(None, usual[0]))}"
    looks: dict[str, list[str]] = {kind: [] for kind in _LOOKS}
    num_words = {}
    for at, name in enumerate(header):
        cells = [row[at].strip() for row in rows if at < len(row) and row[at].strip()]
        # A column is what most of its cells look like.
        counts = {kind: sum(bool(re.search(pattern, cell)) for cell in cells) for kind, pattern in _LOOKS.items()}
        kind = next((kind for kind, count in counts.items() if count > len(cells) / 2), None)
        if name and kind:
            looks[kind].append(name)
            num_words[name] = sum(len(cell.split()) for cell in cells) / len(cells)
    addresses, paths, texts = looks["address"], looks["path"], sorted(looks["text"], key=lambda name: -num_words[name])
    listing = f"; found {listed(filter(None, header))}"
    if addresses and not paths:
        return f"{listing}. {quoted(addresses[0])} holds addresses: download the files, and write where each one is"
    if not paths or not texts:
        return f"{listing}, none of which looks like {'text' if paths else 'paths of files'}"
    chosen = {}
    for role, names in {"media": paths, "caption": texts}.items():
        named = (name for name in names if name == (columns or {}).get(role) or has_usual_column([name], role))
        chosen[role] = next(named, names[0])
    call = shlex.quote(",".join(f"{role}={name}" for role, name in chosen.items()))
    both = f"{quoted(chosen['media'])} looks like paths and {quoted(chosen['caption'])} like text"
    return f"{listing}; {both}" + (f": --columns {call}" if len(call) < 200 and call.isprintable() else "")


def csv_records(file: Path, columns: Mapping[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield ("FILE, line N", cells) for every row that is not blank; N is the line on which the row starts.

    The first two lines tell the separator: by the usual names of columns or those in `columns`, else by its frequency.
    """
    lines = _lines(file)
    start = list(islice(lines, 2))
    offset = 0
    # Excel and some other programs write the separator on such a line.
    if start and (written := re.fullmatch(rf'"?sep=([{_SEPARATORS}])"?\s*', start[0])):
        separator, offset = written[1], 1
    else:
        separator = _separator(start, file.suffix.lower() == ".tsv", columns or {})
    csv.field_size_limit(2**31 - 1)  # the module's default, 131,072, is too small for long captions
    reader = csv.reader(chain(start[offset:], lines), delimiter=separator, strict=True)
    line = 1 + offset
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{file}, line {line}", cells
            line = reader.line_num + 1 + offset
    except csv.Error as error:
        raise DataError(f'{file}, line {line}: {error}; a quoted field begins and ends with "') from None


def _lines(file: Path) -> Iterator[str]:
    """Yield lines that end in LF, CR LF or CR alone, as Excel for Macintosh wrote them."""
    for _, line in read_lines(file):
        # NUL becomes another control character, since older csv modules stop at it; captions are cleaned of both.
        line = line.replace("\0", "\1")
        yield from re.findall(r"[^\r]*\r(?:\n|$)?|[^\r]+", line) if "\r" in line[:-2] else [line]


def _separator(start: list[str], is_tsv: bool, columns: Mapping[str, str]) -> str:
    """Return the separator of a table that begins with these lines."""
    first = start[0] if start else ""
    if is_tsv and "\t" in first:
        return "\t"
    unquoted = [re.sub(r'"[^"]*("|$)', "", line) for line in start]
    known = {*map(_plain, columns.values()), *(name for names in USUAL_COLUMNS.values() for name in names)}

    def fits(separator: str) -> tuple[int, bool, int]:
        names = {_plain(cell.strip('\ufeff" \r\n')) for cell in first.split(separator)}
        counts = [line.count(separator) for line in unquoted] or [0]
        return len(names & known), 0 < min(counts) == max(counts), counts[0]

    return max(_SEPARATORS, key=fits)
