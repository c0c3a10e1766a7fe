"""What the page is about: the runs by rule, how far the rules are apart, and what could not be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmts.compare import Figure, RunGroup, _directions, _group
from mmts.concepts import ConceptDistribution
from mmts.errors import DataError, InputError, RunError
from mmts.evaluation import CUTOFFS, GROUP_NAMES, load_judgement
from mmts.metrics import paired_bootstrap_interval
from mmts.report.wording import clean
from mmts.training.run_directory import RunDirectory

PARTS = (None, *GROUP_NAMES)  # None: all queries


@dataclass(frozen=True)
class Judged:
    """One run's ranks and first results, as judgement.npz holds them."""

    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Gap:
    """A rule's recall minus the first rule's, in points, averaged over seeds, with its 95 % interval over queries."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def __neg__(self) -> "Gap":
        return Gap(-self.mean, -self.high, -self.low)


GapKey = tuple[int, str, str, str | None]  # number of the rule, direction, measure, part


@dataclass(frozen=True)
class Contents:
    """Everything the page shows, read once. `groups` stand in the order given; the first is the baseline."""

    groups: tuple[RunGroup, ...]
    names: tuple[str, ...]
    directions: tuple[str, str]
    judged: tuple[Judged | None, ...]  # of each group's first run
    gaps: dict[GapKey, Gap]
    no_gaps: str  # why there are none; empty where there are
    distributions: tuple[ConceptDistribution | None, ...]

    @property
    def kind(self) -> str:
        """What is found: `image` or `video`."""
        return self.directions[0].removeprefix("text_to_")

    @property
    def metrics(self) -> dict[str, Any]:
        """The first run's metrics.json."""
        return self.groups[0].metrics[0]

    def figure(self, number: int, direction: str, measure: str, part: str | None = None) -> Figure | None:
        """Return a rule's mean and spread; None where nothing was measured."""
        try:
            return self.groups[number].figure(direction, measure, part)
        except (KeyError, TypeError):
            return None


def read_contents(paths: Sequence[Path]) -> Contents:
    """Read runs; raises RunError where one of them is none, has not been judged, or judges another kind of thing."""
    if not paths:
        raise RunError("a report needs at least one run directory")
    groups = tuple(_group([RunDirectory(Path(path)) for path in paths]))
    directions = _directions(groups[0])
    for group in groups:
        for path, metrics in zip(group.paths, group.metrics, strict=True):
            if not all(direction in metrics for direction in directions):
                raise RunError(f"{path} was not judged on {directions[0]} as {groups[0].paths[0]} was")
    judged = [[_judged(path) for path in group.paths] for group in groups]
    gaps: dict[GapKey, Gap] = {}
    no_gaps = _why_no_gaps(judged)
    if not no_gaps:
        gaps = _all_gaps([[run for run in runs if run is not None] for runs in judged], directions)
    return Contents(
        groups,
        tuple(clean(group.name, 60) for group in groups),
        directions,
        tuple(runs[0] for runs in judged),
        gaps,
        no_gaps,
        tuple(_distribution(group.paths[0]) for group in groups),
    )


def _judged(path: Path) -> Judged | None:
    try:
        return Judged(*load_judgement(RunDirectory(path).judgement_file))
    except DataError:
        return None


def _distribution(path: Path) -> ConceptDistribution | None:
    file = RunDirectory(path).concepts_file
    if not file.exists():
        return None
    try:
        return ConceptDistribution.load(file)
    except (DataError, InputError):
        return None


def _why_no_gaps(judged: Sequence[Sequence[Judged | None]]) -> str:
    runs = [run for group in judged for run in group]
    if len(judged) < 2:
        return "there is only one rule"
    if any(run is None for run in runs):
        return "some runs have no judgement.npz; `mmts evaluate` on them writes it"
    keys = ("split", "relevance", "media_ids", "captions")
    first = runs[0]
    if any(run.meta[key] != first.meta[key] for run in runs if run and first for key in keys):
        return "the runs were judged on different queries"
    return ""


def _all_gaps(judged: Sequence[Sequence[Judged]], directions: tuple[str, str]) -> dict[GapKey, Gap]:
    """Return every rule's difference to the first, overall and by part, paired query by query."""
    gaps: dict[GapKey, Gap] = {}
    first = judged[0][0].arrays
    sides = (("text_ranks", "text_groups", torch.from_numpy(first["owner"])), ("media_ranks", "media_groups", None))
    for direction, (ranks, parts, clusters) in zip(directions, sides, strict=True):
        same_parts = all(np.array_equal(run.arrays[parts], first[parts]) for runs in judged for run in runs)
        for number_of_part, part in enumerate(PARTS if same_parts else PARTS[:1], start=-1):
            rows = torch.from_numpy(first[parts] == number_of_part) if part else torch.ones(len(first[ranks])).bool()
            if not rows.any():
                continue
            inside = clusters[rows] if clusters is not None else None
            for k in CUTOFFS:
                hits = [_mean_hits(runs, ranks, k)[rows] for runs in judged]
                for number, own in enumerate(hits[1:], start=1):
                    low, high = paired_bootstrap_interval(hits[0], own, clusters=inside)
                    mean = float((own - hits[0]).mean())
                    gaps[number, direction, f"R@{k}", part] = Gap(100 * mean, 100 * low, 100 * high)
    return gaps


def _mean_hits(runs: Sequence[Judged], ranks: str, k: int) -> torch.Tensor:
    """Return (Q,): the share of seeds that put something right among the first k."""
    return torch.stack([torch.from_numpy(run.arrays[ranks] <= k).double() for run in runs]).mean(dim=0)
