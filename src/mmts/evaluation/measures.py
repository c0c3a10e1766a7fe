"""The measures that runs are judged by: their names, choosing by one of them, and writing their figures in words."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import nearest

MEAN_RECALL = "mean recall"
"""The mean of R@1, R@5 and R@10: steadier than any of them."""

CUTOFFS = (1, 5, 10)
RECALLS = tuple(f"R@{k}" for k in CUTOFFS)
GRADED = ("mAP", "nDCG", "binary_mAP")
"""The measures of graded relevance; binary_mAP counts only items of relevance 1."""
FOLDS = "folds"
"""The mean over equal parts of the media, each judged by itself, such as MSCOCO's five times 1,000."""
BRACKETS = "in brackets: 95 % interval over queries"
"""The caption of a table that shows intervals."""
_MEASURES = (*RECALLS, MEAN_RECALL, *GRADED)


def _known(name: str) -> str:
    known = [*_MEASURES, *(f"{group} {measure}" for group in GROUP_NAMES for measure in _MEASURES)]
    if name not in known:
        raise ValueError(f"unknown measure {name!r}; {nearest(name, known)}")
    return name


Measure = Annotated[str, AfterValidator(_known)]
"""R@1, R@5, R@10, mean recall, mAP, nDCG or binary_mAP; "tail R@5" is that of one group (head, mid or tail)."""


def group_of(measure: str) -> str | None:
    """Return the group of a measure; None if it covers all queries.

    >>> group_of("tail R@5"), group_of("mean recall")
    ('tail', None)
    """
    return next((group for group in GROUP_NAMES if measure.startswith(f"{group} ")), None)


def needs_graded(measure: str) -> bool:
    """Return whether a measure exists only for graded relevance."""
    return measure.rpartition(" ")[2] in GRADED


def measured(metrics: Mapping[str, Any], measure: str) -> float | None:
    """Return a measure's mean over both directions from the contents of metrics.json; None if it has no such queries.

    >>> sides = {"text_to_image": {"R@1": 40.0}, "image_to_text": {"R@1": 50.0}}
    >>> measured(sides, "R@1"), measured({"groups": {"tail": None}}, "tail R@1")
    (45.0, None)
    """
    group = group_of(measure)
    inside = metrics if group is None else metrics["groups"][group] or {}
    sides = [figures for key, figures in inside.items() if "_to_" in key]
    if not sides or None in sides:
        return None
    name = measure.removeprefix(f"{group} ")
    parts = RECALLS if name == MEAN_RECALL else (name,)
    return float(sum(figures[part] for figures in sides for part in parts)) / (len(sides) * len(parts))


def directions_of(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return (text_to_image, image_to_text), or the same with video."""
    kind = "video" if "text_to_video" in metrics else "image"
    return f"text_to_{kind}", f"{kind}_to_text"


def arrow(direction: str) -> str:
    """Write a direction for a table."""
    return direction.replace("_to_", "→")


def shown_measures(metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the three measures, in percent, that tables show."""
    return ("mAP", "nDCG", "R@1") if "mAP" in metrics[directions_of(metrics)[0]] else ("R@1", "R@5", "R@10")


def in_tenths(*values: float) -> str:
    """Write figures in percent for a table.

    >>> in_tenths(51.46, 100.0)
    '51.5, 100'
    """
    return ", ".join("100" if value == 100 else f"{value:.1f}" for value in values)


def coverage_in_words(metrics: Mapping[str, Any]) -> str:
    """Say how much of a published split was judged; empty if that is unknown."""
    if (coverage := metrics.get("coverage")) is None:
        return ""
    published = f"; papers judge on {coverage['published']:,}" if coverage.get("published") else ""
    return f"covers {coverage['judged']:,} of the {coverage['annotated']:,} clips annotated{published}"


def folds_in_words(metrics: Mapping[str, Any]) -> str:
    """Explain the figures of folds; empty if there are none."""
    if not metrics.get(FOLDS):
        return ""
    number = metrics[FOLDS]["num"]
    about = "about " if metrics["num_media"] % number else ""
    size = metrics["num_media"] // number
    return f"{number} folds: mean over {number} parts of {about}{size:,} media, each judged by itself"
