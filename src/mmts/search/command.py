"""What `mmts search` does: print the results, write them as a page or table, or serve a page to this machine only."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size

from mmts.console import console, print_json
from mmts.data.records import values_of
from mmts.errors import InputError
from mmts.files import atomic_write, check_file_path, why_missing
from mmts.report.wording import clean
from mmts.search.query import Hit, open_searcher
from mmts.search.serve import Answer, render, serve

_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20](?!\d+([.,]\d+)?\s*$)")  # in either width, and no number


def search(
    run: Path,
    query: str | None,
    image: Path | None,
    *,
    k: int,
    where: Sequence[str] = (),
    as_json: bool = False,
    page: Path | None = None,
    table: Path | None = None,
    port: int | None = None,
    folder: Path | None = None,
    checkpoint: str = "best",
) -> None:
    """Print the k items of a run's index nearest to a text or an image; with a `port`, serve a page instead.

    where: conditions LABEL=VALUE, see `Searcher`. page, table: also write a self-contained page or a CSV to this file.
    folder: of the index, by default RUN/index. checkpoint: the one that made the index.
    """
    if (query is not None) + (image is not None) + (port is not None) != 1:
        raise InputError("give one of: a text, --image FILE, --serve")
    if port is not None and (where or page or table):
        raise InputError("--serve takes no --where, --html or --export: the page filters by itself")
    if table is not None and table.suffix.lower() != ".csv":
        raise InputError(f"--export writes a table as CSV, so give a file that ends with .csv, not {table}")
    for file in filter(None, (page, table)):
        check_file_path(file)
    searcher = open_searcher(run, folder, checkpoint)
    if port is not None:
        serve(searcher, port, k)
        return
    if image is not None and not image.exists():
        raise InputError(f"{image} {why_missing(image)}")
    title, among = str(image if query is None else query), searcher.fitting(where)
    hits = searcher.by_text(title, k, among) if image is None else searcher.by_file(image, k, among)
    if page is not None:
        with atomic_write(page, "w") as opened:
            opened.write(render(searcher, Answer(title, hits, where=where), stands_alone=True))
    if table is not None:
        write_table(table, hits)
    if as_json:
        asked = {"text" if image is None else "image": title} | ({"where": list(where)} if where else {})
        exact = searcher.is_exact or bool(where)
        about = {"index": str(searcher.index.folder), "num_items": len(searcher.index), "exact": exact}
        print_json({"query": asked, **about, "hits": [hit.to_json() for hit in hits]})
        return
    _print_hits(hits)
    for name, written in {"page": page, "table": table}.items():
        if written is not None:
            console.print(f"{name}: {written}")


def write_table(file: Path, hits: Sequence[Hit]) -> None:
    """Write hits as CSV for spreadsheets: one row per hit, with all columns and labels of its record."""
    rows: list[dict[str, Any]] = []
    for hit in hits:
        row = hit.to_json()
        labels = row.pop("labels", {})
        row |= {name: ", ".join(map(str, row[name])) for name in ("frames", "member") if name in row}
        row["caption"] = " | ".join(row.pop("captions"))
        cells = {f"{name} (label)" if name in row else name: values_of(label) for name, label in labels.items()}
        rows.append(row | {name: ", ".join(values) for name, values in cells.items()})
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["rank"]
    with atomic_write(file, "w") as opened:
        opened.write("\N{BYTE ORDER MARK}")  # without it, Excel takes UTF-8 for another encoding
        lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
        csv.writer(opened, lineterminator="\n").writerows(map(harmless_cell, line) for line in lines)


def harmless_cell(value: object) -> object:
    """Return a text for a spreadsheet, with an apostrophe before what the spreadsheet would run as a formula.

    >>> harmless_cell("=1+1"), harmless_cell("-5 EUR"), harmless_cell("-5"), harmless_cell(-0.5), harmless_cell("a=b")
    ("'=1+1", "'-5 EUR", '-5', -0.5, 'a=b')
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _print_hits(hits: list[Hit]) -> None:
    """Print one line per hit; on a terminal too narrow for that, caption and labels go below the path."""
    if not hits:
        console.print("nothing in the index has all of this")
        return
    rows = []
    for hit in hits:
        caption = clean(hit.item.caption) if hit.item.caption != hit.item.path else ""
        labels = [
            f"{clean(name, 40)}: {clean(', '.join(values_of(label)), 40)}" for name, label in hit.item.labels.items()
        ]
        rows.append([f"{hit.rank:>3}", f"{hit.score:.3f}", hit.medium.place, caption, ", ".join(labels)])
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(set_cell_size, row, widths)).rstrip() for row in rows]
    if console.is_terminal and max(map(cell_len, lines)) > console.width:
        below = "\n" + " " * (widths[0] + widths[1] + 4)
        lines = ["  ".join(row[:3]) + "".join(below + cell for cell in row[3:] if cell) for row in rows]
    console.print("\n".join(lines))
