"""Compare sweeps of the same variants: a table, and a curve per variant over what sets the sweeps apart.

    python -m benchmarks.leaderboard.curves --x "epochs" --out PICTURE.png 15=runs/short 60=runs/long

Reads each sweep's leaderboard.csv: mean recall of both directions on test, or of the part named by `--part`. The table
is printed as Markdown, mean ± sample standard deviation over seeds.
"""

import argparse
import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmts.console import console
from mmts.errors import DataError
from mmts.files import atomic_write

MEASURE = "mean recall"


def read_board(folder: Path, part: str) -> dict[str, list[float]]:
    """Return what each variant's runs reached on test, by seed; raises DataError if the sweep has no such part."""
    values: dict[str, list[float]] = {}
    with (folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["stage"], row["direction"], row["part"]) == ("test", "both", part):
                values.setdefault(row["variant"], []).append(float(row[MEASURE]))
    if not values:
        raise DataError(f"{folder}/leaderboard.csv has nothing about {part!r}")
    return values


def in_words(values: Sequence[float]) -> str:
    """Write the mean and the spread.

    >>> in_words([50.0, 52.0])
    '51.0 ± 1.4'
    """
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def table(x: str, boards: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Return the lines of a Markdown table: a row per variant of the first sweep, a column per sweep."""
    lines = [f"| {x} | {' | '.join(boards)} |", "|---" * (len(boards) + 1) + "|"]
    for variant in next(iter(boards.values())):
        cells = (in_words(board[variant]) if variant in board else "" for board in boards.values())
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def draw(path: Path, x: str, y: str, boards: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw a line per variant; that of the first, with which the others are compared, is grey and dashed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    variants = list(next(iter(boards.values())))
    for number, variant in enumerate(variants):
        at = [place for place, board in enumerate(boards.values()) if variant in board]
        values = [list(boards.values())[place][variant] for place in at]
        axes.errorbar(
            [place + 0.03 * (number - len(variants) / 2) for place in at],  # beside one another, not on top
            [statistics.mean(each) for each in values],
            yerr=[statistics.stdev(each) if len(each) > 1 else 0 for each in values],
            label=variant, marker="o", markersize=4, capsize=3, linewidth=1.4,
            **({} if number else {"color": "#777777", "linestyle": "--"}),
        )  # fmt: skip
    axes.set_xticks(range(len(boards)), list(boards))
    axes.set_xlabel(x)
    axes.set_title(y, loc="left", fontsize=10, parse_math=False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", metavar="VALUE=FOLDER")
    parser.add_argument("--x", required=True, help="what sets the sweeps apart")
    parser.add_argument("--part", default="all", help="as in the table's column: all, tail, 'article_type average'")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folders = dict(sweep.split("=", 1) for sweep in options.sweeps)
    boards = {value: read_board(Path(folder), options.part) for value, folder in folders.items()}
    for line in table(options.x, boards):
        console.print(line, markup=False, soft_wrap=True)
    part = "" if options.part == "all" else f", {options.part}"
    draw(options.out, options.x, f"{MEASURE} of both directions{part}, %", boards)
    console.print(f"picture: {options.out}", markup=False)


if __name__ == "__main__":
    main()
