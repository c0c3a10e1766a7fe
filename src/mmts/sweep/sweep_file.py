"""A sweep file: the rules to compare, what each is tuned over, how many trials each gets, and the seeds.

docs/sweeps.md explains every key.
"""

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, model_validator

from mmts.errors import RecipeError, counted, plain
from mmts.evaluation.measures import Measure
from mmts.files import why_missing
from mmts.recipe.recipe import Recipe, load_recipe, parse_mapping, parse_setting
from mmts.recipe.section import Section, Seed, validated

Settings = dict[str, Any]
"""Keys of a recipe, dotted, and their values."""

_MOST_DRAWS = 100  # for each trial, until one is a recipe and not yet drawn
_DIGITS = 4  # of a number drawn


class Draw(Section):
    """What a random search draws a key's value from: [low, high], evenly or (`log`) in its logarithm, or `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _has_something_to_draw(self) -> "Draw":
        if self.choices is not None:
            if not self.choices or self.low is not None or self.high is not None:
                raise ValueError("give low and high, or a list of choices")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give both low and high, or a list of choices")
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"{'0 < ' if self.log else ''}low < high must hold, not {plain(self.low)} and {plain(self.high)}"
            )
        return self

    def draw(self, rng: random.Random) -> Any:
        """Return a value; numbers are rounded to four digits so that they can be read and repeated."""
        if self.choices is not None:
            return self.choices[int(rng.random() * len(self.choices))]
        assert self.low is not None
        assert self.high is not None
        share = rng.random()
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)


def _list_is_choices(value: Any) -> Any:
    return {"choices": value} if isinstance(value, list) else value


class Rule(Section):
    """One thing to compare: what sets it apart (`set`), and what it is tuned over, a `grid` or a `random` search."""

    set: Settings = Field({})
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field({})
    random: dict[str, Annotated[Draw, BeforeValidator(_list_is_choices)]] = Field({})

    @model_validator(mode="after")
    def _one_search(self) -> "Rule":
        if self.grid and self.random:
            raise ValueError("give one of `grid` and `random`, not both")
        return self


class Seeds(Section):
    """Seeds of the trials, of the runs on test (fresh ones), and of what is drawn from grids and ranges."""

    tune: tuple[Seed, ...] = Field((100,), min_length=1)
    test: tuple[Seed, ...] = Field((0, 1, 2, 3, 4), min_length=1)
    draw: Seed = 0

    @model_validator(mode="after")
    def _are_fresh(self) -> "Seeds":
        for name, seeds in (("tune", self.tune), ("test", self.test)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"a seed stands twice in {name}: {list(seeds)}")
        if both := sorted({*self.tune} & {*self.test}):
            raise ValueError(f"test needs fresh seeds, and {both[0]} is among those of tune too")
        return self


class SweepFile(Section):
    """The whole of a sweep."""

    recipe: str
    data: Path | None = None
    set: Settings = Field({})
    trials: int = Field(5, ge=1)
    seeds: Seeds = Seeds()
    choose: Measure = "R@1"
    labels: tuple[str, ...] = ()
    rules: dict[str, Rule] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_folders(self) -> "SweepFile":
        for name in self.rules:
            if not re.fullmatch(r"\w[\w.+ -]*", name):
                raise ValueError(f"rules: {name!r} names a folder; take letters, digits, spaces and . _ + -")
        return self


@dataclass(frozen=True)
class Trial:
    """One setting of a rule. `number` is its place in the whole grid, or in the order of drawing."""

    rule: str
    number: int
    setting: Settings

    def __str__(self) -> str:
        return in_words(self.setting)


@dataclass(frozen=True)
class Sweep:
    """A sweep file read, with what the command line changed."""

    source: str
    file: SweepFile

    def recipe(self, rule: str, setting: Mapping[str, Any], seed: int) -> Recipe:
        """Return the recipe of one run; raises RecipeError naming the rule and the key that is wrong."""
        changes = {"train.trackers": [], **self.file.set, **self.file.rules[rule].set, **setting}
        changes |= {"name": rule, "train.seed": seed}
        try:
            return load_recipe(self.file.recipe, [assignment(*change) for change in changes.items()])
        except RecipeError as error:
            given = f" ({in_words(setting)})" if setting else ""
            raise RecipeError(f"{self.source}: rule {rule}{given}: {error}") from None

    def trials(self) -> list[Trial]:
        """Return every rule's trials, as many for each.

        A grid that is larger is sampled; raises RecipeError where one is smaller, or where a setting is no recipe.
        """
        return [trial for rule in self.file.rules for trial in self._trials_of(rule)]

    def _trials_of(self, name: str) -> list[Trial]:
        rule, budget = self.file.rules[name], self.file.trials
        rng = random.Random(f"{self.file.seeds.draw}/{name}")
        if rule.random:
            return list(itertools.islice(self._drawn(name, rule, rng), budget))
        grid = [dict(zip(rule.grid, values, strict=True)) for values in itertools.product(*rule.grid.values())]
        if len(grid) < budget:
            raise RecipeError(
                f"{self.source}: rule {name} has {counted(len(grid), 'setting')} and trials "
                f"is {budget}: every rule must get the same number of trials; give it more values, or lower trials"
            )
        order = list(range(len(grid)))
        rng.shuffle(order)  # more trials later keep those of before
        trials = [Trial(name, number, grid[number]) for number in sorted(order[:budget])]
        for trial in trials:
            self.recipe(name, trial.setting, 0)
        return trials

    def _drawn(self, name: str, rule: Rule, rng: random.Random) -> Iterator[Trial]:
        """Draw settings without end; those drawn before, and those that no recipe allows, are drawn again."""
        seen: set[str] = set()
        while True:
            problem = RecipeError(
                f"{self.source}: rule {name} has fewer than {self.file.trials} settings to draw, and every rule must "
                "get the same number of trials; give it more values, or lower trials"
            )
            for _ in range(_MOST_DRAWS):
                setting = {key: draw.draw(rng) for key, draw in rule.random.items()}
                if in_words(setting) in seen:
                    continue
                try:
                    self.recipe(name, setting, 0)
                except RecipeError as error:
                    problem = error
                    continue
                yield Trial(name, len(seen), setting)
                seen.add(in_words(setting))
                break
            else:
                raise problem


def load_sweep(path: Path, data: Path | None = None, settings: Sequence[str] = ()) -> Sweep:
    """Read a sweep file; `data` and `settings` (KEY=VALUE, for all runs) come from the command line.

    Raises RecipeError, naming the key and the nearest known one, for anything that is wrong.
    """
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        why = "is a folder" if path.is_dir() else "is not YAML" if path.is_file() else why_missing(path)
        raise RecipeError(f"{path} {why}; a sweep file is YAML (docs/sweeps.md has an example)")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not UTF-8 text") from None
    file = validated(SweepFile, parse_mapping(text, str(path), "recipe, trials, seeds, rules"), str(path))
    if data is not None:
        file = file.model_copy(update={"data": data})
    return Sweep(str(path), file.model_copy(update={"set": {**file.set, **dict(map(parse_setting, settings))}}))


def assignment(key: str, value: Any) -> str:
    """Write a change as --set takes it.

    >>> assignment("train.learning_rate", 1e-05)
    'train.learning_rate=1.0e-05'
    >>> assignment("objective.temperature", {"rule": "fixed", "value": 0.1})
    'objective.temperature={rule: fixed, value: 0.1}'
    """
    written = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
    return f"{key}={written.removesuffix(chr(10)).removesuffix(chr(10) + '...')}"


def in_words(setting: Mapping[str, Any]) -> str:
    """Write a setting for tables: keys without `objective.`, which nearly all begin with.

    >>> in_words({"objective.temperature.value": 0.05, "train.epochs": 3})
    'temperature.value=0.05, train.epochs=3'
    >>> in_words({})
    'as given'
    """
    parts = [assignment(key.removeprefix("objective."), value) for key, value in setting.items()]
    return ", ".join(parts) or "as given"
