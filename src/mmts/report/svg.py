"""From a matplotlib figure to SVG that belongs to the page: its colours, its letters, its tooltips."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

# Charts are drawn in these stand-in colours, which become the page's CSS variables and so follow light and dark.
INK, MUTED, LINE, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010110", "#010111", "#010112", "#010113", "#010114", "#010115")
GROUPS = ("#010120", "#010121", "#010122")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--paper",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES)},
    **{color: f"--group-{number}" for number, color in enumerate(GROUPS)},
}
DASHES = ("-", (0, (5, 2)), "-", (0, (6, 2, 1.5, 2)), (0, (1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")


def shape(number: int) -> int:
    """Return which of six shapes a series has: no two of 36 series have the same shape and color.

    >>> [shape(number) for number in (0, 5, 6, 11, 12)]
    [0, 5, 1, 0, 2]
    """
    return (number + number // 6) % 6


def marker(number: int) -> str:
    """Return matplotlib's name for the marker of a series."""
    return _MARKERS[shape(number)]


_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and copied
    "text.parse_math": False,  # names may hold a dollar sign
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.edgecolor": LINE,
    "axes.linewidth": 1,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 1,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
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


@contextmanager
def drawing(width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure of `width` x `height` pixels in the page's style, whatever the user's matplotlibrc says."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")


def inline_svg(
    figure: Any, identifier: str, label: str, tooltips: Mapping[str, Sequence[str]] | None = None, read: str = "x"
) -> Markup:
    """Return the figure as an <svg> element to stand inside HTML.

    `identifier` starts every id in it, so that charts on one page do not clash; `label` is what a screen reader
    says; `tooltips` gives, for the gid of an artist drawn with markers, a text for each marker in order. Markers
    whose gid starts with "hover-" show only when pointed at. `read` says along which axis page.js looks for the point
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
    _remove(root, "metadata", "style")
    for element in root.iter():
        _prefix_ids(element, identifier)
        _tidy(element)
    for gid, texts in (tooltips or {}).items():
        _add_titles(root, f"{identifier}-{gid}", texts)
    width = root.attrib.pop("width")
    for unused in ("height", "version"):
        root.attrib.pop(unused, None)
    root.attrib |= {
        "role": "img",
        "aria-label": label,
        "class": "chart",
        "data-read": read,
        "tabindex": "0",
        "style": f"max-width:{width.replace('pt', 'px')}",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _remove(root: ElementTree.Element, *tags: str) -> None:
    """Take out elements by tag, and matplotlib's style sheet with them: it would reach the whole page."""
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in tags]:
            parent.remove(child)


def _prefix_ids(element: ElementTree.Element, identifier: str) -> None:
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, f"{identifier}-{value}")
        elif key == "href" and value.startswith("#"):
            element.set(key, f"#{identifier}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{identifier}-"))


def _tidy(element: ElementTree.Element) -> None:
    """Put in the page's colours and letters; drop rotations by nothing, digits nobody sees and white space."""
    attributes = element.attrib
    if "style" in attributes:
        style = re.sub(r"font-family:[^;]*;?", "", attributes["style"])
        style = re.sub(r"font:\s*([\d.]+px)[^;]*", r"font-size: \1", style)
        for color, variable in _VARIABLES.items():
            style = style.replace(color, f"var({variable})")
        attributes["style"] = style
    if attributes.get("transform", "").startswith(("rotate(-0 ", "rotate(0 ")):
        del attributes["transform"]
    for key in ("d", "x", "y", "transform"):
        if key in attributes:
            attributes[key] = " ".join(re.sub(r"(\.\d\d)\d+", r"\1", attributes[key]).split())
    element.text = element.text if element.text and element.text.strip() else None
    element.tail = None


def _add_titles(root: ElementTree.Element, identifier: str, texts: Sequence[str]) -> None:
    artist = next(element for element in root.iter() if element.get("id") == identifier)
    markers = list(artist.iter("use"))
    for marker, text in zip(markers, texts, strict=True):
        ElementTree.SubElement(marker, "title").text = text
    artist.set("class", "hover" if "-hover-" in identifier else "mark")
