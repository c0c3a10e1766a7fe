"""The figures of a sweep's variants: by part of the queries, over seeds, and the differences to the first variant."""

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
from mmts.evaluation.judgement_file import SIDES, Judged
from mmts.evaluation.measures import GRADED, MEAN_RECALL, RECALLS, measured
from mmts.evaluation.results import PARTS, Figure, Gap, query_scores, refuse_other_queries
from mmts.files import read_json
from mmts.metrics import seeded_bootstrap_interval
from mmts.recipe.run_directory import RunDirectory
from mmts.sweep.sweep_file import Trial
from mmts.training.concepts import label_of_samples

FAILED = "failed.txt"
"""The file in a run's folder that says why it could not be trained."""
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
    """The runs of a trial, one per seed."""

    trial: Trial
    runs: tuple[Path, ...]

    @property
    def failed(self) -> str | None:
        """Why its setting could not be trained."""
        reasons = (run / FAILED for run in self.runs)
        return next((file.read_text(encoding="utf-8") for file in reasons if file.exists()), None)

    def on_val(self, measure: str) -> float:
        """Return a measure on val, the mean over both directions and all seeds; -inf if it could not be trained.

        Raises RunError if somebody evaluated a run on another split since.
        """
        values = []
        for run in () if self.failed else self.runs:
            metrics = read_json(RunDirectory(run).metrics_file)
            if (split := metrics["split"]) != "val":
                raise RunError(f"{run}, tuned on val, has since been evaluated on {split}; remove it to tune again")
            values.append(measured(metrics, measure))
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else -np.inf


class Column(NamedTuple):
    """One column of figures: the queries of a side or of both, a measure, and a part of a division."""

    side: str
    measure: str
    division: str = CONCEPT
    part: str | None = None


@dataclass(frozen=True)
class Standings:
    """The judged runs of every variant, in the order of the sweep file. Methods take a variant's number.

    weights: by division, part and side, the weight (Q,) of each query, of sum 1; without the sides that have no query.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[Judged, ...], ...]
    weights: Mapping[str, Mapping[str | None, Mapping[str, Tensor]]]

    @classmethod
    def read(
        cls, results: Sequence[TrialRuns], dataset: Dataset, labels: Mapping[str, ConceptDistribution]
    ) -> "Standings":
        """Read the runs of trials, divided by concepts and by labels (from `label_concepts`).

        Raises RunError if they were not evaluated on the same queries.
        """
        runs = tuple(tuple(map(Judged.load, result.runs)) for result in results)
        first = runs[0][0]
        differing = {run.path: how for seeds in runs for run in seeds if (how := run.differs_from(first))}
        refuse_other_queries(str(first.path), differing)
        return cls(tuple(result.trial.variant for result in results), runs, _divide(first, dataset, labels))

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
        figures = [self.figure(variant, self.headline_of()) for variant in range(len(self.names))]
        means = [-np.inf if figure is None else figure.mean for figure in figures]
        return sorted(range(len(means)), key=lambda variant: -means[variant])

    def headline_of(self, division: str = CONCEPT, part: str | None = None) -> Column:
        """Return the column of the headline over both directions, of all queries or of a part."""
        return Column(BOTH, self.headline, division, part)

    def figure(self, variant: int, column: Column) -> Figure | None:
        """Return a measure over the seeds, percent; None if the part has no query."""
        scores = self._scores([variant], column)
        return None if scores is None else Figure.of((100 * scores[0].mean(dim=1)).tolist())

    def gap(self, variant: int, column: Column) -> Gap | None:
        """Return a variant's figure minus the first one's, in points, with its 95 % interval (docs/method.md, 7.3).

        None for the first variant, and where all queries of the part belong to one medium: an interval over queries
        would mean nothing.
        """
        scores = self._scores([0, variant], column)
        if variant == 0 or scores is None or not (scores[-1] != scores[-1][0]).any():
            return None
        first, other, media = scores
        low, high = seeded_bootstrap_interval(first, other, clusters=media)
        return Gap(100 * float(other.mean() - first.mean()), 100 * low, 100 * high)

    def _scores(self, variants: Sequence[int], column: Column) -> list[Tensor] | None:
        """Return each variant's (S, Q) scores over seeds, then the medium (Q,) of each query; None without queries.

        Scores are weighted so that their plain mean is the figure; with both sides, each has half of the weight.
        """
        sides = SIDES if column.side == BOTH else (column.side,)
        weights = self.weights[column.division][column.part]
        if not weights.keys() >= {*sides}:
            return None
        rows = {side: weights[side].nonzero()[:, 0] for side in sides}
        scale = sum(map(len, rows.values())) / len(sides)
        media = {"text": self.runs[0][0].owner, "media": torch.arange(len(self.runs[0][0].meta["media_ids"]))}
        result = []
        for variant in variants:
            scores = {side: query_scores(self.runs[variant], side, column.measure)[:, at] for side, at in rows.items()}
            result.append(torch.cat([scores[side] * weights[side][at] * scale for side, at in rows.items()], dim=1))
        return [*result, torch.cat([media[side][at] for side, at in rows.items()])]


def label_concepts(dataset: Dataset, labels: Sequence[str]) -> dict[str, ConceptDistribution]:
    """Return the concepts of the training samples by label: each value of a label is a concept.

    Raises RecipeError if the data has no such label, DataError naming a training medium that lacks it.
    """
    if CONCEPT in labels:
        raise RecipeError(f"labels: {CONCEPT!r} already names the division by the concepts of the captions")
    train = dataset.split("train")
    return {label: ConceptDistribution.from_labels(label_of_samples(train, label, "labels")) for label in labels}


def _divide(
    judged: Judged, dataset: Dataset, labels: Mapping[str, ConceptDistribution]
) -> dict[str, dict[str | None, dict[str, Tensor]]]:
    """Return the weights of `Standings`, by the concepts of a judged run and by each label.

    The groups of a label go by the number of training samples that have each value.
    """
    divisions: dict[str, tuple[Sequence[Tensor | None], Sequence[Tensor]]] = {CONCEPT: (judged.concepts, judged.groups)}
    by_id = {medium.id: medium for medium in dataset.split(judged.meta["split"]).media} if labels else {}
    for label, training in labels.items():
        values = training.assign([by_id[name].labels.get(label) for name in judged.meta["media_ids"]])
        groups = training.groups_of(values)
        divisions[label] = (values[judged.owner], values), (groups[judged.owner], groups)
    return {
        name: {
            part: {
                side: weights
                for side, concepts, groups in zip(SIDES, *pairs, strict=True)
                if (weights := query_weights(concepts, groups, part)) is not None
            }
            for part in ALL_PARTS
        }
        for name, pairs in divisions.items()
    }


def query_weights(concepts: Tensor | None, groups: Tensor, part: str | None) -> Tensor | None:
    """Return the weight (Q,) of each query in a part, float64 of sum 1; None if the part is empty.

    concepts: (Q,); None for media with graded relevance, which have no average. groups: (Q,) 0, 1, 2 = head, mid, tail.

    >>> groups = torch.tensor([0, 0, 2])
    >>> query_weights(groups, groups, "average"), query_weights(groups, groups, "mid")
    (tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64), None)
    """
    if part == AVERAGE:
        if concepts is None:
            return None
        _, member, counts = torch.unique(concepts, return_inverse=True, return_counts=True)
        weights: Tensor = 1.0 / (len(counts) * counts[member].double())
        return weights
    inside = groups == GROUP_NAMES.index(part) if part else torch.ones(len(groups), dtype=torch.bool)
    return inside.double() / inside.sum() if inside.any() else None
