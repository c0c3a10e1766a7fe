"""What was forgotten: figures of the weights between a run's start and its result, as a chart and in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmts.evaluation.measures import measured
from mmts.files import read_kept
from mmts.recipe.run_directory import RunDirectory
from mmts.report.charts import Line, interpolation_panel, wide_and_narrow
from mmts.report.contents import Contents
from mmts.report.wording import clean, listed

_MOST_DATA = 6  # as many lines as there are colors


@dataclass(frozen=True)
class Curve:
    """The contents of interpolation.json: shares of the tuned weights, rising, and of every data set a figure for each.

    best: the share that was best on val. figures: percent, by the data's name; val is the first.
    """

    shares: tuple[float, ...]
    best: float
    figures: dict[str, tuple[float, ...]]


def interpolation_section(contents: Contents) -> list[dict[str, Any]]:
    """Draw the curve of every rule that has one, and say what it means."""
    sections = []
    for number, group in enumerate(contents.groups):
        curves = [read_curve(run.run, contents.measure) for run in group.runs if not group.is_start]
        known = [curve for curve in curves if curve is not None]
        if known:
            if any((curve.shares, [*curve.figures]) != (known[0].shares, [*known[0].figures]) for curve in known):
                known = known[:1]  # seeds with other points or data: the first one's curve
            lines, chosen = lines_of(known), sorted({curve.best for curve in known})
            draw = partial(interpolation_panel, lines, chosen, f"{contents.measure}, %")
            charts = wide_and_narrow(draw, f"between{number}")
            words = in_words(lines, chosen, contents.measure, len(known))
            sections.append(
                {"number": number, "charts": charts, "names": [line.name for line in lines], "words": words}
            )
    return sections


def read_curve(run: RunDirectory, measure: str) -> Curve | None:
    """Return the curve of a run, in a measure that is averaged over both directions; None without a whole one."""
    try:
        content = read_kept(run.interpolation_file) or {}
        best, data = float(content["best"]["share"]), list(content["data"].items())[:_MOST_DATA]
        shares = tuple(float(point["share"]) for point in content["data"]["val"]["points"])
        figures = {
            clean(name, 40): tuple(float(measured(point, measure) or 0) for point in of_data["points"])
            for name, of_data in data
        }
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    fits = all(len(row) == len(shares) and all(0 <= value <= 100 for value in row) for row in figures.values())
    is_rising = len(shares) > 1 and [*shares] == sorted(set(shares)) and 0 <= shares[0] < shares[-1] <= 1
    return Curve(shares, best, figures) if fits and is_rising and best in shares else None


def lines_of(curves: Sequence[Curve]) -> list[Line]:
    """Return a line for each data set: the mean over curves with the same points, from the lowest to the highest."""
    names, shares = enumerate(curves[0].figures, start=1), curves[0].shares  # the first color is that of a baseline
    return [Line.over_seeds(name, at, [*shares], [curve.figures[name] for curve in curves]) for at, name in names]


def in_words(lines: Sequence[Line], chosen: Sequence[float], measure: str, num_seeds: int = 1) -> list[str]:
    """Say what was gained on val and what was forgotten of the other data.

    >>> val = Line("val", 0, [0.0, 0.5, 1.0], [10.0, 20.0, 18.0], [], [])
    >>> other = Line("b", 1, [0.0, 0.5, 1.0], [30.0, 27.0, 20.0], [], [])
    >>> for sentence in in_words([val, other], [0.5], "R@1"):
    ...     print(sentence)
    On val, R@1 goes from 10.0 % at a = 0 to 18.0 % at a = 1; it is 20.0 % at a = 0.5, the best, which was kept.
    On b, it goes from 30.0 % to 20.0 %: 10.0 points were forgotten, and a = 0.5 loses only 3.0.
    """
    val, *others = lines
    of_seeds = f" (mean over {num_seeds} seeds)" if num_seeds > 1 else ""
    shares = listed([f"{share:g}" for share in chosen])
    best = val.x.index(chosen[0]) if len(chosen) == 1 else None
    kept = f"each seed kept its own best, a = {shares}."
    if best is not None:
        kept = f"it is {val.mean[best]:.1f} % at a = {shares}, the best, which was kept."
    change = f"from {val.mean[0]:.1f} % at a = {val.x[0]:g} to {val.mean[-1]:.1f} % at a = {val.x[-1]:g}"
    sentences = [f"On val, {measure}{of_seeds} goes {change}; {kept}"]
    for line in others:
        lost = line.mean[0] - line.mean[-1]
        end = f"{lost:.1f} points were forgotten" if lost >= 0.05 else "nothing was forgotten"
        if best is not None and lost >= 0.05:
            at_best = line.mean[0] - line.mean[best]
            end += f", and a = {shares} loses {'only ' if at_best < lost else ''}{max(at_best, 0):.1f}"
        elif best is not None and best + 1 < len(line.x):
            end += f", and it is {line.mean[best]:.1f} % at a = {shares}"
        sentences.append(f"On {line.name}, it goes from {line.mean[0]:.1f} % to {line.mean[-1]:.1f} %: {end}.")
    return sentences
