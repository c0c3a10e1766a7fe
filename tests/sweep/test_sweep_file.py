"""A sweep file: its keys and what is wrong with them, the settings it draws, and what the command line changes."""

from pathlib import Path
from typing import Any

import pytest
from small_sweep import SWEEP, write_sweep
from typer.testing import CliRunner

from mmts.cli import app
from mmts.errors import RecipeError
from mmts.sweep.sweep_file import load_sweep


def test_the_documented_sweeps_are_right(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    example = tmp_path / "rules.yaml"
    example.write_text((root / "docs" / "sweeps.md").read_text().split("```yaml\n")[1].split("```")[0])
    assert len(load_sweep(example).trials()) == 9
    for file in (root / "benchmarks").rglob("*.yaml"):
        sweep = load_sweep(file)
        assert len(sweep.trials()) == len(sweep.file.variants) * sweep.file.trials


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trails": 3}, r"unknown key 'trails'; did you mean 'trials'\?"),
        ({"seeds": {"tests": [1]}}, "seeds: unknown key 'tests'; did you mean 'test'"),
        ({"seeds": {"test": [100, 0]}}, "test needs seeds that tune does not use, and 100 is in both"),
        ({"seeds": {"test": [0, 0]}}, "test lists a seed twice"),
        ({"variants": {"fixed": {"girds": {}}}}, "variants.fixed: unknown key 'girds'"),
        ({"variants": {"../fixed": {}}}, "names a folder"),
        ({"variants": {}}, "variants"),
        ({"trials": 3}, "variant fixed has only 2 settings, and every variant gets 3 trials"),
        ({"variants": {"fixed": {}}}, "variant fixed has only 1 setting, and every variant gets 2 trials"),
        ({"variants": {"a": {"grid": {"train.seed": [1]}, "random": {"x": [1]}}}}, "one of `grid` and `random`"),
        ({"variants": {"a": {"random": {"train.warmup": {"low": 1, "high": 0}}}}}, "low < high must hold"),
        ({"variants": {"a": {"random": {"train.warmup": {"low": 0, "high": 1, "log": True}}}}}, "0 < low < high"),
        ({"variants": {"a": {"random": {"train.warmup": {"high": 1}}}}}, "train.warmup.low is missing"),
        ({"variants": {"a": {"random": {"train.epochs": [1]}}}}, "variant a has only 1 setting, and"),
        ({"variants": {"a": {"random": {"train.epoch": [1, 2]}}}}, r"variant a .*did you mean 'epochs'\?"),
        ({"variants": {"a": {"grid": {"train.warmup": [0, 2]}}}}, r"a \(train.warmup=2\): recipe catalogue: train.w"),
        ({"recipe": "catalog"}, "did you mean 'catalogue'"),
        ({"choose": "mrr"}, "choose"),
    ],
)
def test_a_mistake_in_a_sweep_file_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, **changes)
    with pytest.raises(RecipeError, match=message) as error:
        load_sweep(path).trials()
    assert str(path) in str(error.value)


def test_draws_keep_to_their_ranges_and_do_not_depend_on_other_variants(tmp_path: Path) -> None:
    variant = {
        "random": {"train.warmup": {"low": 0.001, "high": 0.5, "log": True}, "train.precision": ["fp32", "bf16"]}
    }
    few = load_sweep(write_sweep(tmp_path, trials=4, variants={"a": variant})).trials()
    many = load_sweep(write_sweep(tmp_path, trials=50, variants={"b": variant, "a": variant})).trials()
    assert [trial for trial in many if trial.variant == "a"][:4] == few
    values = [trial.setting["train.warmup"] for trial in many]
    assert 0.001 <= min(values) < 0.01 < max(values) <= 0.5
    assert {trial.setting["train.precision"] for trial in many} == {"fp32", "bf16"}
    assert [trial.setting for trial in many[:50]] != [trial.setting for trial in many[50:]]


def test_settings_that_no_recipe_allows_are_drawn_again(tmp_path: Path) -> None:
    variant = SWEEP["variants"]["mm-ts"] | {
        "random": {
            "objective.temperature.alpha": {"low": 0.01, "high": 0.2},
            "objective.temperature.low": {"low": 0.01, "high": 0.1},
        }
    }
    for trial in load_sweep(write_sweep(tmp_path, trials=20, variants={"a": variant})).trials():
        alpha, low = trial.setting.values()
        assert alpha / 2 < low


def test_a_large_grid_is_sampled_and_more_trials_keep_earlier_ones(tmp_path: Path) -> None:
    grid = {"train.epochs": [1, 2, 3], "train.batch_size": [8, 16, 32, 64]}
    few, many, all_of_it = (
        load_sweep(write_sweep(tmp_path, trials=trials, variants={"a": {"grid": grid}})).trials()
        for trials in (3, 7, 12)
    )
    assert set(map(str, few)) < set(map(str, many)) < set(map(str, all_of_it))
    assert all(trial in all_of_it for trial in few)  # the same numbers too
    assert [trial.number for trial in all_of_it] == list(range(12))
    assert str(all_of_it[1]) == "train.epochs=1, train.batch_size=16"


def test_settings_for_all_runs_come_from_the_file_and_the_command_line(tmp_path: Path) -> None:
    sweep = load_sweep(write_sweep(tmp_path), settings=["train.epochs=7", "model.head={kind: none}"])
    recipe = sweep.recipe("mm-ts", sweep.trials()[-1].setting, 5)
    assert (recipe.train.epochs, recipe.model.head.kind, recipe.model.width) == (7, "none", 16)
    assert (recipe.name, recipe.train.seed, recipe.train.trackers) == ("mm-ts", 5, ())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs", "--set takes KEY=VALUE"),
        ("train.project=2024-13-01", "--set 'train.project=2024-13-01': the value is not valid YAML"),
        ("train.epochs=[", "the value is not valid YAML"),
        ("train.epoch=3", r"did you mean 'epochs'\?"),
    ],
)
def test_set_is_read_as_mmts_train_reads_it(setting: str, message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sweep", str(write_sweep(tmp_path)), "--set", setting])
    assert isinstance(result.exception, RecipeError)
    with pytest.raises(RecipeError, match=message):
        raise result.exception
    alone = CliRunner().invoke(app, ["train", "catalogue", "--set", setting])
    assert str(alone.exception).rpartition(": ")[2] == str(result.exception).rpartition(": ")[2]
