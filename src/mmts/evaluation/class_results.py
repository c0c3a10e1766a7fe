"""Classifications of judged runs side by side: mean and spread over seeds, and differences to the first group."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmts.evaluation.classification import CLASS_WORDS, Classes
from mmts.evaluation.results import Figure, Gap, JudgedRun, RunGroup


@dataclass(frozen=True)
class ClassResults:
    """Groups of runs whose media were classified.

    classes: those of the first classified run, whose training media also make the groups many, medium and few of all.
    tops: of each group the five nearest classes of each medium, (S, M, <= 5), one row per seed; None for a group with a
    run that was not classified, or with other classes.
    """

    groups: Sequence[RunGroup]
    classes: Classes
    tops: Sequence[Tensor | None]

    @classmethod
    def of(cls, groups: Sequence[RunGroup]) -> "ClassResults | None":
        """Return the classifications of groups of runs; None if no run was classified."""
        runs = [run for group in groups for run in group.runs]
        classes = next((run.judged.classes for run in runs if run.judged.classes is not None), None)
        if classes is None:
            return None
        first = classes

        def is_alike(run: JudgedRun) -> bool:
            other = run.judged.classes
            if other is None or (other.label, [*other.names]) != (first.label, [*first.names]):
                return False
            return torch.equal(other.target, first.target)

        tops = [
            torch.stack([run.judged.class_top for run in group.runs]) if all(map(is_alike, group.runs)) else None
            for group in groups
        ]
        return cls(groups, classes, tops)

    @property
    def measures(self) -> list[str]:
        """The measures that at least one group has."""
        numbers = range(len(self.groups))
        return [name for name in CLASS_WORDS if any(self.figure(number, name) for number in numbers)]

    @property
    def left_out(self) -> list[str]:
        """The names of the groups without such a classification."""
        return [group.name for group, top in zip(self.groups, self.tops, strict=True) if top is None]

    @property
    def other_prompts(self) -> list[str]:
        """The names of the groups that were classified with other templates than the first."""
        pairs = zip(self.groups, self.tops, strict=True)
        runs = [(group.name, run.judged.classes) for group, top in pairs if top is not None for run in group.runs]
        ours = [*self.classes.templates]
        return [*dict.fromkeys(name for name, other in runs if other is not None and [*other.templates] != ours)]

    def figure(self, number: int, measure: str) -> Figure | None:
        """Return a measure of a group over its seeds, percent; None if there is none."""
        hits = self._hits(number, measure)
        return None if hits is None else Figure.of(self.classes.mean(measure, row) for row in hits)

    def interval(self, number: int, measure: str) -> tuple[float, float] | None:
        """Return the 95 % interval over media of a group's measure, averaged over its seeds, percent."""
        hits = self._hits(number, measure)
        return None if hits is None else self.classes.interval(measure, hits.mean(dim=0))

    def gap(self, number: int, measure: str) -> Gap | None:
        """Return a group's difference to the first group in points, with its paired interval over media."""
        first, other = self._hits(0, measure), self._hits(number, measure)
        if number == 0 or first is None or other is None:
            return None
        difference = other.mean(dim=0) - first.mean(dim=0)
        mean, ends = self.classes.mean(measure, difference), self.classes.interval(measure, difference)
        return None if mean is None or ends is None else Gap(mean, *ends)

    def of_class(self, number: int, name: str) -> Figure | None:
        """Return the accuracy of a group on the media of one class, percent; None if no medium has it."""
        hits, rows = self._hits(number, "top1"), self.classes.target == self.classes.names.index(name)
        return None if hits is None or not rows.any() else Figure.of((100 * hits[:, rows].mean(dim=1)).tolist())

    def _hits(self, number: int, measure: str) -> Tensor | None:
        top = self.tops[number]
        return None if top is None else torch.stack([self.classes.hits(row, measure) for row in top])
