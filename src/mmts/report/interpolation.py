"""What was forgotten: figures of the weights between a run's start and its result, as a chart and in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmts.evaluation.measures import measured
from mmts.evaluation.results import RunGroup
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
        curves = [] if group.is_start else _alike(group, contents.measure)
        if curves:
            lines = lines_of(curves)
            chosen = sorted({curve.best for curve in curves})
            draw = partial(interpolation_panel, lines, chosen, f"{contents.measure}, %")
            charts = wide_and_narrow(draw, f"between{number}")
            names, words = [line.name for line in lines], in_words(lines, chosen, contents.measure, len(curves))
            sections.append({"number": number, "charts": charts, "names": names, "words": words})
    return sections


def read_curve(run: RunDirectory, measure: str) -> Curve | None:
    """Return the curve of a run, in a measure that is averaged over both directions; None without a whole one."""
    try:
        content = read_kept(run.interpolation_file) or {}
        data = {clean(name, 40): each["points"] for name, each in list(content["data"].items())[:_MOST_DATA]}
        best, shares = float(content["best"]["share"]), tuple(float(point["share"]) for point in data["val"])
        figures = {
            name: tuple(float(measured(point, measure) or 0) for point in points) for name, points in data.items()
        }
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    rising = [*shares] == sorted(set(shares))
    fits = all(len(row) == len(shares) and all(0 <= value <= 100 for value in row) for row in figures.values())
    if len(shares) < 2 or not rising or not fits or best not in shares or not 0 <= shares[0] < shares[-1] <= 1:
        return None
    return Curve(shares, best, figures)


def _alike(group: RunGroup, measure: str) -> list[Curve]:
    """Return the curves of all seeds if they have the same points of the same data, else that of the first seed."""
    curves = [curve for path in group.paths if (curve := read_curve(RunDirectory(path), measure)) is not None]
    same = all((curve.shares, [*curve.figures]) == (curves[0].shares, [*curves[0].figures]) for curve in curves)
    return curves if same else curves[:1]


def lines_of(curves: Sequence[Curve]) -> list[Line]:
    """Return a line for each data set: the mean over curves with the same points, from the lowest to the highest."""
    lines = []
    for number, name in enumerate(curves[0].figures, start=1):  # the first color is that of a baseline
        rows = np.array([curve.figures[name] for curve in curves])
        mean, low, high = (row.tolist() for row in (rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0)))
        lines.append(Line(name, number, [*curves[0].shares], mean, low, high))
    return lines


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
    sentence = f"On val, {measure}{of_seeds} goes from {val.mean[0]:.1f} % at a = {val.x[0]:g} "
    sentence += f"to {val.mean[-1]:.1f} % at a = {val.x[-1]:g}; "
    if len(chosen) > 1:
        return [f"{sentence}each seed kept its own best, a = {shares}.", *(_change(line) for line in others)]
    best = val.x.index(chosen[0])
    sentences = [f"{sentence}it is {val.mean[best]:.1f} % at a = {shares}, the best, which was kept."]
    for line in others:
        lost, kept = line.mean[0] - line.mean[-1], line.mean[0] - line.mean[best]
        end = "."
        if lost >= 0.05:
            end = f", and a = {shares} loses {'only ' if kept < lost else ''}{max(kept, 0):.1f}."
        elif best + 1 < len(line.x):
            end = f", and it is {line.mean[best]:.1f} % at a = {shares}."
        sentences.append(_change(line).removesuffix(".") + end)
    return sentences


def _change(line: Line) -> str:
    lost = line.mean[0] - line.mean[-1]
    outcome = f"{lost:.1f} points were forgotten" if lost >= 0.05 else "nothing was forgotten"
    return f"On {line.name}, it goes from {line.mean[0]:.1f} % to {line.mean[-1]:.1f} %: {outcome}."
