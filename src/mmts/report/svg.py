"""Turns a matplotlib figure into SVG that fits the page: its colors, its fonts, its tooltips."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

# Charts are drawn in these stand-in colors, which become the page's CSS variables and so follow light and dark.
INK, MUTED, LINE, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010110", "#010111", "#010112", "#010113", "#010114", "#010115")
GROUPS = ("#010120", "#010121", "#010122")
_VARIABLES = {
    **dict(zip((INK, MUTED, LINE, PAPER), ("--ink", "--muted", "--line", "--paper"), strict=True)),
    **{color: f"--series-{number}" for number, color in enumerate(SERIES)},
    **{color: f"--group-{number}" for number, color in enumerate(GROUPS)},
}
DASHES = ("-", (0, (5, 2)), "-", (0, (6, 2, 1.5, 2)), (0, (1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and copied
    "svg.hashsalt": "mmts",  # the same chart gives the same bytes
    "text.parse_math": False,  # names may hold a dollar sign
    **dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), 12),
    **dict.fromkeys(("axes.linewidth", "grid.linewidth"), 1),
    **dict.fromkeys(("ytick.major.size", "xtick.minor.size", "ytick.minor.size"), 0),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


def shape(number: int) -> int:
    """Return which of six shapes a series has: no two of 36 series have the same shape and color.

    >>> [shape(number) for number in (0, 5, 6, 11, 12)]
    [0, 5, 1, 0, 2]
    """
    return (number + number // 6) % 6


def marker(number: int) -> str:
    """Return matplotlib's name for the marker of a series."""
    return _MARKERS[shape(number)]


@contextmanager
def drawing(width: float, height: float, ink: str = INK, muted: str = MUTED, line: str = LINE) -> Iterator[Any]:
    """Yield the axes of an empty figure of `width` x `height` pixels in the page's style, whatever matplotlibrc says.

    ink, muted, line: the colors of text, of labels, and of axes and grid.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colors = {
        "text.color": ink,
        **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), muted),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), line),
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # pages have more fonts; a picture shows a box
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE | colors)
        yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained").add_subplot()


def inline_svg(
    axes: Any, identifier: str, label: str, tooltips: Mapping[str, Sequence[str]], read: str = "x"
) -> Markup:
    """Return the figure of `axes` (from `drawing`) as an <svg> element to stand inside HTML.

    `identifier` starts every id in it, so that charts on one page do not clash; a screen reader reads out `label`.
    `tooltips` maps the gid of an artist drawn with markers to one text per marker, in order. Markers whose gid starts
    with "hover-" show only when the pointer is on them. `read` is the axis along which page.js looks for the point
    nearest to the pointer: "x", "y" or "xy".
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
    for unused in ("width", "height", "version"):
        del root.attrib[unused]
    root.attrib |= {"role": "img", "aria-label": label, "class": "chart", "data-read": read, "tabindex": "0"}
    root.set("style", style)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _fit_to_page(tag: str, identifier: str) -> str:
    """Prefix ids, put in the page's colors and fonts; drop namespaces, rotations by 0, white space and tiny digits."""
    tag = re.sub(r'\sxmlns(:\w+)?="[^"]*"|xlink:| transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r'( id="|href="#|url\(#)', rf"\1{identifier}-", tag)
    tag = re.sub(r'font-family:[^;"]*;?', "", tag)
    tag = re.sub(r'font:\s*([\d.]+px)[^;"]*', r"font-size: \1", tag)
    tag = re.sub("#0101[0-9a-f]{2}", lambda match: f"var({_VARIABLES[match[0]]})", tag)
    return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", tag))
