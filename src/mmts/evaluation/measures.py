"""The measures by which a checkpoint (`train.best`) or a setting of a sweep (`choose`) is chosen."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator

from mmts.errors import nearest

MEAN_RECALL = "mean recall"
"""The mean of R@1, R@5 and R@10: steadier than any of them."""

CUTOFFS = (1, 5, 10)
RECALLS = tuple(f"R@{k}" for k in CUTOFFS)
GRADED = ("mAP", "nDCG", "binary_mAP")
"""What graded relevance adds; binary_mAP counts only items of relevance 1."""
_GROUPS = ("head", "mid", "tail")
_MEASURES = (*RECALLS, MEAN_RECALL, *GRADED)


def _known(name: str) -> str:
    known = [*_MEASURES, *(f"{group} {measure}" for group in _GROUPS for measure in _MEASURES)]
    if name not in known:
        raise ValueError(f"unknown measure {name!r}; {nearest(name, known)}")
    return name


Measure = Annotated[str, AfterValidator(_known)]
"""R@1, R@5, R@10, mean recall, mAP, nDCG or binary_mAP; "tail R@5" is that of one group (head, mid or tail)."""


def group_of(measure: str) -> str | None:
    """Return the group that a measure is of; None for one of all queries.

    >>> group_of("tail R@5"), group_of("mean recall")
    ('tail', None)
    """
    first = measure.partition(" ")[0]
    return first if first in _GROUPS else None


def needs_graded(measure: str) -> bool:
    """Return whether a measure exists only for graded relevance.

    >>> needs_graded("tail mAP"), needs_graded("R@1")
    (True, False)
    """
    return measure.rpartition(" ")[2] in GRADED


def measured(metrics: Mapping[str, Any], measure: str) -> float | None:
    """Return a measure's mean over both directions, from figures as metrics.json has them; None without such queries.

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
