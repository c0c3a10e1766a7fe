"""The figures of a sweep's variants: by direction, measure and part of the queries, with differences to the first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.data.records import Dataset
from mmts.errors import MmtsError, RecipeError
from mmts.evaluation.judgement_file import SIDES, Judged
from mmts.evaluation.measures import GRADED, MEAN_RECALL, RECALLS
from mmts.evaluation.results import PARTS, Figure, Gap, query_scores, refuse_other_queries
from mmts.metrics import seeded_bootstrap_interval
from mmts.recipe.sections import Concepts
from mmts.sweep.sweep_file import SweepFile, Trial
from mmts.training.concepts import build_distribution, concepts_of_queries

BOTH = "both"  # the mean of the two directions
CONCEPT = "concept"  # the division of queries by the concepts that the first run found in the training captions
AVERAGE = "average"  # all queries, with the same weight for every concept (or value of a label)
HARDEST = "hardest tenth"  # the same of the tenth of the concepts that all variants together find hardest
ALL_PARTS = (*PARTS, AVERAGE, HARDEST)


Division = tuple[Concepts, ConceptDistribution]
"""How to find concepts by which queries are divided, and those of the training samples."""


class Column(NamedTuple):
    """One column of figures: the queries of a side or of both, a measure, and a part of a division."""

    side: str
    measure: str
    division: str = CONCEPT
    part: str | None = None


@dataclass(frozen=True)
class Standings:
    """The judged runs of every variant, in the order of the sweep file. Methods take a variant's number.

    measures: all that the runs have; the first one is the headline, by which variants are ranked.
    weights: by division, part and side, the weight (Q,) of each query, of sum 1; without the sides that have no query.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[Judged, ...], ...]
    measures: tuple[str, ...]
    weights: Mapping[str, Mapping[str | None, Mapping[str, Tensor]]]

    @classmethod
    def read(cls, trials: Sequence[Trial], dataset: Dataset, divisions: Mapping[str, Division]) -> "Standings":
        """Read the runs of trials; raises RunError if they were not evaluated on the same queries."""
        runs = tuple(tuple(map(Judged.load, trial.runs)) for trial in trials)
        first = runs[0][0]
        differing = {run.path: how for seeds in runs for run in seeds if (how := run.differs_from(first))}
        refuse_other_queries(str(first.path), differing)
        measures = (*(GRADED if first.has(GRADED[0]) else ()), MEAN_RECALL, *RECALLS)
        divided = _divided(first, dataset, divisions)
        weights = {name: _weights(runs, measures[0], *sides) for name, sides in divided.items()}
        return cls(tuple(trial.variant for trial in trials), runs, measures, weights)

    def direction(self, side: str) -> str:
        """Name a side: "text_to_image", "image_to_text", the same of video, or "both"."""
        return BOTH if side == BOTH else self.runs[0][0].sides[SIDES.index(side)].direction

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
        media = dict(zip(SIDES, (side.media for side in self.runs[0][0].sides), strict=True))
        result = []
        for variant in variants:
            scores = {side: query_scores(self.runs[variant], side, column.measure)[:, at] for side, at in rows.items()}
            result.append(torch.cat([scores[side] * weights[side][at] * scale for side, at in rows.items()], dim=1))
        return [*result, torch.cat([media[side][at] for side, at in rows.items()])]


def find_divisions(dataset: Dataset, file: SweepFile) -> dict[str, Division]:
    """Return the divisions by `divisions` and `labels` of a sweep file; RecipeError names a key that is wrong."""
    train, divisions = dataset.split("train"), dict[str, Division]()
    labels = [("labels", label, Concepts(source="label", label=label)) for label in dict.fromkeys(file.labels)]
    others = [(f"divisions.{name}", name, section) for name, section in file.divisions.items()]
    for key, name, section in (*labels, *others):
        if name == CONCEPT or name in divisions:
            taken = "by the concepts of the first run" if name == CONCEPT else "by a label of that name"
            raise RecipeError(f"{key}: {name!r} already names the division {taken}")
        try:
            divisions[name] = section, build_distribution(section, train)
        except MmtsError as error:
            raise RecipeError(f"{key}: {error}") from None
    return divisions


_Sides = tuple[Sequence[Tensor | None], Sequence[Tensor]]  # the concepts and the groups of captions (N,) and media (M,)


def _divided(judged: Judged, dataset: Dataset, divisions: Mapping[str, Division]) -> dict[str, _Sides]:
    """Return the concept and the group of every query of a judged run, by division."""
    result: dict[str, _Sides] = {CONCEPT: (judged.concepts, judged.groups)}
    relevance, evaluated = judged.meta["relevance"], {*judged.meta["media_ids"]}
    split = dataset.split(judged.meta["split"])
    split = split.without(at for at, medium in enumerate(split.media) if medium.id not in evaluated).judged(relevance)
    for name, (section, training) in divisions.items():
        text, media = concepts_of_queries(section, training, split, relevance)
        result[name] = (text, media), (training.groups_of(text), training.groups_of(media))
    return result


def _weights(
    runs: Sequence[Sequence[Judged]], headline: str, concepts: Sequence[Tensor | None], groups: Sequence[Tensor]
) -> dict[str | None, dict[str, Tensor]]:
    """Return the weights of `Standings` for one division, by part and side."""
    result: dict[str | None, dict[str, Tensor]] = {part: {} for part in ALL_PARTS}
    for side, of_query, group in zip(SIDES, concepts, groups, strict=True):
        for part, inside in zip(PARTS, (group >= 0, group == 0, group == 1, group == 2), strict=True):
            if inside.any():
                result[part][side] = inside.double() / inside.sum()
        if of_query is not None:  # media with graded relevance have no concept of their own
            _, member, counts = torch.unique(of_query, return_inverse=True, return_counts=True)
            result[AVERAGE][side] = average = 1.0 / (len(counts) * counts[member].double())
            of_variant = [query_scores(seeds, side, headline).mean(dim=0) for seeds in runs]
            score = average * torch.stack(of_variant).mean(dim=0)
            of_concept = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, member, score)
            inside = torch.isin(member, of_concept.argsort(stable=True)[: max(1, round(len(counts) / 10))])
            result[HARDEST][side] = average * inside / (average * inside).sum()
    return result
