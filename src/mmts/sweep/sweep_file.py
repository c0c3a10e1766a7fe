"""A sweep file (docs/sweeps.md): the variants to compare, the settings to try, the number of trials, and the seeds."""

import itertools
import math
import random
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, model_validator

from mmts.errors import RecipeError, RunError, counted, plain
from mmts.evaluation.measures import Measure, measured
from mmts.files import read_json, why_missing
from mmts.recipe.recipe import Recipe, load_recipe, parse_mapping, parse_setting
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.section import Section, Seed, validated
from mmts.recipe.sections import Concepts

FAILED = "failed.txt"  # the file in a run's folder that says why it could not be trained
Settings = dict[str, Any]  # values by dotted key of a recipe
_MAX_DRAWS = 100  # per trial, until enough settings are new and valid recipes


class Draw(Section):
    """Where a random search draws a value: evenly from [low, high] or (`log`) from its logarithm, or from `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _can_be_drawn_from(self) -> "Draw":
        if self.low is not None and self.high is not None and self.choices is None:
            if not (0 if self.log else -math.inf) < self.low < self.high:
                order = "0 < low < high" if self.log else "low < high"
                raise ValueError(f"{order} must hold, not {plain(self.low)} and {plain(self.high)}")
        elif not self.choices or self.low is not None or self.high is not None:
            raise ValueError("give both low and high, or a list of choices")
        return self

    def draw(self, rng: random.Random) -> Any:
        """Return a value; numbers are rounded to four digits so that they can be read and repeated."""
        if self.low is None or self.high is None:
            choices = self.choices or ()
            return choices[int(rng.random() * len(choices))]
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return min(max(float(f"{value:.4g}"), self.low), self.high)


class Variant(Section):
    """One thing to compare: the settings that define it (`set`), and a `grid` or `random` search to tune it."""

    set: Settings = Field({})
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field({})
    random: dict[
        str, Annotated[Draw, BeforeValidator(lambda value: {"choices": value} if isinstance(value, list) else value)]
    ] = Field({})

    @model_validator(mode="after")
    def _one_search(self) -> "Variant":
        if self.grid and self.random:
            raise ValueError("give one of `grid` and `random`, not both")
        return self


class Seeds(Section):
    """Seeds of the trials, of the runs on test (other ones), and of the draws from grids and ranges."""

    tune: tuple[Seed, ...] = Field((100,), min_length=1)
    test: tuple[Seed, ...] = Field((0, 1, 2, 3, 4), min_length=1)
    draw: Seed = 0

    @model_validator(mode="after")
    def _are_fresh(self) -> "Seeds":
        for name, seeds in (("tune", self.tune), ("test", self.test)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{name} lists a seed twice: {list(seeds)}")
        if shared := sorted({*self.tune} & {*self.test}):
            raise ValueError(f"test needs seeds that tune does not use, and {shared[0]} is in both")
        return self


class SweepFile(Section):
    """All keys of a sweep file."""

    recipe: str
    data: Path | None = None
    set: Settings = Field({})
    trials: int = Field(5, ge=1)
    seeds: Seeds = Seeds()
    choose: Measure = "R@1"
    labels: tuple[str, ...] = ()
    divisions: dict[str, Concepts] = Field({})
    variants: dict[str, Variant] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_folders(self) -> "SweepFile":
        for name in self.variants:
            if not re.fullmatch(r"\w[\w.+ -]*", name):
                raise ValueError(f"variants: {name!r} names a folder; use letters, digits, spaces and . _ + -")
        return self


@dataclass(frozen=True)
class Trial:
    """One setting of a variant, and its runs, one per seed, once they are made."""

    variant: str
    number: int  # its position in the whole grid, or in the order of drawing
    setting: Settings
    runs: tuple[Path, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return in_words(self.setting)

    @property
    def failed(self) -> str | None:
        """Why its setting could not be trained."""
        reasons = (run / FAILED for run in self.runs)
        return next((file.read_text(encoding="utf-8") for file in reasons if file.exists()), None)

    def on_val(self, measure: str) -> float:
        """Return a measure on val, the mean over both directions and all seeds; -inf if it could not be trained."""
        values = []
        for run in () if self.failed else self.runs:
            metrics = read_json(RunDirectory(run).metrics_file)
            if (split := metrics["split"]) != "val":
                raise RunError(f"{run}, tuned on val, has since been evaluated on {split}; remove it to tune again")
            values.append(measured(metrics, measure))
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else -math.inf


@dataclass(frozen=True)
class Sweep:
    """A sweep file with the changes that the command line made."""

    source: str
    file: SweepFile

    def recipe(self, variant: str, setting: Mapping[str, Any], seed: int) -> Recipe:
        """Return the recipe of one run; raises RecipeError naming the variant and the key that is wrong."""
        changes = {"train.trackers": [], **self.file.set, **self.file.variants[variant].set, **setting}
        changes |= {"name": variant, "train.seed": seed}
        try:
            return load_recipe(self.file.recipe, changes)
        except RecipeError as error:
            where = f" ({in_words(setting)})" if setting else ""
            raise RecipeError(f"{self.source}: variant {variant}{where}: {error}") from None

    def trials(self) -> list[Trial]:
        """Return the same number of trials for all variants; RecipeError if there are too few, or one is not valid."""
        trials, count = [], self.file.trials
        for name, variant in self.file.variants.items():
            rng = random.Random(f"{self.file.seeds.draw}/{name}")
            if variant.random:
                trials += self._draw_trials(name, rng)
                continue
            grid = [dict(zip(variant.grid, row, strict=True)) for row in itertools.product(*variant.grid.values())]
            if len(grid) < count:
                raise self._too_few(name, f"only {counted(len(grid), 'setting')}")
            order = list(range(len(grid)))
            rng.shuffle(order)  # so that a larger number of trials includes those of a smaller one
            for number in sorted(order[:count]):
                self.recipe(name, grid[number], 0)
                trials.append(Trial(name, number, grid[number]))
        return trials

    def _draw_trials(self, name: str, rng: random.Random) -> list[Trial]:
        """Draw settings, skipping repeats and settings that are not a valid recipe."""
        trials: dict[str, Trial] = {}
        problem = self._too_few(name, "too few settings to draw")
        for _ in range(_MAX_DRAWS * self.file.trials):
            setting = {key: draw.draw(rng) for key, draw in self.file.variants[name].random.items()}
            if in_words(setting) in trials:
                continue
            try:
                self.recipe(name, setting, 0)
            except RecipeError as error:
                problem = error
                continue
            trials[in_words(setting)] = Trial(name, len(trials), setting)
            if len(trials) == self.file.trials:
                return list(trials.values())
        raise problem

    def _too_few(self, name: str, settings: str) -> RecipeError:
        return RecipeError(
            f"{self.source}: variant {name} has {settings}, and every variant gets {self.file.trials} trials; "
            "give it more values, or lower `trials`"
        )


def load_sweep(path: Path, data: Path | None = None, settings: Sequence[str] = ()) -> Sweep:
    """Read a sweep file; `data` and `settings` (KEY=VALUE, for all runs) come from the command line.

    Raises RecipeError, naming the key and the nearest known one, for anything that is wrong.
    """
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        why = "is a folder" if path.is_dir() else "is not YAML" if path.is_file() else why_missing(path)
        raise RecipeError(f"{path} {why}; a sweep file is YAML (docs/sweeps.md has an example)")
    content = parse_mapping(path.read_bytes(), str(path), "recipe, trials, seeds, variants")
    file = validated(SweepFile, content, str(path))
    changes = {"data": data or file.data, "set": {**file.set, **dict(map(parse_setting, settings))}}
    return Sweep(str(path), file.model_copy(update=changes))


def in_words(setting: Mapping[str, Any]) -> str:
    """Write a setting as --set takes it, without the prefix `objective.` that nearly all keys have.

    >>> in_words({"objective.temperature": {"rule": "fixed", "value": 0.1}, "train.learning_rate": 1e-05})
    'temperature={rule: fixed, value: 0.1}, train.learning_rate=1.0e-05'
    >>> in_words({})
    'as given'
    """
    parts = []
    for key, value in setting.items():
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
        text = text.removesuffix("\n").removesuffix("\n...")
        parts.append(f"{key.removeprefix('objective.')}={text}")
    return ", ".join(parts) or "as given"
