"""How the rules of a sweep did on test: means and spread over seeds, and the difference to the first rule."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmts.evaluation.compare import Gap
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.measures import GRADED, MEAN_RECALL, RECALLS
from mmts.evaluation.results import SIDES, Figure, query_scores
from mmts.metrics import seeded_bootstrap_interval
from mmts.sweep.divisions import Division

BOTH = "both"
"""The mean of the two directions."""


class Column(NamedTuple):
    """What is asked about a rule: whose queries (a side, or both), a measure, and a part of a division."""

    side: str
    measure: str
    division: Division
    part: str | None = None


@dataclass(frozen=True)
class Standings:
    """The judged runs of every rule, in the order of the sweep file, and how queries are divided.

    Rules go by their number. Figures are None where no query is in the part asked about.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[Judged, ...], ...]
    divisions: tuple[Division, ...]

    @property
    def is_graded(self) -> bool:
        """Whether the runs are judged by graded relevance."""
        return "text_graded" in self.runs[0][0].arrays

    @property
    def headline(self) -> str:
        """Return the measure that rules are ranked by, over both directions."""
        return GRADED[0] if self.is_graded else MEAN_RECALL

    @property
    def measures(self) -> tuple[str, ...]:
        """Return all that runs are judged by."""
        return (*(GRADED if self.is_graded else ()), MEAN_RECALL, *RECALLS)

    def direction(self, side: str) -> str:
        """Name a side: "text_to_image", "image_to_text", the same of video, or "both"."""
        kind = self.runs[0][0].meta["kind"]
        return {"text": f"text_to_{kind}", "media": f"{kind}_to_text", BOTH: BOTH}[side]

    def ranking(self) -> list[int]:
        """Return the rules' numbers, the best by the headline first."""
        means = [np.mean(self.values(rule, self.headline_of()) or -np.inf) for rule in range(len(self.names))]
        return sorted(range(len(means)), key=lambda rule: -means[rule])

    def headline_of(self, division: Division | None = None, part: str | None = None) -> Column:
        """Return the headline over both directions, of all queries or of a part."""
        return Column(BOTH, self.headline, division or self.divisions[0], part)

    def values(self, rule: int, column: Column) -> list[float] | None:
        """Return a measure in percent, one a seed."""
        rows = _rows(self.runs[0][0], column.side, column.division, column.part)
        if rows is None:
            return None
        return (100 * rows.scores(self.runs[rule], column.measure).mean(dim=1)).tolist()

    def figure(self, rule: int, column: Column) -> Figure | None:
        """Return a measure's mean and spread over seeds, percent."""
        values = self.values(rule, column)
        return None if values is None else Figure.of(values)

    def gap(self, rule: int, column: Column) -> Gap | None:
        """Return a rule's figure minus the first rule's, points, with its 95 % interval (docs/method.md, 7.3).

        None where all queries of the part belong to one medium: an interval over queries would say nothing.
        """
        rows = _rows(self.runs[0][0], column.side, column.division, column.part)
        if rows is None or not (rows.clusters != rows.clusters[0]).any():
            return None
        first, own = (rows.scores(self.runs[each], column.measure) for each in (0, rule))
        low, high = seeded_bootstrap_interval(first, own, clusters=rows.clusters)
        return Gap(100 * float(own.mean() - first.mean()), 100 * low, 100 * high)


@dataclass(frozen=True)
class _Rows:
    """The queries of a part, what each counts, and the medium each belongs to."""

    of_side: tuple[tuple[str, Tensor, Tensor], ...]
    clusters: Tensor

    def scores(self, runs: tuple[Judged, ...], measure: str) -> Tensor:
        """Return (S, Q) scores, weighted so that their plain mean is the figure."""
        parts = [query_scores(runs, side, measure)[:, rows] * weight for side, rows, weight in self.of_side]
        return torch.cat(parts, dim=1)


def _rows(judged: Judged, side: str, division: Division, part: str | None) -> _Rows | None:
    """Return the queries of a part, of both sides half and half where `side` is "both"; None where it has none."""
    sides = SIDES if side == BOTH else (side,)
    weights = {each: division.weights(each, part) for each in sides}
    inside = {each: weight.nonzero()[:, 0] for each, weight in weights.items() if weight is not None}
    if len(inside) < len(sides):
        return None
    share = sum(map(len, inside.values())) / len(sides)
    medium = {"text": torch.from_numpy(judged.arrays["owner"]), "media": torch.arange(len(division.media_groups))}
    of_side = tuple((each, rows, weights[each][rows] * share) for each, rows in inside.items())  # type: ignore[index]
    return _Rows(of_side, torch.cat([medium[each][rows] for each, rows in inside.items()]))
