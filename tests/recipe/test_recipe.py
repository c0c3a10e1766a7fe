"""Recipes: every shipped one is valid, unknown names are answered with the nearest known one, choices start afresh."""

from pathlib import Path
from typing import Any

import pytest

from mmts.errors import RecipeError
from mmts.recipe import recipe as recipes
from mmts.recipe.recipe import load_recipe, override, parse_recipe, save_recipe, shipped_recipes


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
        ("train={epochs: 1, warmup: 0.1, warmup_learning_rate: 1}", "warmup_learning_rate 1.0 is larger than"),
        ("train.warmup_learning_rate=1e-6", "warmup_learning_rate is where a warm-up starts, and warmup is 0"),
        ("train=3", "train"),
        ("train.epochs.more=3", "train.epochs is a value, not a section"),
        ("objective.temperature={rule: shifted, alpha: 0.2}", "alpha/2 must stay below low"),
        ("train.trackers=[tensorbord]", "did you mean 'tensorboard'"),
        ("train.seed=99999999999999999999", "train.seed"),
        ("model.image.size=100000", "model.image.size"),
        ("model.width=null", "model.width is empty, which only model.start can fill"),
        ("model.text.tower=null", "model.text.tower is empty, which only model.start can fill"),
        ("no equals sign", "--set takes KEY=VALUE"),
        ("train.seed=[", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(setting: str, says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("catalogue", [setting])
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["model: {video: {frames: 4}}", "day: 2024-13-01", "[" * 3000, "model: 3"])
def test_a_recipe_beside_the_start_may_be_anything(content: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    kind = load_recipe("catalogue", [f"model.start={tmp_path}", "model.image=null"]).model.kind
    assert kind == ("video" if "video" in content else "image")


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
    for settings in (["train.steps=7"], ["train.steps=7", "train.epochs=null"], ["train.epochs=null", "train.steps=7"]):
        train = load_recipe("catalogue", settings).train
        assert (train.epochs, train.steps) == (None, 7)
    with pytest.raises(RecipeError, match="exactly one of `epochs` and `steps`"):
        load_recipe("catalogue", ["train.epochs=null"])


def test_a_new_choice_drops_the_keys_of_the_old_one_whatever_the_order() -> None:
    before = {"objective": {"temperature": {"rule": "fixed", "value": 0.1}}}
    settings = ["objective.temperature.low=0.06", "objective.temperature.rule=shifted"]
    assert override(before, settings) == {"objective": {"temperature": {"rule": "shifted", "low": 0.06}}}
    assert before == {"objective": {"temperature": {"rule": "fixed", "value": 0.1}}}


SMALL_RESNET = {"tower": "small-resnet", "train": "all", "size": 64, "options": {"channels": 8}}
CLIPS = {"tower": "space-time-vit", "frames": 4, "sampling": "stride", "stride": 2, "options": {"patch": 8}}
ON_FRAMES = {"tower": "frames", "options": {"image": "small-vit", "image_options": {"depth": 1}, "pooling": "mean"}}


@pytest.mark.parametrize(
    ("section", "content", "setting", "right"),
    [
        ("concepts", {"source": "label", "label": "noun"}, "source=captions", {"source": "captions"}),
        ("concepts", {"num_concepts": 9}, "source=captions", {"num_concepts": 9, "source": "captions"}),
        ("concepts", {"source": "file", "file": "c.npz"}, "source=label", {"source": "label"}),
        ("model", {"image": SMALL_RESNET}, "image.tower=small-vit",
         {"image": {"tower": "small-vit", "train": "all", "size": 64}}),
        ("model", {"image": SMALL_RESNET}, "image.tower=small-resnet", {"image": SMALL_RESNET}),
        ("model", {"image": {"options": {"a": 1}}}, "image.tower=small-vit", {"image": {"tower": "small-vit"}}),
        ("model", {"text": {"tower": "clip-text", "options": {"width": 8}}}, "text.tower=minilm",
         {"text": {"tower": "minilm"}}),
        ("model", {"image": SMALL_RESNET, "width": 64}, "start=openai/clip-vit-base-patch32",
         {"start": "openai/clip-vit-base-patch32"}),
        ("model", {"image": SMALL_RESNET}, "video.tower=frames", {"video": {"tower": "frames"}}),
        ("model", {"video": CLIPS}, "image={size: 32}", {"image": {"size": 32}}),
        ("model", {"video": CLIPS}, "image=null", {"video": CLIPS, "image": None}),
        ("model", {"video": CLIPS}, "video.sampling=random",
         {"video": {**{key: CLIPS[key] for key in ("tower", "frames", "options")}, "sampling": "random"}}),
        ("model", {"video": ON_FRAMES}, "video.options.image=small-resnet",
         {"video": {"tower": "frames", "options": {"image": "small-resnet", "pooling": "mean"}}}),
        ("model", {"head": {"hidden": 64, "dropout": 0}}, "head.kind=linear", {"head": {"kind": "linear"}}),
        ("model", {"head": {"hidden": 64}}, "head.kind=two-layer", {"head": {"hidden": 64, "kind": "two-layer"}}),
        ("objective", {"temperature": 0.1}, "loss=max_margin", {"loss": "max_margin"}),
        ("objective", {"temperature": 0.1}, "loss=info_nce", {"temperature": 0.1, "loss": "info_nce"}),
        ("objective", {"temperature": 0.1}, "temperature.rule=learned", {"temperature": {"rule": "learned"}}),
        ("objective", {"loss": "sogclr", "gamma": {"kind": "cosine", "low": 0.2, "high": 0.9}}, "gamma.kind=constant",
         {"loss": "sogclr", "gamma": {"kind": "constant"}}),
        ("objective", {"loss": "sogclr", "gamma": 0.8}, "gamma.kind=linear",
         {"loss": "sogclr", "gamma": {"kind": "linear"}}),
        ("evaluation", {"classify": "noun", "prompts": "p.txt"}, "classify=verb", {"classify": "verb"}),
        ("train", {"epochs": 3, "seed": 1}, "steps=7", {"seed": 1, "steps": 7}),
        ("train", {"steps": 7}, "epochs=0", {"epochs": 0}),
        ("train", {"steps": 7}, "epochs=null", {"steps": 7, "epochs": None}),
    ],
)  # fmt: skip
def test_every_choice_drops_what_belongs_to_the_old_one_and_nothing_else(
    section: str, content: dict[str, Any], setting: str, right: dict[str, Any]
) -> None:
    assert override({section: content}, [f"{section}.{setting}"]) == {section: right}


def test_every_choice_is_tested() -> None:
    keys = {
        "source",
        "classify",
        "start",
        "image",
        "video",
        "tower",
        "sampling",
        "kind",
        "loss",
        "rule",
        "epochs",
        "steps",
    }
    assert {key for _, key in recipes._CHOICES} == keys


@pytest.mark.parametrize(
    ("settings", "right"),
    [
        (["concepts.source=label", "concepts.label=noun"], {"concepts": {"source": "label", "label": "noun"}}),
        (["objective={loss: sogclr}", "objective.temperature.rule=learned"],
         {"objective": {"loss": "sogclr", "temperature": {"rule": "learned"}}}),
        (["model.image.options={width: 16}", "model.image.tower=small-vit"],
         {"model": {"image": {"tower": "small-vit", "train": "all", "size": 64, "options": {"width": 16}}}}),
    ],
)  # fmt: skip
def test_the_order_of_settings_changes_nothing(settings: list[str], right: dict[str, Any]) -> None:
    before = {
        "concepts": {"source": "captions", "num_concepts": 9},
        "model": {"image": SMALL_RESNET},
        "objective": {"loss": "info_nce", "temperature": {"rule": "fixed", "value": 0.1}},
        "train": {"epochs": 3},
    }
    for given in (settings, settings[::-1]):
        assert {key: override(before, given)[key] for key in right} == right


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


def test_overrides_are_not_changed_by_merging_them() -> None:
    changes = {"objective.temperature": {"rule": "shifted"}, "objective.temperature.alpha": 0.04}
    recipe = override({}, changes)
    assert recipe["objective"]["temperature"] == {"rule": "shifted", "alpha": 0.04}
    assert changes["objective.temperature"] == {"rule": "shifted"}
