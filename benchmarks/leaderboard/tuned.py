"""Draw what tuning a pretrained pair changed: before and after by part, and the curve from start to result.

    python -m benchmarks.leaderboard.tuned --out PICTURES 'Flickr8k=runs/flickr8k-*' 'fashion=runs/fashion-*'

Each NAME=RUNS is a data set and the runs tuned on it, one per seed. Writes tuned.png from metrics.json, and, of the
runs that `mmts evaluate RUN --interpolate ... --also OTHER` judged, interpolation.png. Points are means over seeds,
bars the sample standard deviation.
"""

import argparse
import glob
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmts.console import console
from mmts.evaluation.measures import directions_of
from mmts.files import atomic_write, read_json

MEASURE = "R@5"
PARTS = ("all", "head", "mid", "tail")
BEFORE, AFTER, GRID = "#777777", "#1f5fa8", "#e4e4e4"


def spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation, 0 of one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def of_part(metrics: Mapping[str, Any], part: str) -> float | None:
    """Return a part's measure, the mean of both directions; None if it has no queries."""
    place = metrics if part == "all" else metrics["groups"][part]
    return None if place is None else statistics.mean(place[side][MEASURE] for side in directions_of(metrics))


def draw_change(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw a panel per data set, from its runs' metrics.json: each part before and after."""
    figure, all_axes = _panels(len(runs))
    for axes, (name, metrics) in zip(all_axes, runs.items(), strict=True):
        for place, part in enumerate(PARTS):
            for color, label, figures in (
                (BEFORE, "before", [each["before"] for each in metrics]),
                (AFTER, "after", metrics),
            ):
                values = [value for each in figures if (value := of_part(each, part)) is not None]
                if values:
                    bar = {"xerr": spread(values), "capsize": 3, "label": label if place == 0 else None}
                    axes.errorbar(statistics.mean(values), place, fmt="o", color=color, **bar)
        axes.set_yticks(range(len(PARTS)), PARTS)
        axes.set_ylim(len(PARTS) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_title(f"{name}: {MEASURE}, %", loc="left", fontsize=10, parse_math=False)
        axes.grid(axis="x", color=GRID, linewidth=0.6)
    all_axes[0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_curves(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw a panel per data set, from its runs' interpolation.json: a line per data set that they were judged on."""
    figure, all_axes = _panels(len(runs))
    for axes, (name, curves) in zip(all_axes, runs.items(), strict=True):
        for judged in curves[0]["data"]:
            points = [[of_part(point, "all") or 0.0 for point in curve["data"][judged]["points"]] for curve in curves]
            shares = [point["share"] for point in curves[0]["data"][judged]["points"]]
            by_share = list(zip(*points, strict=True))
            label = f"{name} val" if judged == "val" else judged
            axes.errorbar(shares, [*map(statistics.mean, by_share)], yerr=[*map(spread, by_share)], marker="o",
                          markersize=4, capsize=3, linewidth=1.4, label=label)  # fmt: skip
        axes.set_ylim(bottom=0)
        axes.set_xlabel("a, the share of the tuned weights")
        axes.set_title(f"tuned on {name}: {MEASURE}, %", loc="left", fontsize=10, parse_math=False)
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _panels(number: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * number, 2.7), dpi=150, layout="constrained")
    all_axes = figure.subplots(1, number, squeeze=False)[0]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    return figure, all_axes


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
    console.print(f"picture: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUNS", help="RUNS may hold * and ?")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folders = {name: sorted(glob.glob(runs)) for name, runs in (each.split("=", 1) for each in options.runs)}
    if bare := [name for name, found in folders.items() if not found]:
        parser.error(f"no runs of {', '.join(bare)}")
    for name, draw in (("metrics.json", draw_change), ("interpolation.json", draw_curves)):
        contents = {
            data: [read_json(Path(run) / name) for run in runs if (Path(run) / name).exists()]
            for data, runs in folders.items()
        }
        if contents := {data: values for data, values in contents.items() if values}:
            draw(options.out / {"metrics.json": "tuned.png", "interpolation.json": "interpolation.png"}[name], contents)


if __name__ == "__main__":
    main()
