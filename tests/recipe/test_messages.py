"""Wrong recipes and sweep files are answered in one line: the key, what stands there, and what it may be."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mmts.errors import RecipeError
from mmts.recipe.recipe import load_recipe, parse_recipe
from mmts.sweep.sweep_file import load_sweep

RULES = "fixed, learned, scheduled, shifted"
KINDS = "constant, linear, cosine, warmup, join, step"
JOIN = "{kind: join, boundaries: [0.5], schedules: [{kind: constant, value: x}, {kind: linear, start: 1}]}"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["objective.loss=max_margin", "objective.margin.value=0.1"],
            f"objective.margin.rule is missing; it must be one of {RULES}",
        ),
        (
            ["objective.temperature={tau0: 0.05}"],
            f"objective.temperature.rule is missing; it must be one of {RULES}, ldam, macl, dystress, temo",
        ),
        (
            ["objective.temperature={rule: scheduled, schedule: {low: 1, high: 2}}"],
            f"objective.temperature.schedule.kind is missing; it must be one of {KINDS}",
        ),
        (
            ["objective={loss: sogclr, gamma: {value: 1}}"],
            f"objective.gamma.kind is missing; it must be one of {KINDS}",
        ),
        (["objective.temperature={rul: fixed}"], "objective.temperature: unknown key 'rul'; did you mean 'rule'?"),
        (["objective={los: temo, tau_min: 0.1}"], "objective: unknown key 'los'; did you mean 'loss'?"),
        (
            ["objective={loss: [1]}"],
            "objective.loss is [1]; known: cyclip, decoupled_info_nce, dual_temp",
        ),
        (["objective=max_margin"], "objective is 'max_margin'; it must be a section {loss: ...}"),
        (
            ["objective.temperature=fixed"],
            "objective.temperature is 'fixed'; it must be a number or a section {rule: ...}",
        ),
        (["objective.temperature=-0.1"], "objective.temperature is -0.1; it must be greater than 0"),
        (["objective.temperature=1e999"], "objective.temperature is '1e999'; it must be a finite number"),
        (["objective={loss: isogclr, low: {kind: constant}}"], "objective.low.value is missing"),
        (
            [f"objective.temperature={{rule: scheduled, schedule: {JOIN}}}"],
            "temperature.schedule.schedules.0.value is 'x'; it must be a number; "
            "objective.temperature.schedule.schedules.1.end is missing",
        ),
        (["data.relevance=txt"], "data.relevance is 'txt'; it must be one of text, own, graded"),
        (["concepts.num_concepts=many"], "concepts.num_concepts is 'many'; it must be a whole number or auto"),
        (["data.augment.crop_scale=[1]"], "data.augment.crop_scale.1 is missing"),
        (["data.augment.crop_scale=[1, 1, 1]"], "data.augment.crop_scale is [1, 1, 1]; it must be 2 or fewer entries"),
        (["data.augment=true"], "data.augment is true; it must be a section with keys among crop_scale, flip, color"),
        (["data.augment.crop_scale=[0.9, 0.5]"], "data.augment: crop_scale needs 0 < low <= high <= 1, not [0.9, 0.5]"),
        (["train.seed=4294967296"], "train.seed is 4294967296; it must be at most 4294967295"),
        (["train.epochs=true"], "train: epochs is true; it must be a number"),
        (["data.max_media=false"], "data: max_media is false; it must be a number"),
        (["objective.temperature={rule: fixed, value: true}"], "objective.temperature: value is true; it must be a"),
        (["data.augment.flip=maybe"], "data.augment.flip is 'maybe'; it must be true or false"),
        (["model.image.options={1: 2}"], "model.image.options: the key 1 is not text; write it in quotes"),
        (["model.image.options=3"], "model.image.options is 3; it must be a section of keys and values"),
        (["train.learning_rate=.inf"], "train.learning_rate is inf; it must be a finite number"),
        (["train.trackers=wandb"], "train.trackers is 'wandb'; it must be a list"),
        (["train.batch_size=null"], "train.batch_size is empty; it must be a whole number"),
        (["train.batch_size=2.5"], "train.batch_size is 2.5; it must be a whole number"),
        (["train.weight_decay=-1"], "train.weight_decay is -1; it must be at least 0"),
        (["name=3"], "name is 3; it must be text"),
        (["data.path=3"], "data.path is 3; it must be a path"),
        (["published={}"], "published.source is missing"),
    ],
)
def test_a_wrong_setting(settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("catalogue", settings)
    message = str(raised.value)
    assert says in message
    assert message.startswith("recipe catalogue: ")
    assert not any(theirs in message for theirs in ("Input should", "valid dictionary", "discriminator"))


def test_numbers_as_yaml_misreads_them_are_numbers() -> None:
    recipe = load_recipe("catalogue", ["objective.temperature=5e-2", "train.learning_rate=1E-3"])
    assert (recipe.objective.temperature.rule, recipe.objective.temperature.value) == ("fixed", 0.05)  # type: ignore[union-attr]
    assert recipe.train.learning_rate == 1e-3


def test_what_is_long_is_cut_and_what_is_much_is_counted() -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("catalogue", ["train.precision=" + "x" * 1000])
    assert len(str(raised.value)) < 200
    with pytest.raises(RecipeError, match=r"train\.trackers\.4 is 4; it must be text; and 3 more$"):
        load_recipe("catalogue", ["train.trackers=[0, 1, 2, 3, 4, 5, 6, 7]"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "recipe: train is missing"),
        ({"train": {"epochs": 1}, "objective": None}, "recipe: objective is empty; it must be a section {loss: ...}"),
        ({"train": None}, "({} keeps all defaults)"),
    ],
)
def test_a_wrong_recipe(content: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(content)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": None}, "recipe is empty; it must be text"),
        ({"variants": {}}, "variants is {}; it must be 1 or more entries long"),
        ({"variants": ["a"]}, "variants is ['a']; it must be a section of keys and values"),
        ({"variants": {"a": None}}, "variants.a is empty; it must be a section with keys among set, grid, random"),
        ({"variants": {True: {}}}, "variants: the key true is not text; write it in quotes"),
        ({"variants": {"temperature": {"grid": {"x.y": 1}}}}, "variants.temperature.grid.x.y is 1; it must be a list"),
        ({"variants": {"a": {"random": {"x.y": {"low": "few", "high": 2}}}}}, "x.y.low is 'few'; it must be a number"),
        ({"variants": {"a": {"random": {"x.y": 1}}}}, "x.y is 1; it must be a section with keys among low, high, log"),
        ({"trials": "many"}, "trials is 'many'; it must be a whole number"),
        ({"seeds": {"test": [0, -1]}}, "seeds.test.1 is -1; it must be at least 0"),
        ({"choose": "R@2"}, "choose: unknown measure 'R@2'; did you mean 'R@"),
    ],
)
def test_a_wrong_sweep_file(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"recipe": "catalogue", "variants": {"a": {}}, **changes}))
    with pytest.raises(RecipeError) as raised:
        load_sweep(path)
    assert says in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_wrong_variant_of_a_sweep_is_named(tmp_path: Path) -> None:
    variant = {"set": {"objective.loss": "max_margin"}, "grid": {"objective.margin.value": [0.1]}}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"recipe": "catalogue", "trials": 1, "variants": {"hinge": variant}}))
    with pytest.raises(
        RecipeError, match=r"variant hinge \(margin\.value=0\.1\): .*objective\.margin\.rule is missing"
    ):
        load_sweep(path).trials()
