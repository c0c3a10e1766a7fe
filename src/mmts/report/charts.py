"""The charts of the page, each a function from numbers to an <svg> with the page's colors, fonts and tooltips.

The tooltip of a point has two lines, its value and its place. page.js shows all points of one place together.
"""

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from mmts.errors import counted
from mmts.evaluation.results import PARTS, Figure, Gap
from mmts.files import atomic_write
from mmts.report.contents import Contents
from mmts.report.wording import in_title, interval_in_words, isolated, signed

T = TypeVar("T")
_HOVER_POINTS = 41
_ROW, _BETWEEN_PARTS = 17, 14  # pixels

# Charts are drawn in these stand-in colors, which become the page's CSS variables and so follow light and dark.
_NAMES = ("ink", "muted", "line", "paper", *(f"series-{n}" for n in range(6)), *(f"group-{n}" for n in range(3)))
_VARIABLES = {f"#0101{number:02x}": f"--{name}" for number, name in enumerate(_NAMES)}
INK, MUTED, LINE, PAPER = list(_VARIABLES)[:4]
SERIES, GROUPS = tuple(_VARIABLES)[4:10], tuple(_VARIABLES)[10:]
DASHES = ("-", (0, (5, 2)), "-", (0, (6, 2, 1.5, 2)), (0, (1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Line:
    """A figure over training or concept size, with a band; `number` (of a rule or a group) gives its color."""

    name: str
    number: int
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def over_seeds(cls, name: str, number: int, x: list[float], values: Sequence[Sequence[float]]) -> "Line":
        """Return the mean of each column of values, one row per seed, with the least and the largest as its band."""
        rows = np.array(values)
        return cls(name, number, x, rows.mean(axis=0).tolist(), rows.min(axis=0).tolist(), rows.max(axis=0).tolist())


def wide_and_narrow(draw: Callable[[str, int], Markup], identifier: str, wide: int = 504) -> tuple[Markup, Markup]:
    """Draw a chart twice, for a desktop and for a phone: `draw` takes an identifier and a width in pixels."""
    return draw(f"{identifier}-wide", wide), draw(f"{identifier}-narrow", 350)


def training_panel(
    what: str, title: str, lines: Sequence[Line], form: str, identifier: str, top: float | None = None
) -> Markup:
    """Draw a figure over training, with bands; `form` formats its values, `what` names the chart to a screen reader.

    Lines are rules; with `top`, the end of the vertical axis, they are head, mid and tail, or one for all samples.
    """

    def text(at: float, *values: float) -> str:
        mean, low, high = map(form.format, values)
        band = "" if low == high else f" ({low.removesuffix(' %')} to {high})"
        return f"{mean}{band}\nat {at:.0f} % of training"

    with drawing(340, 220) as axes:
        strokes, ranges = [_stroke(line.number) for line in lines], []
        if top is not None:
            strokes = [{"color": INK if len(lines) == 1 else GROUPS[line.number], "linewidth": 2} for line in lines]
        tooltips = _draw_lines(axes, lines, strokes, text, 100)
        for line in lines:
            least, most, last = map(form.format, (min(line.mean), max(line.mean), line.mean[-1]))
            ranges.append(f"{line.name} between {least} and {most}, {last} at the end")
        axes.set_ylim(bottom=None if top is None else 0, top=top)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.xaxis.set_major_formatter("{x:g} %")
        axes.set_xlabel("of training")
        _finish(axes, title, 5)
        return inline_svg(axes, identifier, f"{what} over training: {'; '.join(ranges)}", tooltips)


def interpolation_panel(
    lines: Sequence[Line], chosen: Sequence[float], ylabel: str, identifier: str, width: int
) -> Markup:
    """Draw a figure in percent by the share of the tuned weights: a line per data set, an upright at those chosen."""
    with drawing(width, 260) as axes:
        for share in chosen:
            axes.axvline(share, color=MUTED, linewidth=1)
        strokes = [_stroke(line.number) | {"marker": MARKERS[shape(line.number)], "markersize": 5} for line in lines]
        tooltips = _draw_lines(axes, lines, strokes, lambda at, mean, *_: f"{mean:.1f} %\na = {at:g}")
        ranges = [f"{line.name} from {line.mean[0]:.1f} % to {line.mean[-1]:.1f} %" for line in lines]
        axes.set_xlabel("a, the share of the tuned weights")
        axes.xaxis.set_major_formatter("{x:g}")
        _finish(axes, ylabel, 6)
        return inline_svg(axes, identifier, f"{ylabel} from start to result: {'; '.join(ranges)}", tooltips)


def size_panel(
    title: str, ylabel: str, lines: Sequence[Line], places: Sequence[str], identifier: str, width: int
) -> Markup:
    """Draw a figure in percent by concept size, one line per rule with its interval; `places` names the sizes."""
    with drawing(width, 250) as axes:
        tooltips = {}
        for line in lines:
            # Side by side, so that no interval hides another.
            aside = (line.x[-1] / line.x[0]) ** (0.012 * (line.number - (len(lines) - 1) / 2))
            x = [size * aside for size in line.x]
            stroke, gid = _stroke(line.number), f"hover-{line.number}"
            axes.vlines(x, line.low, line.high, color=stroke["color"], linewidth=1.5, alpha=0.55)
            axes.plot(x, line.mean, marker=MARKERS[shape(line.number)], markersize=6, **stroke)
            hover_points(axes, x, line.mean, gid, stroke["color"])
            tooltips[gid] = [
                f"{isolated(line.name)}: {mean:.1f} %, interval {low:.1f} to {high:.1f}\n{place}"
                for mean, low, high, place in zip(line.mean, line.low, line.high, places, strict=True)
            ]
        _size_axis(axes, lines[0].x[0], lines[0].x[-1])
        _finish(axes, ylabel, 5)
        form = "{} goes from {:.1f} % at the smallest to {:.1f} % at the largest"
        ends = "; ".join(form.format(line.name, line.mean[0], line.mean[-1]) for line in lines)
        return inline_svg(axes, identifier, f"{title}: {ylabel} by concept size. {ends}", tooltips)


def change_panel(changes: Sequence[Mapping[str, Any]], ylabel: str, identifier: str, width: int) -> Markup:
    """Draw differences by concept size: one dot per concept, filled if its interval leaves out 0."""
    with drawing(width, 280) as axes:
        axes.axhline(0, color=MUTED, linewidth=1)
        tooltips = {}
        for number, change in enumerate(sorted(changes, key=lambda row: (row["group"], row["gap"].is_clear))):
            gap, color, gid = change["gap"], GROUPS[change["group"]], f"dot{number}"
            axes.plot(
                change["size"], gap.mean, marker="o", markersize=8, color=color, markeredgewidth=1.6, gid=gid,
                markerfacecolor=color if gap.is_clear else PAPER, linestyle="none", clip_on=False,
            )  # fmt: skip
            text = f"{signed(gap.mean)} points, interval {interval_in_words(gap)}"
            text += f", {counted(change['num_queries'], 'query', 'queries')}\n{isolated(change['name'])}"
            tooltips[gid] = [f"{text} ({counted(change['size'], 'training sample')})"]
        sizes, differences = [change["size"] for change in changes], [change["gap"].mean for change in changes]
        _size_axis(axes, min(sizes), max(sizes))
        _finish(axes, ylabel, 6)
        label = f"{ylabel} of {counted(len(changes), 'concept')} by size: "
        label += f"from {min(differences):.1f} to {max(differences):.1f}"
        return inline_svg(axes, identifier, label, tooltips, read="xy")


def dot_charts(
    contents: Contents, identifier: str, xlabel: str, are_gaps: bool = False
) -> list[tuple[str, Markup, Markup]]:
    """Draw the figures of all rules, or their differences to the first, for each direction that has any."""
    drawn = []
    for at, direction in enumerate(contents.directions):
        rows: list[tuple[str, int, Figure | Gap]] = []
        for part, (number, group) in itertools.product(PARTS, enumerate(contents.groups)):
            figure = group.figure(direction, contents.measure, part)
            if (value := contents.gap(number, direction, part) if are_gaps else figure) is not None:
                rows.append((part or "all", number, value))
        if rows:
            draw = partial(_dot_panel, contents, direction, rows, xlabel)
            drawn.append((in_title(direction), *wide_and_narrow(draw, f"{identifier}{at}")))
    return drawn


def _dot_panel(
    contents: Contents,
    direction: str,
    rows: Sequence[tuple[str, int, Figure | Gap]],
    xlabel: str,
    identifier: str,
    width: int,
) -> Markup:
    """Draw rows of dots in blocks, one block per part of the queries.

    A difference is a line along its interval and a dot, filled if the interval leaves out 0. Of a figure, small marks
    are seeds and the upright stroke is their mean; a single run is a mark alone.
    """
    places: dict[str, list[float]] = {}  # the heights of the rows of each part, downward
    for at, (part, _, _) in enumerate(rows):
        block = places.setdefault(part, [])
        block.append(_ROW * at + _BETWEEN_PARTS * (len(places) - 1))
    heights = [height for block in places.values() for height in block]
    with drawing(width, heights[-1] + _ROW + 56) as axes:
        if isinstance(rows[0][2], Gap):
            axes.axvline(0, color=MUTED, linewidth=1)
        tooltips, values = {}, []
        for at, ((part, number, value), y) in enumerate(zip(rows, heights, strict=True)):
            group, color = contents.groups[number], SERIES[number % len(SERIES)]
            style: dict[str, Any] = {"marker": MARKERS[shape(number)], "color": color, "linestyle": "none"}
            if isinstance(value, Gap):
                text, gid, size = f"{signed(value.mean)} points, {interval_in_words(value)}", f"row{at}", 8
                axes.hlines(y, value.low, value.high, color=color, linewidth=2)
                style |= {"markerfacecolor": color if value.is_clear else PAPER, "markeredgewidth": 1.8}
            else:
                text, gid, size = f"{value} %", f"hover-row{at}", 9
                seeds = value.values
                look = {"markersize": 9} if len(seeds) == 1 else {"markersize": 6.5, "alpha": 0.45}
                axes.plot(seeds, [y] * len(seeds), markeredgewidth=0, **style, **look)
                if len(seeds) > 1:
                    axes.vlines(value.mean, y - 6, y + 6, color=color, linewidth=3)
            axes.plot(value.mean, y, markersize=size, gid=gid, **style)
            tooltips[gid] = [f"{isolated(group.name)}: {text}\n{part}"]
            values.append(f"{group.name}, {part}: {text}")
        axes.set_ylim(heights[-1] + _ROW / 2 + 4, -_ROW / 2 - 4)
        axes.set_yticks([sum(block) / len(block) for block in places.values()], list(places))
        axes.tick_params(axis="y", labelcolor=INK, pad=6)
        axes.grid(axis="x")
        axes.margins(x=0.06)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(xlabel)
        label = f"{in_title(direction)}, {xlabel}. {'; '.join(values)}"
        return inline_svg(axes, identifier, label, tooltips, read="y")


def _draw_lines(
    axes: Any, lines: Sequence[Line], strokes: Sequence[dict[str, Any]], text: Callable[..., str], scale: float = 1
) -> dict[str, list[str]]:
    """Draw lines with their bands; return the tooltips: `text` of the place, mean, low and high of a point."""
    tooltips = {}
    for line, stroke in zip(lines, strokes, strict=True):
        x, gid = [scale * at for at in line.x], f"hover-{line.number}"
        if line.low != line.high:
            axes.fill_between(x, line.low, line.high, color=stroke["color"], alpha=0.16, linewidth=0)
        axes.plot(x, line.mean, **stroke)
        points = thinned(list(zip(x, line.mean, line.low, line.high, strict=True)), _HOVER_POINTS)
        hover_points(axes, [point[0] for point in points], [point[1] for point in points], gid, stroke["color"])
        tooltips[gid] = [f"{isolated(line.name)}: {text(*point)}" for point in points]
    return tooltips


def thinned(values: Sequence[T], most: int) -> list[T]:
    """Return at most `most` of the values, evenly spaced, including the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(at * (len(values) - 1) / (most - 1))] for at in range(most)]


def hover_points(axes: Any, x: Sequence[float], y: Sequence[float], gid: str, color: str) -> None:
    """Draw points that show only when the pointer is on them; `gid` starts with "hover-"."""
    axes.plot(x, y, linestyle="none", marker="o", markersize=8, color=color, gid=gid, clip_on=False)


def logarithmic_ticks(axis: Any, least: float, most: float) -> None:
    """Label an axis at 1, 10, 100, ..., and at 2 and 5 times those if it spans less than two and a half decades."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1.0,) if most / least > 300 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_ticks([], minor=True)


def _stroke(number: int) -> dict[str, Any]:
    dash = DASHES[number % len(DASHES)]
    return {"color": SERIES[number % len(SERIES)], "linestyle": dash, "linewidth": 2.2 if number else 1.5}


def _size_axis(axes: Any, least: float, most: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(least / 1.15, most * 1.15)
    logarithmic_ticks(axes.xaxis, least, most)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlabel("training samples of the concept, logarithmic scale")


def _finish(axes: Any, title: str, most_ticks: int) -> None:
    axes.locator_params(axis="y", nbins=most_ticks)
    axes.grid(axis="y")
    axes.set_title(title)


def shape(number: int) -> int:
    """Return which of six shapes a series has: no two of 36 series have the same shape and color.

    >>> [shape(number) for number in (0, 5, 6, 11, 12)]
    [0, 5, 1, 0, 2]
    """
    return (number + number // 6) % 6


@contextmanager
def drawing(width: float, height: float, ink: str = INK, muted: str = MUTED, line: str = LINE) -> Iterator[Any]:
    """Yield the axes of an empty figure, in pixels; ink, muted, line: colors of text, of labels, of axes and grid."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colors = {
        "text.color": ink,
        **dict.fromkeys(("axes.titlecolor", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), muted),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), line),
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # pages have more fonts; a picture shows a box
        mpl.rc_file(str(resources.files("mmts.report") / "page.mplstyle"))
        mpl.rcParams.update(colors)
        yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained").add_subplot()


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield the axes of an empty figure, as `drawing` does, and write what the body draws as a PNG file."""
    with drawing(width, height, ink="#222222", muted="#444444", line="#dddddd") as axes, atomic_write(path) as file:
        figure = axes.figure
        yield axes
        figure.savefig(file, format="png", dpi=125, facecolor="white")


def inline_svg(
    axes: Any, identifier: str, label: str, tooltips: Mapping[str, Sequence[str]], read: str = "x"
) -> Markup:
    """Return the figure of `axes` (from `drawing`) as an <svg> element to stand inside HTML.

    `identifier` starts every id in it; a screen reader reads out `label`. `tooltips` maps the gid of an artist drawn
    with markers to one text per marker; if it starts with "hover-", markers show only when the pointer is on them.
    page.js looks along `read` for the point nearest to the pointer: "x", "y" or "xy".
    """
    text = io.StringIO()
    axes.figure.savefig(text, format="svg")
    # The figure's style sheet would reach the whole page.
    source = re.sub(r"<(metadata|style)\b.*?</\1>", "", text.getvalue(), flags=re.S)
    source = re.sub("<[^>]*>", lambda tag: _fit_to_page(tag[0], identifier), source)
    root = ElementTree.fromstring(re.sub(r">\s+<", "><", source))
    artists = {element.get("id"): element for element in root.iter()}
    for gid, texts in tooltips.items():
        artist = artists[f"{identifier}-{gid}"]
        for point, tooltip in zip(list(artist.iter("use")), texts, strict=True):
            ElementTree.SubElement(point, "title").text = tooltip
        artist.set("class", "hover" if gid.startswith("hover-") else "mark")
    style = f"max-width:{root.attrib['width'].replace('pt', 'px')}"
    about = {"role": "img", "aria-label": label, "class": "chart", "data-read": read, "tabindex": "0", "style": style}
    root.attrib = {"viewBox": root.attrib["viewBox"], **about}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _fit_to_page(tag: str, identifier: str) -> str:
    """Prefix ids, put in the page's colors and fonts; drop namespaces, rotations by 0, white space and tiny digits."""
    tag = re.sub(r'\sxmlns(:\w+)?="[^"]*"|xlink:| transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r'( id="|href="#|url\(#)', rf"\1{identifier}-", tag)
    tag = re.sub(r'font-family:[^;"]*;?', "", tag)
    tag = re.sub(r'font:\s*([\d.]+px)[^;"]*', r"font-size: \1", tag)
    tag = re.sub("#0101[0-9a-f]{2}", lambda match: f"var({_VARIABLES[match[0]]})", tag)
    return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", tag))
