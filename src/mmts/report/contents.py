"""What the page is about: the runs by rule, how far the rules are apart, and what could not be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmts.concepts import ConceptDistribution
from mmts.errors import DataError, InputError
from mmts.evaluation.compare import Gap, GapKey, compare_runs
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.results import Figure, Results, RunGroup
from mmts.recipe.run_directory import RunDirectory
from mmts.report.measures import Measure, leading_measure
from mmts.report.wording import clean


@dataclass(frozen=True)
class Contents:
    """Everything the page shows, read once. Groups stand in the order given; the first is the baseline."""

    results: Results
    names: tuple[str, ...]
    gaps: dict[GapKey, Gap]
    distributions: tuple[ConceptDistribution | None, ...]

    @property
    def groups(self) -> tuple[RunGroup, ...]:
        """The rules, each with its seeds."""
        return self.results.groups

    @property
    def directions(self) -> tuple[str, str]:
        """(text_to_image, image_to_text), or the same of video."""
        return self.results.directions

    @property
    def judged(self) -> tuple[Judged | None, ...]:
        """The judgement of each group's first run."""
        return tuple(group.runs[0].judged for group in self.groups)

    @property
    def no_gaps(self) -> str:
        """Why there are no differences; empty where there are."""
        return "all queries belong to one medium" if len(self.groups) > 1 else "there is only one rule"

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

    def figure(self, number: int, direction: str, part: str | None = None) -> Figure | None:
        """Return a rule's leading measure, mean and spread; None where nothing was measured."""
        return self.groups[number].figure(direction, self.measure.name, part)

    def gap(self, number: int, direction: str, part: str | None = None) -> Gap | None:
        """Return how far a rule is from the first by the leading measure; None where that is not known."""
        return self.gaps.get((number, direction, self.measure.name, part))


def read_contents(paths: Sequence[Path], names: Sequence[str] | None = None) -> Contents:
    """Read runs; raises RunError where none is a judged one, or where they were judged on different queries."""
    comparison = compare_runs(paths, names)
    results = comparison.results
    return Contents(
        results,
        _shown_names([group.name for group in results.groups]),
        comparison.gaps,
        tuple(_distribution(group.paths[0]) for group in results.groups),
    )


def _shown_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names that a page can hold; numbered where they would be equal once cut."""
    shown = [clean(name, 60) for name in names]
    if len({*shown}) < len(shown):
        shown = [f"{number}: {name}" for number, name in enumerate(shown, start=1)]
    return tuple(shown)


def _distribution(path: Path) -> ConceptDistribution | None:
    file = RunDirectory(path).concepts_file
    if not file.exists():
        return None
    try:
        return ConceptDistribution.load(file)
    except (DataError, InputError):
        return None
