"""The charts of the page, each a function from numbers to an <svg>.

The tooltip of a point has two lines, its value and its place. page.js shows all points of one place together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from mmts.errors import counted
from mmts.evaluation.results import Gap
from mmts.report.svg import DASHES, GROUPS, INK, MUTED, PAPER, SERIES, drawing, inline_svg, marker
from mmts.report.wording import interval_in_words, isolated, signed

T = TypeVar("T")
_HOVER_POINTS = 41


@dataclass(frozen=True)
class Line:
    """A figure over training or concept size, with a band; `number` (of a rule or a group) gives its color."""

    name: str
    number: int
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Row:
    """A row of a dot chart: a rule in a part of the queries. `values` are seeds, or (low, high) around `mean`."""

    part: str
    name: str
    number: int
    mean: float
    values: tuple[float, ...]
    text: str
    is_filled: bool = True


@dataclass(frozen=True)
class ConceptChange:
    """The queries of one concept under the first rule and under another; in percent and points."""

    name: str
    size: int
    group: int
    num_queries: int
    first: float
    other: float
    gap: Gap


def wide_and_narrow(draw: Callable[[str, int], Markup], identifier: str, wide: int = 504) -> tuple[Markup, Markup]:
    """Draw a chart twice, for a desktop and for a phone: `draw` takes an identifier and a width in pixels."""
    return draw(f"{identifier}-wide", wide), draw(f"{identifier}-narrow", 350)


def training_panel(
    what: str, title: str, lines: Sequence[Line], shape: str, identifier: str, top: float | None = None
) -> Markup:
    """Draw a figure over training, with bands; `shape` formats its values, `what` names the chart to a screen reader.

    Lines are rules. If `top`, the end of the vertical axis, is given, they are head, mid and tail, or a single line for
    all samples.
    """
    from matplotlib.ticker import FixedLocator, StrMethodFormatter

    with drawing(340, 220) as figure:
        axes = figure.add_subplot()
        tooltips: dict[str, list[str]] = {}
        ranges = []
        for line in lines:
            stroke = _stroke(line)
            if top is not None:
                stroke = {"color": INK if len(lines) == 1 else GROUPS[line.number], "linewidth": 2}
            percent = [100 * progress for progress in line.x]
            if line.low != line.high:
                axes.fill_between(percent, line.low, line.high, color=stroke["color"], alpha=0.16, linewidth=0)
            axes.plot(percent, line.mean, **stroke)
            chosen, gid = thinned(range(len(percent)), _HOVER_POINTS), f"hover-{line.number}"
            _hover_points(axes, [percent[at] for at in chosen], [line.mean[at] for at in chosen], gid, stroke["color"])
            tooltips[gid] = []
            for at in chosen:
                low, mean, high = (shape.format(values[at]) for values in (line.low, line.mean, line.high))
                band = "" if low == high else f" ({low.removesuffix(' %')} to {high})"
                tooltips[gid].append(f"{isolated(line.name)}: {mean}{band}\nat {percent[at]:.0f} % of training")
            least, most, last = (shape.format(value) for value in (min(line.mean), max(line.mean), line.mean[-1]))
            ranges.append(f"{line.name} between {least} and {most}, {last} at the end")
        axes.set_ylim(bottom=None if top is None else 0, top=top)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
        axes.set_xlabel("of training")
        _finish(axes, title, 5)
        return inline_svg(figure, identifier, f"{what} over training: {'; '.join(ranges)}", tooltips)


def size_panel(
    title: str, ylabel: str, lines: Sequence[Line], places: Sequence[str], identifier: str, width: int
) -> Markup:
    """Draw a figure in percent by concept size, one line per rule with its interval; `places` names the sizes."""
    with drawing(width, 250) as figure:
        axes = figure.add_subplot()
        tooltips = {}
        for line in lines:
            # Side by side, so that no interval hides another.
            aside = (line.x[-1] / line.x[0]) ** (0.012 * (line.number - (len(lines) - 1) / 2))
            x = [size * aside for size in line.x]
            stroke, gid = _stroke(line), f"hover-{line.number}"
            axes.vlines(x, line.low, line.high, color=stroke["color"], linewidth=1.5, alpha=0.55)
            axes.plot(x, line.mean, marker=marker(line.number), markersize=6, **stroke)
            _hover_points(axes, x, line.mean, gid, stroke["color"])
            tooltips[gid] = [
                f"{isolated(line.name)}: {mean:.1f} %, interval {low:.1f} to {high:.1f}\n{place}"
                for mean, low, high, place in zip(line.mean, line.low, line.high, places, strict=True)
            ]
        _size_axis(axes, lines[0].x[0], lines[0].x[-1])
        _finish(axes, ylabel, 5)
        ends = "; ".join(
            f"{line.name} goes from {line.mean[0]:.1f} % at the smallest to {line.mean[-1]:.1f} % at the largest"
            for line in lines
        )
        return inline_svg(figure, identifier, f"{title}: {ylabel} by concept size. {ends}", tooltips)


def change_panel(changes: Sequence[ConceptChange], ylabel: str, identifier: str, width: int) -> Markup:
    """Draw differences by concept size: one dot per concept, filled if its interval leaves out 0."""
    with drawing(width, 280) as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=1)
        tooltips = {}
        for number, change in enumerate(sorted(changes, key=lambda change: (change.group, change.gap.is_clear))):
            color, gid = GROUPS[change.group], f"dot{number}"
            axes.plot(
                change.size, change.gap.mean, marker="o", markersize=8, color=color, markeredgewidth=1.6, gid=gid,
                markerfacecolor=color if change.gap.is_clear else PAPER, linestyle="none", clip_on=False,
            )  # fmt: skip
            tooltips[gid] = [
                f"{signed(change.gap.mean)} points, interval {interval_in_words(change.gap)}, "
                f"{counted(change.num_queries, 'query', 'queries')}\n"
                f"{isolated(change.name)} ({counted(change.size, 'training sample')})"
            ]
        sizes, differences = [change.size for change in changes], [change.gap.mean for change in changes]
        _size_axis(axes, min(sizes), max(sizes))
        _finish(axes, ylabel, 6)
        span = f"from {min(differences):.1f} to {max(differences):.1f}"
        label = f"{ylabel} of {counted(len(changes), 'concept')} by size: {span}"
        return inline_svg(figure, identifier, label, tooltips, read="xy")


def dot_panel(title: str, rows: Sequence[Row], xlabel: str, zero: bool, identifier: str, width: int) -> Markup:
    """Draw rows of dots in blocks, one block per part of the queries.

    With `zero`, rows are differences: a line from the low to the high end of the interval, and a dot that is filled if
    the interval leaves out 0. Otherwise small marks are seeds and the upright stroke is their mean; a single run is a
    mark alone.
    """
    step, between = 17, 14
    places: dict[str, list[float]] = {}  # the heights of the rows of each part, downward
    y: float = -step
    for row in rows:
        y += step if row.part in places or not places else step + between
        places.setdefault(row.part, []).append(y)
    heights = [height for block in places.values() for height in block]
    with drawing(width, y + step + 56) as figure:
        axes = figure.add_subplot()
        tooltips = {}
        if zero:
            axes.axvline(0, color=MUTED, linewidth=1)
        for number, (row, y) in enumerate(zip(rows, heights, strict=True)):
            color = SERIES[row.number % len(SERIES)]
            style: dict[str, Any] = {"marker": marker(row.number), "color": color, "linestyle": "none"}
            gid = f"row{number}" if zero else f"hover-row{number}"
            if zero:
                axes.hlines(y, *row.values, color=color, linewidth=2)
                style |= {"markerfacecolor": color if row.is_filled else PAPER, "markeredgewidth": 1.8}
                axes.plot(row.mean, y, markersize=8, gid=gid, **style)
            else:
                size, alpha = (9, 1.0) if len(row.values) == 1 else (6.5, 0.45)
                heights_of_seeds = [y] * len(row.values)
                axes.plot(row.values, heights_of_seeds, markersize=size, alpha=alpha, markeredgewidth=0, **style)
                if len(row.values) > 1:
                    axes.vlines(row.mean, y - 6, y + 6, color=color, linewidth=3)
                axes.plot(row.mean, y, markersize=9, gid=gid, **style)
            tooltips[gid] = [f"{isolated(row.name)}: {row.text}\n{row.part}"]
        axes.set_ylim(heights[-1] + step / 2 + 4, -step / 2 - 4)
        axes.set_yticks([sum(block) / len(block) for block in places.values()], list(places))
        axes.tick_params(axis="y", labelcolor=INK, pad=6)
        axes.grid(axis="x")
        axes.margins(x=0.06)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
        axes.xaxis.set_major_locator(_locator(6))
        axes.set_xlabel(xlabel)
        values = "; ".join(f"{row.name}, {row.part}: {row.text}" for row in rows)
        return inline_svg(figure, identifier, f"{title}, {xlabel}. {values}", tooltips, read="y")


def thinned(values: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the values, evenly spaced, including the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(at * (len(values) - 1) / (most - 1))] for at in range(most)]


def logarithmic_ticks(axis: Any, least: float, most: float) -> None:
    """Label an axis at 1, 10, 100, ..., and at 2 and 5 times those if it spans less than two and a half decades."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0,) if most / least > 300 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def set_title(axes: Any, text: str) -> None:
    """Write what the vertical axis shows above the chart."""
    axes.set_title(text, loc="left", fontsize=12, color=MUTED, pad=10)


def _hover_points(axes: Any, x: Sequence[float], y: Sequence[float], gid: str, color: str) -> None:
    """Draw points that show only when the pointer is on them."""
    axes.plot(x, y, linestyle="none", marker="o", markersize=8, color=color, gid=gid, clip_on=False)


def _stroke(line: Line) -> dict[str, Any]:
    dash = DASHES[line.number % len(DASHES)]
    return {"color": SERIES[line.number % len(SERIES)], "linestyle": dash, "linewidth": 2.2 if line.number else 1.5}


def _size_axis(axes: Any, least: float, most: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(least / 1.15, most * 1.15)
    logarithmic_ticks(axes.xaxis, least, most)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("training samples of the concept, logarithmic scale")


def _locator(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def _finish(axes: Any, title: str, most_ticks: int) -> None:
    axes.yaxis.set_major_locator(_locator(most_ticks))
    axes.grid(axis="y")
    set_title(axes, title)
