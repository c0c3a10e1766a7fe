"""Curves over training: the temperature or margin of head, mid and tail, the loss, and recall on val."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
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
from mmts.report.wording import clean

_POINTS = 201


def rule_in_words(recipe: Recipe, own_objects: Mapping[str, str] = {}) -> str:
    """Say in a few words what a recipe's rule does, and which `own_objects` took the place of its sections.

    >>> from mmts.recipe.sections import Train
    >>> rule_in_words(Recipe(train=Train(epochs=1)), {"model": "mine:Net"})
    'temperature 0.07 throughout, on a model given as an object of the class mine:Net'
    """
    if recipe.model.is_untouched:
        return f"no training: {clean(recipe.model.start)} as it is"
    component = recipe.objective.component
    words = summary(component).partition(" (")[0].removesuffix(".")
    if kind := own_objects.get("objective"):
        words = f"an objective given as an object of the class {clean(kind)}"
    elif policy := getattr(recipe.objective, component.value_name, None):
        value = f"{component.value_name} {policy.component.in_words(policy.model_dump())}"
        words = value if component in (InfoNCE, MaxMargin) else f"{words.partition(':')[0]}, {value}"
        if component.value_name != "margin" and (margin := getattr(recipe.objective, "margin", None)):
            words += f", margin {margin.component.in_words(margin.model_dump())}"
        for name in ("prior", "weights"):
            if part := getattr(recipe.objective, name, None):
                words += f", {name} {part.component.words.format(**part.model_dump())}"
    if kind := own_objects.get("model"):
        words += f", on a model given as an object of the class {clean(kind)}"
    return words


def value_word(group: RunGroup) -> str:
    """Return what a rule sets, "temperature" or "margin"; of an objective given as an object, what the run logged."""
    if "objective" in group.own_objects:
        logged = next(group.runs[0].run.log_lines(), {})
        return "margin" if "margin" in logged and "temperature" not in logged else "temperature"
    return str(group.recipe.objective.component.value_name)


def value_curve(group: RunGroup, distribution: ConceptDistribution | None) -> tuple[list[Line], bool]:
    """Return a rule's temperature or margin over training, and whether it comes from the first run's log.

    It is computed if the recipe's rule was used and neither learns nor looks at the batch: mean, minimum and maximum of
    head, mid and tail, or a single line if all samples have the same values. Without training there is none.
    """
    if group.is_start or group.recipe.model.is_untouched:
        return [], False
    word = value_word(group)
    section = None if "objective" in group.own_objects else getattr(group.recipe.objective, word, None)
    if distribution is not None and section is not None:
        with suppress(RecipeError):
            policy = build(section, RunFacts(distribution, 0, 0, group.recipe.model.width or 0, _no_captions))
            if not policy.uses_similarity and not list(policy.parameters()):
                return _merged(_computed(policy, distribution)), False
    return _merged(_logged(word, group.runs[0].run)), True


def _no_captions(k: int) -> torch.Tensor:
    raise InputError("a density by neighbors needs the training captions, which a run does not keep")


def _computed(policy: Policy, distribution: ConceptDistribution) -> list[Line]:
    """Evaluate a policy for one sample of each concept and size: others of the same have the same value."""
    kinds = np.stack([distribution.labels.numpy(), distribution.counts.numpy()])
    _, first, occurrences = np.unique(kinds, axis=1, return_index=True, return_counts=True)
    samples, weight = torch.from_numpy(first), torch.from_numpy(occurrences).double()
    groups = distribution.groups()[samples]
    progress = [step / (_POINTS - 1) for step in range(_POINTS)]
    values = torch.stack([policy(p, samples).double().expand(len(samples)) for p in progress])  # (points, concepts)
    lines = []
    for number, name in enumerate(GROUP_NAMES):
        inside = groups == number
        if inside.any():
            part, weights = values[:, inside], weight[inside] / weight[inside].sum()
            low, high = part.amin(dim=1).tolist(), part.amax(dim=1).tolist()
            lines.append(Line(name, number, progress, (part @ weights).tolist(), low, high))
    return lines


def _logged(word: str, run: RunDirectory) -> list[Line]:
    """Read the means of the groups in each batch, or the mean of all samples from a log that does not know groups."""
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in GROUP_NAMES}
    for line in run.log_lines():
        if word in line:
            known = {name: values[word] for name, values in line.get("groups", {}).items() if word in values}
            for name, value in (known or dict.fromkeys(GROUP_NAMES, line[word]["mean"])).items():
                points[name].append((line["progress"], value))
    lines = []
    for number, name in enumerate(GROUP_NAMES):
        if points[name]:
            progress, means = map(list, zip(*thinned(points[name], _POINTS), strict=True))
            lines.append(Line(name, number, progress, means, means, means))
    return lines


def _merged(lines: list[Line]) -> list[Line]:
    """Return a single line if all samples have the same values, else the lines of head, mid and tail."""
    for line in lines:
        if line.x != lines[0].x or not np.allclose([line.low, line.high], lines[0].mean, rtol=0, atol=1e-9):
            return lines
    return [replace(line, name="all samples", low=line.mean, high=line.mean) for line in lines[:1]]


def loss_line(number: int, group: RunGroup) -> Line | None:
    """Average the logged losses within each fiftieth of training, then over seeds; None without a log."""
    return _over_seeds(number, group, lambda line: line.get("loss"), num_bins=50)


def recall_line(number: int, group: RunGroup, direction: str) -> Line | None:
    """Return R@1 on val in percent, averaged over seeds; None if it was measured less than twice."""
    return _over_seeds(number, group, lambda line: ((line.get("val") or {}).get(direction) or {}).get("R@1"))


def _over_seeds(
    number: int, group: RunGroup, read: Callable[[dict[str, Any]], float | None], num_bins: int | None = None
) -> Line | None:
    """Average what `read` finds in the log lines of each seed, within bins of progress if any, then over seeds."""
    means = []
    for run in group.runs:
        values: dict[float, float] = {}  # of a step that is logged again, the later one
        for line in run.run.log_lines():
            value = read(line)
            if value is not None and math.isfinite(value):  # a skipped step logs NaN
                values[line["progress"]] = value
        bins = defaultdict(list)
        for progress, value in values.items():
            at = progress if num_bins is None else (min(int(progress * num_bins), num_bins - 1) + 0.5) / num_bins
            bins[at].append(value)
        means.append({at: sum(inside) / len(inside) for at, inside in bins.items()})
    progresses = sorted(set.intersection(*map(set, means)))
    if len(progresses) < 2:
        return None
    return Line.over_seeds(group.name, number, progresses, [[run[at] for at in progresses] for run in means])
