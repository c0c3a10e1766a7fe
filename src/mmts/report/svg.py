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
    "text.parse_math": False,  # names may hold a dollar sign
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.linewidth": 1,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.linewidth": 1,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
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
    """Yield an empty figure of `width` x `height` pixels in the page's style, independent of the user's matplotlibrc.

    ink, muted, line: the colors of text, of labels, and of axes and grid.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colors = {
        "text.color": ink,
        **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), muted),
        **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), line),
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE | colors)
        yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")


def inline_svg(
    figure: Any, identifier: str, label: str, tooltips: Mapping[str, Sequence[str]] | None = None, read: str = "x"
) -> Markup:
    """Return the figure as an <svg> element to stand inside HTML.

    `identifier` starts every id in it, so that charts on one page do not clash; a screen reader reads out `label`.
    `tooltips` maps the gid of an artist drawn with markers to one text per marker, in order. Markers whose gid starts
    with "hover-" show only when the pointer is on them. `read` is the axis along which page.js looks for the point
    nearest to the pointer: "x", "y" or "xy".
    """
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": identifier, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page's fonts draw the letters, not matplotlib's
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # HTML knows the namespaces of SVG by itself, and `href` needs no xlink.
    source = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text.getvalue()).replace("xlink:href", "href")
    root = ElementTree.fromstring(source)
    for parent in list(root.iter()):
        for child in parent.findall("metadata") + parent.findall(
            "style"
        ):  # this style sheet would reach the whole page
            parent.remove(child)
    for element in root.iter():
        _fit_to_page(element, identifier)
    for gid, texts in (tooltips or {}).items():
        artist = next(element for element in root.iter() if element.get("id") == f"{identifier}-{gid}")
        for point, tooltip in zip(list(artist.iter("use")), texts, strict=True):
            ElementTree.SubElement(point, "title").text = tooltip
        artist.set("class", "hover" if gid.startswith("hover-") else "mark")
    style = f"max-width:{root.attrib['width'].replace('pt', 'px')}"
    for unused in ("width", "height", "version"):
        root.attrib.pop(unused, None)
    root.attrib |= {"role": "img", "aria-label": label, "class": "chart", "data-read": read, "tabindex": "0"}
    root.set("style", style)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _fit_to_page(element: ElementTree.Element, identifier: str) -> None:
    """Prefix ids, put in the page's colors and fonts; drop rotations by 0, invisible digits and white space."""
    attributes = element.attrib
    if "id" in attributes:
        attributes["id"] = f"{identifier}-{attributes['id']}"
    for key, value in attributes.items():
        if key == "href":
            attributes[key] = value.replace("#", f"#{identifier}-")
        elif key in ("d", "x", "y", "transform"):
            attributes[key] = " ".join(re.sub(r"(\.\d\d)\d+", r"\1", value).split())
        elif key != "id":
            attributes[key] = value.replace("url(#", f"url(#{identifier}-")
    if "style" in attributes:
        style = re.sub(r"font-family:[^;]*;?", "", attributes["style"])
        style = re.sub(r"font:\s*([\d.]+px)[^;]*", r"font-size: \1", style)
        attributes["style"] = re.sub("#0101[0-9a-f]{2}", lambda match: f"var({_VARIABLES[match[0]]})", style)
    if attributes.get("transform", "").startswith(("rotate(-0 ", "rotate(0 ")):
        del attributes["transform"]
    element.text = element.text if element.text and element.text.strip() else None
    element.tail = None
