"""Everything the page is about: the judged runs grouped into rules, their differences and their concepts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmts.concepts import ConceptDistribution
from mmts.errors import DataError, InputError
from mmts.evaluation.measures import shown_measures
from mmts.evaluation.results import Gap, Results, read_results
from mmts.recipe.run_directory import RunDirectory
from mmts.report.wording import clean


@dataclass(frozen=True)
class Contents(Results):
    """The runs of each rule in the order given, the baseline first; `gaps` are differences to the baseline.

    distributions: each rule's concepts, from its first run; None if concepts.npz is missing or damaged.
    """

    distributions: tuple[ConceptDistribution | None, ...]

    @property
    def kind(self) -> str:
        """The kind of media: `image` or `video`."""
        return self.directions[0].removeprefix("text_to_")

    @property
    def metrics(self) -> dict[str, Any]:
        """The first run's metrics.json."""
        return self.groups[0].metrics[0]

    @property
    def measure(self) -> str:
        """The measure that the page leads with: R@1, or mAP if relevance is graded."""
        return shown_measures(self.metrics)[0]

    def gap(self, number: int, direction: str, part: str | None = None) -> Gap | None:
        """Return a rule's difference to the baseline in the leading measure; None if it is unknown."""
        return self.gaps.get((number, direction, self.measure, part))


def read_contents(paths: Sequence[Path], names: Sequence[str] | None = None) -> Contents:
    """Read runs; raises RunError if none of the paths is a judged run, or if runs were judged on different queries."""
    results = read_results(paths, names)
    shown = [clean(group.name, 60) for group in results.groups]
    if len({*shown}) < len(shown):  # names that differ only beyond the cut
        shown = [f"{number}: {name}" for number, name in enumerate(shown, start=1)]
    groups = tuple(replace(group, name=name) for group, name in zip(results.groups, shown, strict=True))
    distributions = tuple(_distribution(RunDirectory(group.paths[0]).concepts_file) for group in groups)
    return Contents(groups, results.labels, results.notes, distributions)


def _distribution(file: Path) -> ConceptDistribution | None:
    with suppress(DataError, InputError):
        return ConceptDistribution.load(file) if file.exists() else None
    return None
