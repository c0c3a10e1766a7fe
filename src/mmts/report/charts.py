"""The charts of the page, each a function from numbers to an <svg>."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mmts.report.rules import ValueCurve
from mmts.report.svg import DASHES, GROUPS, INK, MARKERS, MUTED, PAPER, SERIES, drawing, inline_svg
from mmts.report.wording import counted, isolated

PANEL = (340, 220)
_MOST_TOOLTIPS = 400
_HOVER_POINTS = 41


@dataclass(frozen=True)
class Line:
    """A rule's figure over training: the mean over seeds, and the least and the most of them."""

    name: str
    number: int
    progress: list[float]
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
        tooltips = {}
        if len(sizes) <= _MOST_TOOLTIPS:
            # Invisible until pointed at: a marker on top of each bar carries its name and size.
            axes.plot(positions, sizes, linestyle="none", marker="o", markersize=9, color=INK, gid="hover-sizes")
            tooltips["hover-sizes"] = [
                f"{isolated(name)}: {counted(size, 'sample')}" for name, size in zip(names, sizes, strict=True)
            ]
        axes.set_yscale("log")
        axes.set_ylim(bottom, 1.6 * max(sizes))
        axes.set_xlim(0.3, len(sizes) + 0.7)
        _logarithmic_ticks(axes, min(sizes), max(sizes))
        _title(axes, "training samples, logarithmic scale")
        axes.set_xticks([1, *[tick for tick in axes.get_xticks() if 1 < tick <= len(sizes) and tick == int(tick)]])
        axes.set_xlabel("concepts, largest first")
        label = (
            f"Sizes of {counted(len(sizes), 'concept')}, sorted, on a logarithmic axis: "
            f"from {max(sizes):,} down to {counted(min(sizes), 'sample')}"
        )
        return inline_svg(figure, identifier, label, tooltips)


def value_panel(curve: ValueCurve, name: str, limits: tuple[float, float], identifier: str) -> Markup:
    """Draw the temperature or margin of a head and of a tail sample over training."""
    with drawing(*PANEL) as figure:
        axes = figure.add_subplot()
        percent = [100 * each for each in curve.progress]
        axes.plot(percent, curve.head, color=GROUPS[0], linestyle="-")
        axes.plot(percent, curve.tail, color=GROUPS[2], linestyle=(0, (4, 2.5)) if curve.is_shared else "-")
        tooltips = {}
        for what, values, color in (("largest", curve.head, GROUPS[0]), ("smallest", curve.tail, GROUPS[2])):
            concept = "all concepts" if curve.is_shared else f"{what} concept"
            tooltips[f"hover-{what}"] = _hover(axes, percent, values, color, f"hover-{what}", concept, "{:.4f}")
        axes.set_ylim(*limits)
        _progress_axis(axes)
        _title(axes, curve.word)
        if curve.is_shared:
            says = f"the same for head and tail, from {curve.head[0]:.3f} to {curve.head[-1]:.3f}"
        else:
            says = (
                f"between {min(curve.head):.3f} and {max(curve.head):.3f} for the largest concept, "
                f"between {min(curve.tail):.3f} and {max(curve.tail):.3f} for the smallest"
            )
        return inline_svg(figure, identifier, f"{curve.word.capitalize()} over training with {name}: {says}", tooltips)


def learning_panel(title: str, lines: Sequence[Line], identifier: str, digits: int, unit: str = "") -> Markup:
    """Draw a figure over training, a line a rule, with a band from the least to the most over seeds."""
    with drawing(*PANEL) as figure:
        axes = figure.add_subplot()
        tooltips = {}
        for line in lines:
            color, dashes = SERIES[line.number % len(SERIES)], DASHES[line.number % len(DASHES)]
            percent = [100 * each for each in line.progress]
            if line.low != line.high:
                axes.fill_between(percent, line.low, line.high, color=color, alpha=0.16, linewidth=0)
            axes.plot(percent, line.mean, color=color, linestyle=dashes, linewidth=2.2 if line.number else 1.5)
            gid = f"hover-{line.number}"
            tooltips[gid] = _hover(axes, percent, line.mean, color, gid, isolated(line.name), f"{{:.{digits}f}}{unit}")
        _progress_axis(axes)
        _title(axes, title)
        ends = ", ".join(f"{line.name} ends at {line.mean[-1]:.{digits}f}{unit}" for line in lines)
        return inline_svg(figure, identifier, f"{title} over training: {ends}", tooltips)


def dot_panel(title: str, rows: Sequence[Row], identifier: str, xlabel: str, width: int, zero: bool = False) -> Markup:
    """Draw rows of dots in blocks, one block a part of the queries.

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
            color, marker = SERIES[row.number % len(SERIES)], MARKERS[row.number % len(MARKERS)]
            gid = f"row{place}"
            if zero:
                axes.hlines(y, *row.values, color=color, linewidth=2)
                face = color if row.is_filled else PAPER
                axes.plot(
                    [row.mean], [y], marker=marker, markersize=8, color=color, markerfacecolor=face,
                    markeredgewidth=1.8, linestyle="none", gid=gid,
                )  # fmt: skip
            else:
                is_alone = len(row.values) == 1
                axes.plot(
                    row.values, [y] * len(row.values), marker=marker, markersize=9 if is_alone else 6.5, color=color,
                    alpha=1 if is_alone else 0.45, markeredgewidth=0, linestyle="none",
                )  # fmt: skip
                if not is_alone:
                    axes.vlines(row.mean, y - 6, y + 6, color=color, linewidth=3)
                axes.plot([row.mean], [y], marker="o", markersize=12, color=color, alpha=0, linestyle="none", gid=gid)
            tooltips[gid] = [f"{isolated(row.name)}, {row.part}: {row.text}"]
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
        return inline_svg(figure, identifier, f"{title}, {xlabel}. {says}", tooltips)


def _hover(
    axes: Any, percent: Sequence[float], values: Sequence[float], color: str, gid: str, name: str, shape: str
) -> list[str]:
    """Put points on a line that show on pointing; return what each says."""
    most = min(len(percent), _HOVER_POINTS)
    chosen = sorted({round(at * (len(percent) - 1) / max(1, most - 1)) for at in range(most)})
    points = [(percent[at], values[at]) for at in chosen]
    axes.plot(
        *zip(*points, strict=True), linestyle="none", marker="o", markersize=8, color=color, gid=gid, clip_on=False
    )
    return [f"{name}: {shape.format(y)} at {x:.0f} % of training" for x, y in points]


def _progress_axis(axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, StrMethodFormatter

    axes.set_xlim(0, 100)
    axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g} %"))
    axes.yaxis.set_major_locator(_locator(5))
    axes.grid(axis="y")
    axes.set_xlabel("of training")


def _logarithmic_ticks(axes: Any, least: int, most: int) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if most / least > 300 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")


def _locator(most: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=12, color=MUTED, pad=10)
