"""Put columns of a sweep's tables side by side.

    python -m benchmarks.leaderboard.columns runs/NAME/leaderboard.md concept:all concept:tail 'rarest word:tail'

Each DIVISION:COLUMN is a column of the table "By DIVISION" of that page. Prints Markdown, in the page's order.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmts.console import console
from mmts.errors import DataError, nearest

Rows = dict[str, dict[str, str]]  # by variant and column


def read_tables(page: str) -> dict[str, Rows]:
    """Return the tables by division."""
    tables: dict[str, Rows] = {}
    for division, text in re.findall(r"^By ([^\n]+):\n\n((?:\|[^\n]*\n)+)", page, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
        tables[division] = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}
    return tables


def side_by_side(tables: Mapping[str, Rows], columns: Sequence[str]) -> list[str]:
    """Return the lines of a table; raises DataError with the nearest name for a column that is not there."""
    picked = []
    for column in columns:
        division, _, name = column.partition(":")
        if division not in tables:
            raise DataError(f"no table by {division!r}; {nearest(division, tables)}")
        known = next(iter(tables[division].values()))
        if name not in known:
            raise DataError(f"the table by {division} has no column {name!r}; {nearest(name, known)}")
        picked.append((division, name))
    heads = [name if name == "all" or division in name else f"{name} by {division}" for division, name in picked]
    lines = [f"| variant | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for variant in next(iter(tables.values())):
        cells = (tables[division][variant].get(name, "") for division, name in picked)
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    for line in side_by_side(read_tables(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2:]):
        console.print(line)
