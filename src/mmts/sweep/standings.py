"""What the variants of a sweep reached: by part of the queries, over seeds, and the difference to the first variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.data.records import Dataset
from mmts.errors import RecipeError, RunError
from mmts.evaluation.compare import Gap
from mmts.evaluation.measures import GRADED, MEAN_RECALL, RECALLS, measured
from mmts.evaluation.results import PARTS, SIDES, Figure, Judged, query_scores, refuse_other_queries
from mmts.files import read_json
from mmts.metrics import seeded_bootstrap_interval
from mmts.recipe.run_directory import RunDirectory
from mmts.sweep.sweep_file import Trial
from mmts.training.build import label_of_samples

BOTH = "both"
"""The mean of the two directions."""
CONCEPT = "concept"
"""The division of queries by the concepts that the first run found in the training captions."""
AVERAGE = "average"
"""All queries, each concept (or value of a label) counting alike."""
ALL_PARTS = (*PARTS, AVERAGE)
"""All queries (None), those of head, mid and tail, and the average over concepts."""


@dataclass(frozen=True)
class TrialRuns:
    """The runs of a trial, one per seed; `failed` says why its setting could not be trained."""

    trial: Trial
    runs: tuple[Path, ...]
    failed: str | None = None

    def on_val(self, measure: str) -> float:
        """Return a measure on val, the mean over both directions and all seeds; -inf if it could not be trained.

        Raises RunError if somebody evaluated a run on another split since.
        """
        values = []
        for run in () if self.failed else self.runs:
            metrics = read_json(RunDirectory(run).metrics_file)
            if metrics["split"] != "val":
                other = metrics["split"]
                raise RunError(f"{run}, tuned on val, has since been evaluated on {other}; remove it to tune again")
            values.append(measured(metrics, measure))
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else -np.inf


@dataclass(frozen=True)
class Division:
    """The concept (-1: not in training) and the group (0, 1, 2 = head, mid, tail) of the queries of each side.

    Text queries are the captions (N,), media queries the media (M,). Media have no concepts (None) where relevance is
    graded. In a division by a label, its values are the concepts.
    """

    name: str
    concepts: Mapping[str, Tensor | None]
    groups: Mapping[str, Tensor]

    def weights(self, side: str, part: str | None) -> Tensor | None:
        """Return the weight (Q,) of each query of "text" or "media" in a part, float64 of sum 1; None if it is empty.

        >>> groups = {"text": torch.tensor([0, 0, 2])}
        >>> division = Division("concept", groups, groups)
        >>> division.weights("text", "average"), division.weights("text", "mid")
        (tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64), None)
        """
        if part == AVERAGE:
            concepts = self.concepts[side]
            if concepts is None:
                return None
            _, member, counts = torch.unique(concepts, return_inverse=True, return_counts=True)
            weights: Tensor = 1.0 / (len(counts) * counts[member].double())
            return weights
        groups = self.groups[side]
        inside = groups == GROUP_NAMES.index(part) if part else torch.ones(len(groups), dtype=torch.bool)
        return inside.double() / inside.sum() if inside.any() else None


def label_concepts(dataset: Dataset, labels: Sequence[str]) -> dict[str, ConceptDistribution]:
    """Return the concepts of the training samples by each label, each value being a concept.

    Raises RecipeError if the data has no such label, DataError naming a training medium that lacks it.
    """
    if CONCEPT in labels:
        raise RecipeError(f"labels: {CONCEPT!r} already names the division by the concepts of the captions")
    train = dataset.split("train")
    return {label: ConceptDistribution.from_labels(label_of_samples(train, label, "labels")) for label in labels}


def _divisions(judged: Judged, dataset: Dataset, labels: Mapping[str, ConceptDistribution]) -> list[Division]:
    """Return the division by the concepts of a judged run, and one by each label.

    The groups of a label go by the number of training samples that have each value.
    """
    concepts, groups = dict(zip(SIDES, judged.concepts, strict=True)), dict(zip(SIDES, judged.groups, strict=True))
    divisions = [Division(CONCEPT, concepts, groups)]
    by_id = {medium.id: medium for medium in dataset.split(judged.meta["split"]).media} if labels else {}
    for label, training in labels.items():
        values = training.assign([by_id[name].labels.get(label) for name in judged.meta["media_ids"]])
        sizes = training.groups_of(values)
        pairs = ({"text": media[judged.owner], "media": media} for media in (values, sizes))
        divisions.append(Division(label, *pairs))
    return divisions


class Column(NamedTuple):
    """One column of figures: the queries of a side (or of both), a measure, and a part of a division."""

    side: str
    measure: str
    division: Division
    part: str | None = None


@dataclass(frozen=True)
class Standings:
    """The judged runs of every variant, in the order of the sweep file, and the divisions of their queries.

    Methods take a variant's number. A figure is None if no query is in its part.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[Judged, ...], ...]
    divisions: tuple[Division, ...]

    @classmethod
    def read(
        cls, trials: Sequence[TrialRuns], dataset: Dataset, labels: Mapping[str, ConceptDistribution]
    ) -> "Standings":
        """Read the runs of trials, divided by concepts and by labels (from `label_concepts`).

        Raises RunError if they were not evaluated on the same queries.
        """
        runs = tuple(tuple(map(Judged.load, trial.runs)) for trial in trials)
        first = runs[0][0]
        differing = {run.path: how for seeds in runs for run in seeds if (how := run.differs_from(first))}
        refuse_other_queries(str(first.path), differing)
        return cls(tuple(each.trial.variant for each in trials), runs, tuple(_divisions(first, dataset, labels)))

    @property
    def is_graded(self) -> bool:
        """Whether the runs are evaluated with graded relevance."""
        return self.runs[0][0].has(GRADED[0])

    @property
    def headline(self) -> str:
        """The measure that variants are ranked by, over both directions."""
        return GRADED[0] if self.is_graded else MEAN_RECALL

    @property
    def measures(self) -> tuple[str, ...]:
        """All measures of the runs."""
        return (*(GRADED if self.is_graded else ()), MEAN_RECALL, *RECALLS)

    def direction(self, side: str) -> str:
        """Name a side: "text_to_image", "image_to_text", the same of video, or "both"."""
        kind = self.runs[0][0].meta["kind"]
        return {"text": f"text_to_{kind}", "media": f"{kind}_to_text", BOTH: BOTH}[side]

    def ranking(self) -> list[int]:
        """Return the variants' numbers, the best by the headline first."""
        means = [np.mean(self.values(variant, self.headline_of()) or -np.inf) for variant in range(len(self.names))]
        return sorted(range(len(means)), key=lambda variant: -means[variant])

    def headline_of(self, division: Division | None = None, part: str | None = None) -> Column:
        """Return the column of the headline over both directions, of all queries or of a part."""
        return Column(BOTH, self.headline, division or self.divisions[0], part)

    def values(self, variant: int, column: Column) -> list[float] | None:
        """Return a measure in percent, one value per seed."""
        queries = self._queries(column)
        return None if queries is None else (100 * queries.scores(self.runs[variant]).mean(dim=1)).tolist()

    def figure(self, variant: int, column: Column) -> Figure | None:
        """Return a measure's mean and spread over seeds, percent."""
        values = self.values(variant, column)
        return None if values is None else Figure.of(values)

    def gap(self, variant: int, column: Column) -> Gap | None:
        """Return a variant's figure minus the first one's, in points, with its 95 % interval (docs/method.md, 7.3).

        None for the first variant, and where all queries of the part belong to one medium: an interval over queries
        would mean nothing.
        """
        queries = self._queries(column)
        if variant == 0 or queries is None or not (queries.clusters != queries.clusters[0]).any():
            return None
        first, other = queries.scores(self.runs[0]), queries.scores(self.runs[variant])
        low, high = seeded_bootstrap_interval(first, other, clusters=queries.clusters)
        return Gap(100 * float(other.mean() - first.mean()), 100 * low, 100 * high)

    def _queries(self, column: Column) -> "_Queries | None":
        """Return the queries of a column, those of both sides with the same weight; None if a side has none."""
        sides = SIDES if column.side == BOTH else (column.side,)
        weights = {side: column.division.weights(side, column.part) for side in sides}
        rows = {side: weight.nonzero()[:, 0] for side, weight in weights.items() if weight is not None}
        if len(rows) < len(sides):
            return None
        scale = sum(map(len, rows.values())) / len(sides)
        owner = self.runs[0][0].owner
        media = {"text": owner, "media": torch.arange(len(column.division.groups["media"]))}
        return _Queries(
            column.measure,
            {side: (at, weights[side][at] * scale) for side, at in rows.items()},  # type: ignore[index]
            torch.cat([media[side][at] for side, at in rows.items()]),
        )


@dataclass(frozen=True)
class _Queries:
    """The rows and weights of the queries of each side, and the medium that each belongs to."""

    measure: str
    sides: Mapping[str, tuple[Tensor, Tensor]]
    clusters: Tensor

    def scores(self, runs: tuple[Judged, ...]) -> Tensor:
        """Return (S, Q) scores of S seeds, weighted so that their plain mean is the figure."""
        parts = [
            query_scores(runs, side, self.measure)[:, rows] * weights for side, (rows, weights) in self.sides.items()
        ]
        return torch.cat(parts, dim=1)
