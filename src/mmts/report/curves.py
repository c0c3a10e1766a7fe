"""Curves over training: the temperature or margin of head, mid and tail, the loss, and recall on val."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import InputError, RecipeError
from mmts.evaluation.results import RunGroup
from mmts.objectives import InfoNCE, MaxMargin
from mmts.policies import Policy
from mmts.recipe.components import RunFacts, build, summary
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.report.charts import Line, thinned

_POINTS = 201
_BINS = 50


@dataclass(frozen=True)
class ValueCurve:
    """The temperature or margin (`word`) of head, mid and tail samples over training: mean, minimum and maximum.

    There is a single line for all samples if they have the same values. If it `is_logged`, it is read from the log,
    which has only the means of the groups.
    """

    word: str
    lines: tuple[Line, ...]
    is_logged: bool


def rule_in_words(recipe: Recipe) -> str:
    """Say in a few words what a recipe's rule does.

    >>> from mmts.recipe.sections import Train
    >>> rule_in_words(Recipe(train=Train(epochs=1)))
    'temperature 0.07 throughout'
    """
    component = recipe.objective.component
    policy = getattr(recipe.objective, component.value_name, None)
    about = summary(component).partition(" (")[0].removesuffix(".")
    if policy is None:
        return about
    words = f"{component.value_name} {policy.component.in_words(policy.model_dump())}"
    return words if component in (InfoNCE, MaxMargin) else f"{about.partition(':')[0]}, {words}"


def value_curve(group: RunGroup, distribution: ConceptDistribution | None) -> ValueCurve | None:
    """Compute the curve from the rule; for a rule that learns or looks at the batch, read the first run's log."""
    word = group.recipe.objective.component.value_name
    section = getattr(group.recipe.objective, word, None)
    if distribution is not None and section is not None:
        try:
            policy = build(section, RunFacts(distribution, 0, 0, group.recipe.model.width, _no_captions))
        except RecipeError:
            policy = None
        if policy is not None and not policy.uses_similarity and not list(policy.parameters()):
            return ValueCurve(word, _merged(_computed(policy, distribution)), is_logged=False)
    lines = _logged(word, group.paths[0])
    return ValueCurve(word, _merged(lines), is_logged=True) if lines else None


def _no_captions(k: int) -> torch.Tensor:
    raise InputError("a density by neighbors needs the training captions, which a run does not keep")


def _computed(policy: Policy, distribution: ConceptDistribution) -> list[Line]:
    """Evaluate a policy for one sample of each concept: samples of one concept have the same value."""
    concepts, samples = map(torch.from_numpy, np.unique(distribution.labels.numpy(), return_index=True))
    groups, sizes = distribution.concept_groups()[concepts], distribution.sizes[concepts].double()
    progress = [step / (_POINTS - 1) for step in range(_POINTS)]
    values = torch.stack([policy(p, samples).double().expand(len(samples)) for p in progress])  # (points, concepts)
    lines = []
    for number, name in enumerate(GROUP_NAMES):
        inside = groups == number
        if inside.any():
            part, weights = values[:, inside], sizes[inside] / sizes[inside].sum()
            low, high = part.amin(dim=1).tolist(), part.amax(dim=1).tolist()
            lines.append(Line(name, number, progress, (part @ weights).tolist(), low, high))
    return lines


def _logged(word: str, path: Path) -> list[Line]:
    logged = [(line["progress"], _by_group(word, line)) for line in RunDirectory(path).log_lines() if word in line]
    lines = []
    for number, name in enumerate(GROUP_NAMES):
        points = thinned([(progress, values[name]) for progress, values in logged if name in values], _POINTS)
        if points:
            x, values = [progress for progress, _ in points], [value for _, value in points]
            lines.append(Line(name, number, x, values, values, values))
    return lines


def _by_group(word: str, line: dict[str, Any]) -> dict[str, float]:
    """Return a log line's means of the groups in the batch; the mean of all samples if it does not know groups."""
    known = {name: values[word] for name, values in line.get("groups", {}).items() if word in values}
    return known or dict.fromkeys(GROUP_NAMES, line[word]["mean"])


def _merged(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Return a single line if all samples have the same values, else the lines of head, mid and tail."""
    first = lines[0]
    for line in lines:
        if line.x != first.x or not np.allclose([line.low, line.high], [first.mean, first.mean], rtol=0, atol=1e-9):
            return tuple(lines)
    return (Line("all samples", first.number, first.x, first.mean, first.mean, first.mean),)


def loss_line(name: str, number: int, group: RunGroup) -> Line | None:
    """Average the logged losses within each fiftieth of training, then over seeds; None without a log."""
    runs = []
    for path in group.paths:
        bins: dict[float, list[float]] = {}
        for line in RunDirectory(path).log_lines():
            if math.isfinite(line.get("loss", math.nan)):  # a skipped step logs NaN
                at = min(int(line["progress"] * _BINS), _BINS - 1)
                bins.setdefault((at + 0.5) / _BINS, []).append(line["loss"])
        runs.append({progress: sum(values) / len(values) for progress, values in bins.items()})
    return _over_seeds(name, number, runs)


def recall_line(name: str, number: int, group: RunGroup, direction: str) -> Line | None:
    """Return R@1 on val in percent, averaged over seeds; None if it was measured less than twice."""
    runs = []
    for path in group.paths:
        figures = {}
        for line in RunDirectory(path).log_lines():
            recall = ((line.get("val") or {}).get(direction) or {}).get("R@1")
            if recall is not None:
                figures[line["progress"]] = float(recall)
        runs.append(figures)
    return _over_seeds(name, number, runs)


def number_of_validations(path: Path) -> int:
    """Return how often a run was evaluated on val in training; more than once means that val chose the checkpoint."""
    return sum(bool(line.get("val")) for line in RunDirectory(path).log_lines())


def _over_seeds(name: str, number: int, runs: Sequence[dict[float, float]]) -> Line | None:
    progress = sorted(set.intersection(*(set(run) for run in runs)))
    if len(progress) < 2:
        return None
    values = np.array([[run[at] for at in progress] for run in runs])
    mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    return Line(name, number, progress, mean.tolist(), low.tolist(), high.tolist())
