"""Recipes: every shipped one is valid, unknown names are answered with the nearest known one, choices start afresh."""

from pathlib import Path

import pytest

from mmts.errors import RecipeError
from mmts.training.recipe import load_recipe, override, parse_recipe, save_recipe, shipped_recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid_and_described(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")


def test_a_saved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("catalogue", ["objective.loss=max_margin", "train.seed=5"])
    save_recipe(recipe, tmp_path / "recipe.yaml", {"mmts": "0"})
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.epocs=3", "train: unknown key 'epocs'; did you mean 'epochs'?"),
        ("objective.temperature.vlue=1", "objective.temperature: unknown key 'vlue'; did you mean 'value'?"),
        ("objective.temperature.rule=shfted", "objective.temperature.rule is 'shfted'; did you mean 'shifted'?"),
        ("objective.loss=infonce", "did you mean 'info_nce'?"),
        ("train.batch_size=many", "train.batch_size is 'many'; it must be a whole number"),
        ("train.batch_size=1", "train.batch_size"),
        ("objective.temperature.value=-1", "objective.temperature.value"),
        ("train.warmup=1.5", "train.warmup"),
        ("concepts.num_concepts=1", "num_concepts must be at least 2"),
        ("concepts.source=label", "`label` names the label"),
        ("train.final_learning_rate=1", "is larger than learning_rate"),
        ("train=3", "train"),
        ("train.epochs.more=3", "train.epochs is a value, not a section"),
        ("objective.temperature={rule: shifted, alpha: 0.2}", "alpha/2 must stay below low"),
        ("train.trackers=[tensorbord]", "did you mean 'tensorboard'"),
        ("train.seed=99999999999999999999", "train.seed"),
        ("model.image.size=100000", "model.image.size"),
        ("no equals sign", "--set takes KEY=VALUE"),
        ("train.seed=[", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(setting: str, says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("catalogue", [setting])
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_wrong_recipe_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'catalogue'"):
        load_recipe("catalog")
    with pytest.raises(RecipeError, match=r"recipe file .* does not exist"):
        load_recipe("missing.yaml")


@pytest.mark.parametrize("content", ["- a list", "train: [unclosed", "\xff", "train: {epochs: 3, epochs: 4}"])
def test_a_broken_recipe_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        load_recipe(path)


def test_exactly_one_length() -> None:
    assert load_recipe("catalogue", ["train.steps=7"]).train.epochs is None
    with pytest.raises(RecipeError, match="exactly one of `epochs` and `steps`"):
        load_recipe("catalogue", ["train.epochs=null"])


def test_a_new_choice_drops_the_keys_of_the_old_one_whatever_the_order() -> None:
    before = {"temperature": {"rule": "fixed", "value": 0.1}}
    settings = ["temperature.low=0.06", "temperature.rule=shifted"]
    assert override(before, settings) == {"temperature": {"rule": "shifted", "low": 0.06}}
    assert before == {"temperature": {"rule": "fixed", "value": 0.1}}


def test_a_number_is_a_fixed_rule() -> None:
    assert load_recipe("catalogue", ["objective.temperature=0.1"]).objective.temperature.value == 0.1
    recipe = load_recipe("catalogue", ["objective={loss: max_margin, margin: 0.3}"])
    assert (recipe.objective.margin.rule, recipe.objective.margin.value) == ("fixed", 0.3)


def test_rules_start_from_the_published_values() -> None:
    temperature = load_recipe("catalogue", ["objective.temperature.rule=shifted"]).objective.temperature
    assert (temperature.alpha, temperature.cycles, temperature.low, temperature.high) == (0.08, 5, 0.05, 0.20)
    margin = load_recipe("catalogue", ["objective.loss=max_margin", "objective.margin.rule=shifted"]).objective.margin
    assert (margin.alpha, margin.cycles, margin.low, margin.high) == (0.2, 5, 0.17, 0.30)


def test_a_name_cannot_lead_out_of_the_folder_of_runs() -> None:
    names = ["../../escape", "escape", "a/b", "a-b", "a:b", "..", ".", "my run", "[/x]", "\n", "é" * 300, "é" * 301]
    folders = [parse_recipe({"name": name, "train": {"epochs": 1}}).folder_name for name in names]
    assert [folders[names.index(plain)] for plain in ("escape", "a-b", "my run")] == ["escape", "a-b", "my run"]
    assert len(set(folders)) == len(names)
    assert all("/" not in folder and folder.strip(".") and len(folder.encode()) < 240 for folder in folders)


def test_a_checkpoint_fills_the_towers_it_was_made_for() -> None:
    with pytest.raises(RecipeError, match="pretrained fills the video tower 'space-time-vit', not 'frames'"):
        load_recipe("ek100-mmts", ["model.video.tower=frames"])
