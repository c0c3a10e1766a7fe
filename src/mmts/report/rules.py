"""Rules in words, and the temperature or margin they gave to head, mid and tail over training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import InputError
from mmts.evaluation.results import RunGroup
from mmts.objectives import InfoNCE, MaxMargin
from mmts.policies import Policy
from mmts.recipe.components import RunFacts, build, summary
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.report.charts import Line, thinned

_POINTS = 201


@dataclass(frozen=True)
class ValueCurve:
    """The mean temperature or margin of head, mid and tail samples over training, with the least and the most.

    One line named "all samples" where they do not differ; without a band where it is read from the log, which holds
    the groups' means only.
    """

    word: str  # temperature or margin
    lines: tuple[Line, ...]
    is_logged: bool  # read from the log rather than computed from the rule


def rule_in_words(recipe: Recipe) -> str:
    """Say in a few words what a recipe's rule does.

    >>> from mmts.recipe.train_section import Train
    >>> rule_in_words(Recipe(train=Train(epochs=1)))
    'temperature 0.07 throughout'
    """
    objective = recipe.objective
    component = objective.component
    policy = getattr(objective, component.value_name, None)
    about = summary(component).partition(" (")[0].removesuffix(".")
    if policy is None:
        return about
    said = f"{component.value_name} {policy.component.in_words(policy.model_dump())}"
    return said if component in (InfoNCE, MaxMargin) else f"{about.partition(':')[0]}, {said}"


def value_curve(group: RunGroup, distribution: ConceptDistribution | None) -> ValueCurve | None:
    """Compute the curve from the rule; a rule that learns or looks at the batch is read from its first run's log."""
    objective = group.recipe.objective
    word = objective.component.value_name
    section = getattr(objective, word, None)
    if distribution is not None and section is not None:
        try:
            policy = build(section, RunFacts(distribution, 0, 0, group.recipe.model.width, _no_captions))
        except InputError:
            policy = None
        if policy is not None and not policy.uses_similarity and not list(policy.parameters()):
            return _computed(word, policy, distribution)
    return _logged(word, group.paths[0])


def _no_captions(k: int) -> torch.Tensor:
    raise InputError("a density by neighbours needs the training captions, which a run does not keep")


def _computed(word: str, policy: Policy, distribution: ConceptDistribution) -> ValueCurve:
    """Evaluate a policy for one sample of each concept: samples of one concept have the same value."""
    concepts, samples = (torch.from_numpy(each) for each in np.unique(distribution.labels.numpy(), return_index=True))
    groups, sizes = distribution.concept_groups()[concepts], distribution.sizes[concepts].double()
    progress = [step / (_POINTS - 1) for step in range(_POINTS)]
    values = torch.stack([policy(p, samples).double().expand(len(samples)) for p in progress])  # (points, concepts)
    lines = []
    for number, name in enumerate(GROUP_NAMES):
        inside = groups == number
        if inside.any():
            own, weights = values[:, inside], sizes[inside] / sizes[inside].sum()
            low, high = own.amin(dim=1).tolist(), own.amax(dim=1).tolist()
            lines.append(Line(name, number, progress, (own @ weights).tolist(), low, high))
    return ValueCurve(word, _merged(lines), is_logged=False)


def _logged(word: str, path: Path) -> ValueCurve | None:
    logged = [(line["progress"], _by_group(word, line)) for line in RunDirectory(path).log_lines() if word in line]
    lines = []
    for number, name in enumerate(GROUP_NAMES):
        points = thinned([(at, values[name]) for at, values in logged if name in values], _POINTS)
        if points:
            progress, values = [at for at, _ in points], [value for _, value in points]
            lines.append(Line(name, number, progress, values, values, values))
    return ValueCurve(word, _merged(lines), is_logged=True) if lines else None


def _by_group(word: str, line: dict[str, Any]) -> dict[str, float]:
    """Return a log line's means by group; the groups that the batch held, or the mean of all where it knows none."""
    known = {name: values[word] for name, values in line.get("groups", {}).items() if word in values}
    return known or dict.fromkeys(GROUP_NAMES, line[word]["mean"])


def _merged(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Make one line of those of head, mid and tail where all samples have the same values."""
    first = lines[0]
    for line in lines:
        if line.x != first.x or not np.allclose([line.low, line.high], [first.mean, first.mean], rtol=0, atol=1e-9):
            return tuple(lines)
    return (Line("all samples", first.number, first.x, first.mean, first.mean, first.mean),)
