"""Rules in words, and the temperature or margin they gave a head and a tail sample over training."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmts.compare import RunGroup
from mmts.concepts import ConceptDistribution
from mmts.errors import InputError
from mmts.policies import Policy
from mmts.training import objective_sections as r
from mmts.training.build_objective import build_policy, rule_of, shift_of
from mmts.training.recipe import Recipe
from mmts.training.run_directory import RunDirectory

_POINTS = 201


@dataclass(frozen=True)
class ValueCurve:
    """The temperature or margin of a sample of the largest and of the smallest concept at each progress."""

    word: str  # temperature or margin
    progress: list[float]
    head: list[float]
    tail: list[float]
    is_logged: bool  # read from the log rather than computed from the rule

    @property
    def is_shared(self) -> bool:
        """Whether head and tail have the same values throughout."""
        return all(abs(head - tail) < 1e-9 for head, tail in zip(self.head, self.tail, strict=True))


def rule_in_words(recipe: Recipe) -> str:
    """Say in a few words what a recipe's rule does.

    >>> from mmts.training.recipe import Train
    >>> rule_in_words(Recipe(train=Train(epochs=1)))
    'temperature 0.07 throughout'
    """
    objective = recipe.objective
    word, rule = rule_of(objective)
    about = str(objective.__doc__).splitlines()[0].removesuffix(".")
    if rule is None:
        return about
    said = _in_words(word, rule)
    return said if objective.loss in ("info_nce", "max_margin") else f"{about.partition(':')[0]}, {said}"


def _in_words(word: str, rule: r.Rule) -> str:
    if isinstance(rule, r.FixedRule):
        return f"{word} {rule.value:g} throughout"
    if isinstance(rule, r.LearnedRule):
        return f"{word} learned, started at {rule.start:g}, kept within {rule.low:g} to {rule.high:g}"
    if isinstance(rule, r.ScheduledRule):
        return f"{word} the same for all samples, following a {rule.schedule.kind} schedule"
    if not isinstance(rule, r.ShiftedRule):
        about = str(rule.__doc__).splitlines()[0].removesuffix(".")
        return f"{word}: {about[0].lower()}{about[1:]}"
    swing = f"plus a cosine swing of {rule.alpha:g} over {rule.cycles:g} cycles" if rule.alpha else "without a swing"
    by = "concept size" if rule.neighbours is None else f"density of {rule.neighbours} neighbours"
    return f"{word} of {rule.low:g} to {rule.high:g} by {by} ({rule.scale}), {swing}"


def value_curve(group: RunGroup, distribution: ConceptDistribution | None) -> ValueCurve | None:
    """Compute the curve from the rule; a rule that learns or looks at the batch is read from its first run's log."""
    word, rule = rule_of(group.recipe.objective)
    by_neighbours = isinstance(rule, r.ShiftedRule) and rule.neighbours is not None
    if distribution is not None and rule is not None and not by_neighbours:
        try:
            policy = build_policy(rule, shift_of(rule, distribution, None))
        except InputError:
            return None
        if not policy.uses_similarity and not list(policy.parameters()):
            return _computed(word, policy, distribution)
    return _logged(word, group.paths[0])


def extreme_concepts(distribution: ConceptDistribution) -> tuple[int, int]:
    """Return the numbers of the largest and of the smallest concept."""
    return int(distribution.sizes.argmax()), int(distribution.sizes.argmin())


def _computed(word: str, policy: Policy, distribution: ConceptDistribution) -> ValueCurve:
    concepts = extreme_concepts(distribution)
    samples = torch.tensor([int((distribution.labels == concept).nonzero()[0]) for concept in concepts])
    progress = [step / (_POINTS - 1) for step in range(_POINTS)]
    values = torch.stack([policy(p, samples).expand(2) for p in progress])
    return ValueCurve(word, progress, values[:, 0].tolist(), values[:, 1].tolist(), is_logged=False)


def _logged(word: str, path: Path) -> ValueCurve | None:
    lines = [line for line in RunDirectory(path).log_lines() if word in line]
    lines = thinned(lines, _POINTS)
    if not lines:
        return None

    def of(group: str) -> list[float]:
        return [line.get("groups", {}).get(group, {}).get(word, line[word]["mean"]) for line in lines]

    return ValueCurve(word, [line["progress"] for line in lines], of("head"), of("tail"), is_logged=True)


def thinned(values: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return at most `most` of the values, evenly spaced, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(at * (len(values) - 1) / (most - 1))] for at in range(most)]
