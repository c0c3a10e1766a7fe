"""The figures of a sweep's variants: by direction, measure and part of the queries, with differences to the first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.data.records import Dataset
from mmts.errors import RecipeError
from mmts.evaluation.judgement_file import SIDES, Judged
from mmts.evaluation.measures import GRADED, MEAN_RECALL, RECALLS
from mmts.evaluation.results import PARTS, Figure, Gap, query_scores, refuse_other_queries
from mmts.metrics import seeded_bootstrap_interval
from mmts.sweep.sweep_file import Trial
from mmts.training.concepts import label_of_samples

BOTH = "both"  # the mean of the two directions
CONCEPT = "concept"  # the division of queries by the concepts that the first run found in the training captions
AVERAGE = "average"  # all queries, with the same weight for every concept (or value of a label)
ALL_PARTS = (*PARTS, AVERAGE)


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
    def read(cls, trials: Sequence[Trial], dataset: Dataset, labels: Mapping[str, ConceptDistribution]) -> "Standings":
        """Read the runs of trials; raises RunError if they were not evaluated on the same queries."""
        runs = tuple(tuple(map(Judged.load, trial.runs)) for trial in trials)
        first = runs[0][0]
        differing = {run.path: how for seeds in runs for run in seeds if (how := run.differs_from(first))}
        refuse_other_queries(str(first.path), differing)
        return cls(tuple(trial.variant for trial in trials), runs, _divide(first, dataset, labels))

    @property
    def measures(self) -> tuple[str, ...]:
        """All measures of the runs; the first one is the headline, by which variants are ranked."""
        graded = GRADED if self.runs[0][0].has(GRADED[0]) else ()
        return (*graded, MEAN_RECALL, *RECALLS)

    def direction(self, side: str) -> str:
        """Name a side: "text_to_image", "image_to_text", the same of video, or "both"."""
        kind = self.runs[0][0].meta["kind"]
        return {"text": f"text_to_{kind}", "media": f"{kind}_to_text", BOTH: BOTH}[side]

    def ranking(self) -> list[int]:
        """Return the variants' numbers, the best by the headline first."""
        means = [np.mean(self.values(variant, self.headline_of()) or -np.inf) for variant in range(len(self.names))]
        return sorted(range(len(means)), key=lambda variant: -means[variant])

    def headline_of(self, division: str = CONCEPT, part: str | None = None) -> Column:
        """Return the column of the headline over both directions, of all queries or of a part."""
        return Column(BOTH, self.measures[0], division, part)

    def values(self, variant: int, column: Column) -> list[float] | None:
        """Return a measure in percent, one value per seed; None if the part has no query."""
        scores = self._scores([variant], column)
        return None if scores is None else (100 * scores[0].mean(dim=1)).tolist()

    def figure(self, variant: int, column: Column) -> Figure | None:
        """Return a measure's mean and spread over seeds, percent; None if the part has no query."""
        return Figure.of(self.values(variant, column) or ())

    def gap(self, variant: int, column: Column) -> Gap | None:
        """Return a variant's figure minus the first one's, in points, with its 95 % interval (docs/method.md, 7.3).

        None for the first variant, and if all queries of the part belong to one medium.
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
    """Return the concepts of the training samples for each label, one concept per value.

    Raises RecipeError for the reserved label "concept", and DataError for one that the data do not have.
    """
    if CONCEPT in labels:
        raise RecipeError(f"labels: {CONCEPT!r} already names the division by the concepts of the captions")
    train = dataset.split("train")
    return {label: ConceptDistribution.from_labels(label_of_samples(train, label, "labels")) for label in labels}


def _divide(
    judged: Judged, dataset: Dataset, labels: Mapping[str, ConceptDistribution]
) -> dict[str, dict[str | None, dict[str, Tensor]]]:
    """Return the weights of `Standings`, by the concepts of a judged run and by each label."""
    divisions: dict[str, tuple[Sequence[Tensor | None], Sequence[Tensor]]] = {CONCEPT: (judged.concepts, judged.groups)}
    by_id = {medium.id: medium for medium in dataset.split(judged.meta["split"]).media} if labels else {}
    for label, training in labels.items():
        values = training.assign([by_id[name].labels.get(label) for name in judged.meta["media_ids"]])
        groups = training.groups_of(values)
        divisions[label] = (values[judged.owner], values), (groups[judged.owner], groups)
    result: dict[str, dict[str | None, dict[str, Tensor]]] = {}
    for name, sides in divisions.items():
        result[name] = {part: {} for part in ALL_PARTS}
        for side, concepts, groups in zip(SIDES, *sides, strict=True):
            for part, inside in zip(PARTS, (groups >= 0, groups == 0, groups == 1, groups == 2), strict=True):
                if inside.any():
                    result[name][part][side] = inside.double() / inside.sum()
            if concepts is not None:  # media with graded relevance have no concept
                _, member, counts = torch.unique(concepts, return_inverse=True, return_counts=True)
                result[name][AVERAGE][side] = 1.0 / (len(counts) * counts[member].double())
    return result
