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
from pydantic import Field, model_validator

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


_Choices = Annotated[tuple[Any, ...], Field(min_length=1)]


class Range(Section):
    """Where a random search draws a number: evenly from [low, high] or (`log`) from its logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_in_order(self) -> "Range":
        if not (0 if self.log else -math.inf) < self.low < self.high:
            order = "0 < low < high" if self.log else "low < high"
            raise ValueError(f"{order} must hold, not {plain(self.low)} and {plain(self.high)}")
        return self

    def draw(self, rng: random.Random) -> float:
        """Return a value, rounded to four digits so that it can be read and repeated."""
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return min(max(float(f"{value:.4g}"), self.low), self.high)


class Variant(Section):
    """One thing to compare: the settings that define it (`set`), and a `grid` or `random` search to tune it."""

    set: Settings = Field({})
    grid: dict[str, _Choices] = Field({})
    random: dict[str, Range | _Choices] = Field({})

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
        return next(((run / FAILED).read_text(encoding="utf-8") for run in self.runs if (run / FAILED).exists()), None)

    def on_val(self, measure: str) -> float:
        """Return a measure on val, the mean over both directions and all seeds; -inf if it could not be trained."""
        values = []
        for run in () if self.failed else self.runs:
            metrics = read_json(RunDirectory(run).metrics_file)
            if (split := metrics["split"]) != "val":
                raise RunError(f"{run}, tuned on val, has since been evaluated on {split}; remove it to tune again")
            if (value := measured(metrics, measure)) is not None:
                values.append(value)
        return statistics.fmean(values) if values else -math.inf


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
                settings = self._drawn(name, rng)
            else:
                grid = [dict(zip(variant.grid, row, strict=True)) for row in itertools.product(*variant.grid.values())]
                order = list(range(len(grid)))
                rng.shuffle(order)  # so that a larger number of trials includes those of a smaller one
                settings = {number: grid[number] for number in sorted(order[:count])}
            if len(settings) < count:
                raise RecipeError(
                    f"{self.source}: variant {name} has only {counted(len(settings), 'setting')}, and every variant "
                    f"gets {count} trials; give it more values, or lower `trials`"
                )
            for number, setting in settings.items():
                self.recipe(name, setting, 0)
                trials.append(Trial(name, number, setting))
        return trials

    def _drawn(self, name: str, rng: random.Random) -> dict[int, Settings]:
        """Draw settings, skipping repeats; RecipeError if too few of those drawn are a valid recipe."""
        drawn: dict[str, Settings] = {}
        problem = None
        for _ in range(_MAX_DRAWS * self.file.trials):
            setting = {
                key: values.draw(rng) if isinstance(values, Range) else values[int(rng.random() * len(values))]
                for key, values in self.file.variants[name].random.items()
            }
            if in_words(setting) in drawn:
                continue
            try:
                self.recipe(name, setting, 0)
            except RecipeError as error:
                problem = error
                continue
            drawn[in_words(setting)] = setting
            if len(drawn) == self.file.trials:
                problem = None
                break
        if problem is not None:
            raise problem
        return dict(enumerate(drawn.values()))


def load_sweep(path: Path, data: Path | None = None, settings: Sequence[str] = ()) -> Sweep:
    """Read a sweep file; `data` and `settings` (KEY=VALUE) of the command line go first. Raises RecipeError."""
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
    """
    parts = []
    for key, value in setting.items():
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
        text = text.removesuffix("\n").removesuffix("\n...")
        parts.append(f"{key.removeprefix('objective.')}={text}")
    return ", ".join(parts) or "as given"
