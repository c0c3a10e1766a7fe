"""Classifications of judged runs side by side: mean and spread over seeds, and differences to the first group."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmts.evaluation.classification import CLASS_WORDS, Classes
from mmts.evaluation.results import Figure, Gap, RunGroup


@dataclass(frozen=True)
class ClassResults:
    """Groups of runs whose media were classified; a group is meant by its number.

    classes: those of the first classified run, whose training media also make the groups many, medium and few of all.
    tops: of each group the five nearest classes of each medium, (S, M, <= 5), one row per seed; None for a group with a
    run that was not classified, or with other classes. other_prompts: names of groups with other templates.
    """

    groups: Sequence[RunGroup]
    classes: Classes
    tops: Sequence[Tensor | None]
    other_prompts: Sequence[str]

    @classmethod
    def of(cls, groups: Sequence[RunGroup]) -> "ClassResults | None":
        """Return the classifications of groups of runs; None if no run was classified."""
        classes = next((run.classes for group in groups for run in group.judged if run.classes is not None), None)
        if classes is None:
            return None
        tops, other_prompts = [], []
        for group in groups:
            known = [run.classes for run in group.judged if run.classes is not None]
            is_alike = len(known) == len(group.runs) and all(_content(own) == _content(classes) for own in known)
            tops.append(torch.stack([run.class_top for run in group.judged]) if is_alike else None)
            if is_alike and any([*own.templates] != [*classes.templates] for own in known):
                other_prompts.append(group.name)
        return cls(groups, classes, tops, other_prompts)

    @property
    def measures(self) -> list[str]:
        """The measures that at least one group has."""
        numbers = range(len(self.groups))
        return [name for name in CLASS_WORDS if any(self.figure(number, name) for number in numbers)]

    @property
    def left_out(self) -> list[str]:
        """The names of the groups without such a classification."""
        return [group.name for group, top in zip(self.groups, self.tops, strict=True) if top is None]

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
        return None if top is None else self.classes.hits(top, measure)


def _content(classes: Classes) -> tuple[Any, ...]:
    return classes.label, [*classes.names], classes.target.tolist()
