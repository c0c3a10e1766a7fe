"""What trials reached on val, the best of each rule, and the runs on test made with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmts.evaluation.measures import measured
from mmts.sweep.sweep_file import Trial


@dataclass(frozen=True)
class Tuned:
    """A trial's runs, one a seed, and what they reached on val: None where one `failed`, and why.

    The only trial of a rule has no runs: there is nothing to choose.
    """

    trial: Trial
    runs: tuple[Path, ...]
    metrics: tuple[dict[str, Any], ...] | None
    failed: str | None = None

    def figure(self, measure: str) -> float:
        """Return a measure's mean over both directions and all seeds; -inf where there is none."""
        values = [value for each in self.metrics or () if (value := measured(each, measure)) is not None]
        return float(np.mean(values)) if values else -np.inf


@dataclass(frozen=True)
class Finals:
    """A rule's chosen setting and the runs on test made with it."""

    tuned: Tuned
    runs: tuple[Path, ...]


def best_of(tuned: Sequence[Tuned], measure: str) -> list[Tuned]:
    """Return each rule's best trial on val, the first of equals; it has `failed` where none of the rule's trained."""
    by_rule: dict[str, list[Tuned]] = {}
    for each in tuned:
        by_rule.setdefault(each.trial.rule, []).append(each)
    return [max(trials, key=lambda each: each.figure(measure)) for trials in by_rule.values()]
