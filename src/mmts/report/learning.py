"""Loss and validation recall over training, averaged over the seeds of a rule."""

import math
from collections.abc import Sequence
from pathlib import Path

from mmts.evaluation.results import RunGroup
from mmts.recipe.run_directory import RunDirectory
from mmts.report.charts import Line

_BINS = 50


def loss_line(name: str, number: int, group: RunGroup) -> Line | None:
    """Average the logged losses within each fiftieth of training, then over seeds; None without a log."""
    runs = []
    for path in group.paths:
        bins: dict[float, list[float]] = {}
        for line in RunDirectory(path).log_lines():
            if math.isfinite(line.get("loss", math.nan)):  # a skipped step's is not a number
                at = min(int(line["progress"] * _BINS), _BINS - 1)
                bins.setdefault((at + 0.5) / _BINS, []).append(line["loss"])
        runs.append({progress: sum(values) / len(values) for progress, values in bins.items()})
    return _line(name, number, runs)


def recall_line(name: str, number: int, group: RunGroup, direction: str) -> Line | None:
    """Return validation R@1 in percent, averaged over seeds; None where nothing was validated."""
    runs = []
    for path in group.paths:
        looks = ((line, (line.get("val") or {}).get(direction) or {}) for line in RunDirectory(path).log_lines())
        runs.append({line["progress"]: float(figures["R@1"]) for line, figures in looks if "R@1" in figures})
    return _line(name, number, runs)


def number_of_validations(path: Path) -> int:
    """Return how often a run looked at validation data; the checkpoint was chosen on them if more than once."""
    return sum(bool(line.get("val")) for line in RunDirectory(path).log_lines())


def _line(name: str, number: int, runs: Sequence[dict[float, float]]) -> Line | None:
    progress = sorted(set.intersection(*(set(run) for run in runs)))
    if len(progress) < 2:
        return None
    values = [[run[at] for run in runs] for at in progress]
    return Line(
        name,
        number,
        progress,
        [sum(each) / len(each) for each in values],
        [min(each) for each in values],
        [max(each) for each in values],
    )
