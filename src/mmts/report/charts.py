"""The charts of the page, each a function from numbers to an <svg>.

A point's tooltip has two lines: what it is worth, and where it stands. page.js shows all points of one place together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup

from mmts.errors import counted
from mmts.report.svg import DASHES, GROUPS, INK, MUTED, PAPER, SERIES, drawing, inline_svg, marker
from mmts.report.wording import isolated

T = TypeVar("T")
PANEL = (340, 220)
_MOST_BARS = 400  # that can be pointed at
_HOVER_POINTS = 41


@dataclass(frozen=True)
class Line:
    """A figure over training or concept size, with a band around it; `number` (of a rule or a group) is its colour."""

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
class Dot:
    """A concept in a chart of differences: its size, the difference, its group, what it says when pointed at."""

    x: int
    y: float
    group: int
    text: str
    is_filled: bool


def long_tail(
    sizes: Sequence[int], groups: Sequence[int], names: Sequence[str], identifier: str, width: int, height: int = 280
) -> Markup:
    """Draw concept sizes, largest first, on a logarithmic axis, coloured by head, mid and tail."""
    with drawing(width, height) as figure:
        axes = figure.add_subplot()
        bottom = 0.7 * min(sizes)
        room = (width - 50) / len(sizes)
        positions = range(1, len(sizes) + 1)
        axes.vlines(
            positions,
            bottom,
            sizes,
            colors=[GROUPS[group] for group in groups],
            linewidth=max(0.8, min(0.72 * room, 14)),
        )
        # Invisible until pointed at: a marker on top of a bar carries its name and size.
        chosen = thinned(range(len(sizes)), _MOST_BARS)
        axes.plot(
            [at + 1 for at in chosen], [sizes[at] for at in chosen],
            linestyle="none", marker="o", markersize=9, color=INK, gid="hover-sizes",
        )  # fmt: skip
        tooltips = {
            "hover-sizes": [
                f"{isolated(names[at])}: {counted(sizes[at], 'sample')}\nconcept {at + 1:,} of {len(sizes):,}"
                for at in chosen
            ]
        }
        axes.set_yscale("log")
        axes.set_ylim(bottom, 1.6 * max(sizes))
        axes.set_xlim(0.3, len(sizes) + 0.7)
        _logarithmic_ticks(axes.yaxis, min(sizes), max(sizes))
        axes.grid(axis="y")
        _title(axes, "training samples, logarithmic scale")
        axes.set_xticks([1, *[tick for tick in axes.get_xticks() if 1 < tick <= len(sizes) and tick == int(tick)]])
        axes.set_xlabel("concepts, largest first")
        label = (
            f"Sizes of {counted(len(sizes), 'concept')}, sorted, on a logarithmic axis: "
            f"from {max(sizes):,} down to {counted(min(sizes), 'sample')}"
        )
        return inline_svg(figure, identifier, label, tooltips)


def value_panel(word: str, rule: str, lines: Sequence[Line], limits: tuple[float, float], identifier: str) -> Markup:
    """Draw the temperature or margin of head, mid and tail over training; a single line is that of all samples."""
    strokes = [{"color": INK if len(lines) == 1 else GROUPS[line.number], "linewidth": 2} for line in lines]
    says = "; ".join(f"{line.name} between {min(line.mean):.3f} and {max(line.mean):.3f}" for line in lines)
    label = f"{word.capitalize()} over training with {rule}: {says}"
    return _training_panel(word, lines, strokes, "{:.4f}", identifier, label, limits)


def learning_panel(title: str, lines: Sequence[Line], identifier: str, digits: int, unit: str = "") -> Markup:
    """Draw a figure over training, a line per rule, with a band from the least to the most over seeds."""
    strokes = [{"color": _color(line), **_stroke(line)} for line in lines]
    ends = ", ".join(f"{line.name} ends at {line.mean[-1]:.{digits}f}{unit}" for line in lines)
    return _training_panel(
        title, lines, strokes, f"{{:.{digits}f}}{unit}", identifier, f"{title} over training: {ends}"
    )


def _training_panel(
    title: str,
    lines: Sequence[Line],
    strokes: Sequence[dict[str, Any]],
    shape: str,
    identifier: str,
    label: str,
    limits: tuple[float, float] | None = None,
) -> Markup:
    with drawing(*PANEL) as figure:
        axes = figure.add_subplot()
        tooltips = {
            f"hover-{line.number}": _draw_over_training(axes, line, f"hover-{line.number}", shape, **stroke)
            for line, stroke in zip(lines, strokes, strict=True)
        }
        if limits is not None:
            axes.set_ylim(*limits)
        _progress_axis(axes)
        _title(axes, title)
        return inline_svg(figure, identifier, label, tooltips)


def size_panel(
    title: str, ylabel: str, lines: Sequence[Line], places: Sequence[str], identifier: str, width: int
) -> Markup:
    """Draw a figure in percent by the size of concepts, a line per rule with its interval; `places` names the sizes."""
    with drawing(width, 250) as figure:
        axes = figure.add_subplot()
        tooltips = {}
        for line in lines:
            gid = f"hover-{line.number}"
            texts = [
                f"{isolated(line.name)}: {mean:.1f} %, interval {low:.1f} to {high:.1f}\n{place}"
                for mean, low, high, place in zip(line.mean, line.low, line.high, places, strict=True)
            ]
            # Beside each other, so that no interval hides another.
            aside = (line.x[-1] / line.x[0]) ** (0.012 * (line.number - (len(lines) - 1) / 2))
            x = [each * aside for each in line.x]
            axes.vlines(x, line.low, line.high, color=_color(line), linewidth=1.5, alpha=0.55)
            axes.plot(x, line.mean, color=_color(line), marker=marker(line.number), markersize=6, **_stroke(line))
            tooltips[gid] = _points(axes, x, line.mean, _color(line), gid, texts)
        _size_axis(axes, lines[0].x[0], lines[0].x[-1])
        axes.yaxis.set_major_locator(_locator(5))
        axes.grid(axis="y")
        _title(axes, ylabel)
        ends = "; ".join(
            f"{line.name} goes from {line.mean[0]:.1f} % at the smallest to {line.mean[-1]:.1f} % at the largest"
            for line in lines
        )
        return inline_svg(figure, identifier, f"{title}: {ylabel} by concept size. {ends}", tooltips)


def change_panel(dots: Sequence[Dot], ylabel: str, identifier: str, width: int) -> Markup:
    """Draw differences by concept size: a dot per concept, filled where its interval leaves out 0."""
    with drawing(width, 280) as figure:
        axes = figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=1)
        tooltips = {}
        for group, color in enumerate(GROUPS):
            for is_filled in (False, True):
                alike = [dot for dot in dots if (dot.group, dot.is_filled) == (group, is_filled)]
                if not alike:
                    continue
                gid = f"dots{group}{'filled' if is_filled else ''}"
                axes.plot(
                    [dot.x for dot in alike], [dot.y for dot in alike], marker="o", markersize=8, color=color,
                    markerfacecolor=color if is_filled else PAPER, markeredgewidth=1.6, linestyle="none", gid=gid,
                    clip_on=False,
                )  # fmt: skip
                tooltips[gid] = [dot.text for dot in alike]
        _size_axis(axes, min(dot.x for dot in dots), max(dot.x for dot in dots))
        axes.yaxis.set_major_locator(_locator(6))
        axes.grid(axis="y")
        _title(axes, ylabel)
        highest, lowest = max(dot.y for dot in dots), min(dot.y for dot in dots)
        label = f"{ylabel} of {counted(len(dots), 'concept')} by size: from {lowest:.1f} to {highest:.1f}"
        return inline_svg(figure, identifier, label, tooltips, read="xy")


def dot_panel(title: str, rows: Sequence[Row], identifier: str, xlabel: str, width: int, zero: bool = False) -> Markup:
    """Draw rows of dots in blocks, one block per part of the queries.

    With `zero`, rows are differences: a line from the interval's low to its high end, and the dot filled where the
    interval leaves out 0. Otherwise small marks are seeds and the upright stroke is their mean; a single run is a mark
    alone.
    """
    step, between = 17, 14
    heights: list[float] = []
    blocks: dict[str, list[float]] = {}
    at = 0.0
    for row in rows:
        if row.part not in blocks and blocks:
            at += between
        blocks.setdefault(row.part, []).append(at)
        heights.append(at)
        at += step
    with drawing(width, at + 56) as figure:
        axes = figure.add_subplot()
        if zero:
            axes.axvline(0, color=MUTED, linewidth=1)
        tooltips = {}
        for place, (row, y) in enumerate(zip(rows, heights, strict=True)):
            color, mark = SERIES[row.number % len(SERIES)], marker(row.number)
            gid = f"row{place}"
            if zero:
                axes.hlines(y, *row.values, color=color, linewidth=2)
                face = color if row.is_filled else PAPER
                axes.plot(
                    [row.mean], [y], marker=mark, markersize=8, color=color, markerfacecolor=face,
                    markeredgewidth=1.8, linestyle="none", gid=gid,
                )  # fmt: skip
            else:
                is_alone = len(row.values) == 1
                axes.plot(
                    row.values, [y] * len(row.values), marker=mark, markersize=9 if is_alone else 6.5, color=color,
                    alpha=1 if is_alone else 0.45, markeredgewidth=0, linestyle="none",
                )  # fmt: skip
                if not is_alone:
                    axes.vlines(row.mean, y - 6, y + 6, color=color, linewidth=3)
                gid = f"hover-{gid}"
                axes.plot([row.mean], [y], marker=mark, markersize=9, color=color, linestyle="none", gid=gid)
            tooltips[gid] = [f"{isolated(row.name)}: {row.text}\n{row.part}"]
        axes.set_ylim(at - step / 2 + 4, -step / 2 - 4)
        axes.set_yticks([sum(block) / len(block) for block in blocks.values()], list(blocks))
        axes.tick_params(axis="y", labelcolor=INK, pad=6)
        axes.grid(axis="x")
        axes.margins(x=0.06)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
        axes.xaxis.set_major_locator(_locator(6))
        axes.set_xlabel(xlabel)
        says = "; ".join(f"{row.name}, {row.part}: {row.text}" for row in rows)
        return inline_svg(figure, identifier, f"{title}, {xlabel}. {says}", tooltips, read="y")


def _draw_over_training(axes: Any, line: Line, gid: str, shape: str, color: str, **stroke: Any) -> list[str]:
    """Draw a line with its band, and points that show on pointing; return what each says."""
    percent = [100 * each for each in line.x]
    if line.low != line.high:
        axes.fill_between(percent, line.low, line.high, color=color, alpha=0.16, linewidth=0)
    axes.plot(percent, line.mean, color=color, **stroke)
    chosen = thinned(range(len(percent)), _HOVER_POINTS)
    texts = []
    for at in chosen:
        low, mean, high = (shape.format(values[at]) for values in (line.low, line.mean, line.high))
        band = "" if low == high else f" ({low.removesuffix(' %')} to {high})"
        texts.append(f"{isolated(line.name)}: {mean}{band}\nat {percent[at]:.0f} % of training")
    return _points(axes, [percent[at] for at in chosen], [line.mean[at] for at in chosen], color, gid, texts)


def _points(axes: Any, x: Sequence[float], y: Sequence[float], color: str, gid: str, texts: list[str]) -> list[str]:
    """Put points that show on pointing; return what each says."""
    axes.plot(x, y, linestyle="none", marker="o", markersize=8, color=color, gid=gid, clip_on=False)
    return texts


def thinned(values: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(at * (len(values) - 1) / (most - 1))] for at in range(most)]


def _color(line: Line) -> str:
    return SERIES[line.number % len(SERIES)]


def _stroke(line: Line) -> dict[str, Any]:
    return {"linestyle": DASHES[line.number % len(DASHES)], "linewidth": 2.2 if line.number else 1.5}


def _size_axis(axes: Any, least: float, most: float) -> None:
    """Lay concept sizes along a logarithmic axis."""
    axes.set_xscale("log")
    axes.set_xlim(least / 1.15, most * 1.15)
    _logarithmic_ticks(axes.xaxis, least, most)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("training samples of the concept, logarithmic scale")


def _progress_axis(axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, StrMethodFormatter

    axes.set_xlim(0, 100)
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
    axes.yaxis.set_major_locator(_locator(5))
    axes.grid(axis="y")
    axes.set_xlabel("of training")


def _logarithmic_ticks(axis: Any, least: float, most: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0,) if most / least > 300 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _locator(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=12, color=MUTED, pad=10)
