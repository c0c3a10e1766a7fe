"""What the page is about: the runs by rule, how far the rules are apart, and what could not be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmts.compare import Figure, Gap, GapKey, Judged, RunGroup, directions_of, group_runs, paired_gaps
from mmts.concepts import ConceptDistribution
from mmts.errors import DataError, InputError, RunError
from mmts.report.measures import Measure, leading_measure
from mmts.report.wording import clean
from mmts.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Contents:
    """Everything the page shows, read once. `groups` stand in the order given; the first is the baseline."""

    groups: tuple[RunGroup, ...]
    names: tuple[str, ...]
    directions: tuple[str, str]
    judged: tuple[Judged | None, ...]  # of each group's first run
    paired: tuple[tuple[Judged, ...], ...]  # all runs of each group, where all were judged on the same queries
    not_paired: str  # why they cannot be compared query by query; empty where they can
    gaps: dict[GapKey, Gap]
    distributions: tuple[ConceptDistribution | None, ...]

    @property
    def no_gaps(self) -> str:
        """Why there are no differences; empty where there are."""
        return self.not_paired if len(self.groups) > 1 else "there is only one rule"

    @property
    def kind(self) -> str:
        """What is found: `image` or `video`."""
        return self.directions[0].removeprefix("text_to_")

    @property
    def metrics(self) -> dict[str, Any]:
        """The first run's metrics.json."""
        return self.groups[0].metrics[0]

    @property
    def measure(self) -> Measure:
        """What the page leads with."""
        return leading_measure(self.metrics)

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
    groups = tuple(group_runs(paths))
    directions = directions_of(groups[0])
    for group in groups:
        for path, metrics in zip(group.paths, group.metrics, strict=True):
            if not all(direction in metrics for direction in directions):
                raise RunError(f"{path} was not judged on {directions[0]} as {groups[0].paths[0]} was")
    judged = [[_judged(path) for path in group.paths] for group in groups]
    not_paired = _why_not_paired(judged)
    paired = () if not_paired else tuple(tuple(run for run in runs if run is not None) for runs in judged)
    return Contents(
        groups,
        tuple(clean(group.name, 60) for group in groups),
        directions,
        tuple(runs[0] for runs in judged),
        paired,
        not_paired,
        paired_gaps(paired, directions) if len(paired) > 1 else {},
        tuple(_distribution(group.paths[0]) for group in groups),
    )


def _judged(path: Path) -> Judged | None:
    try:
        return Judged.load(path)
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


def _why_not_paired(judged: Sequence[Sequence[Judged | None]]) -> str:
    runs = [run for group in judged for run in group]
    if any(run is None for run in runs):
        return "some runs have no judgement.npz; `mmts evaluate` on them writes it"
    first = runs[0]
    if any(run.differs_from(first) for run in runs if run and first):
        return "the runs were judged on different queries"
    return ""
