"""Components describe themselves: their signatures are the recipe's options, and anyone's class is one of them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from tests_support import draw_shapes
from torch import Tensor
from typer.testing import CliRunner

from mmts.cli import app
from mmts.errors import MmtsError, RecipeError
from mmts.evaluation.results import read_results
from mmts.evaluation.run import evaluate
from mmts.policies import POLICIES, Policy
from mmts.recipe.components import (
    FAMILIES,
    IMAGE_TOWER,
    OBJECTIVE,
    SCHEDULE,
    TEXT_TOWER,
    Family,
    Option,
    options_of,
)
from mmts.recipe.recipe import Recipe, load_recipe, parse_recipe
from mmts.recipe.run_directory import RunDirectory, trusting_code
from mmts.recipe.tiny import tiny
from mmts.report import write_report
from mmts.report.curves import rule_in_words
from mmts.sweep import run_sweep
from mmts.training.run import train

# --- every option of every component ---------------------------------------------------------------------------------

GIVEN: dict[str, dict[str, Any]] = {  # options without a default
    "constant": {"value": 0.1},
    "linear": {"start": 0.1, "end": 0.2},
    "cosine": {"low": 0.1, "high": 0.2},
    "warmup": {"schedule": 0.1, "fraction": 0.1, "start": 0.05},
    "join": {"schedules": [0.1, 0.2], "boundaries": [0.5]},
    "step": {"values": [0.1, 0.2], "boundaries": [0.5]},
    "scheduled": {"schedule": 0.1},
}


TOWERS = {"image tower": "image", "video tower": "video", "text tower": "text"}
PLACES = {
    "objective": "objective",
    "policy": "objective.temperature",
    "schedule": "objective.temperature.schedule",
    "prior": "objective.prior",
    "weights": "objective.weights",
    **{word: f"model.{side}.options" for word, side in TOWERS.items()},
}


def content(family: Family, name: str, **options: Any) -> dict[str, Any]:
    """A recipe with the component in it."""
    train = {"train": {"epochs": 1}}
    if family.word in TOWERS:
        return {"model": {TOWERS[family.word]: {"tower": name, "train": "all", "options": options}}, **train}
    if family.key is None:
        return {"objective": {family.word: options}, **train}
    own = {family.key: name, **GIVEN.get(name, {}), **options}
    if family is SCHEDULE:
        own = {"rule": "scheduled", "schedule": own}
    return {"objective": own if family is OBJECTIVE else {"loss": "info_nce", "temperature": own}, **train}


def outside(hint: Any) -> Iterator[float]:
    """Numbers just outside a range."""
    if get_origin(hint) is not Annotated:
        for each in get_args(hint):
            yield from outside(each)
        return
    for bound in get_args(hint)[1:]:
        if isinstance(bound, Gt | Lt):
            yield bound.gt if isinstance(bound, Gt) else bound.lt
        elif isinstance(bound, Ge | Le):
            edge = bound.ge if isinstance(bound, Ge) else bound.le
            whole = get_args(hint)[0] is int
            away = -math.inf if isinstance(bound, Ge) else math.inf
            yield edge + math.copysign(1, away) if whole else math.nextafter(edge, away)


COMPONENTS = [(family, name) for family in FAMILIES for name in family.table]
HUGGING_FACE = [(IMAGE_TOWER, "google/vit-base-patch16-224"), (TEXT_TOWER, "distilbert-base-uncased")]
RANGED = [
    (family, name, option, value)
    for family, name in [*COMPONENTS, *HUGGING_FACE]
    for option in options_of(family.table.get(name, family.other))  # type: ignore[arg-type]
    for value in outside(option.hint)
]


@pytest.mark.parametrize(("family", "name"), COMPONENTS, ids=lambda each: getattr(each, "word", each))
def test_every_component_can_be_named_with_its_defaults_and_says_what_its_options_mean(family: Family, name: str):
    recipe = parse_recipe(content(family, name))
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
    assert all(option.meaning for option in options_of(family.table[name]))


@pytest.mark.parametrize(
    ("family", "name", "option", "value"),
    RANGED,
    ids=[f"{family.word}-{name}-{option.name}={value}" for family, name, option, value in RANGED],
)
def test_a_number_outside_its_range_is_refused_when_the_recipe_is_read(
    family: Family, name: str, option: Option, value: float
):
    with pytest.raises(RecipeError, match=rf"{PLACES[family.word]}\.{option.name} is "):
        parse_recipe(content(family, name, **{option.name: value}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"image": {"size": 16}}, "model.image.size is 16; it must be at least 32"),
        (
            {"image": {"tower": "small-vit", "train": "all", "size": 60}},
            "model.image: .* size 60 is not a multiple",
        ),
        ({"image": {"tower": "small-vit"}}, "model.image: the tower 'small-vit' starts from random weights, so it has"),
        ({"image": {"tower": "small-vti"}}, "model.image.tower is 'small-vti'; did you mean 'small-vit'"),
        ({"image": {"options": {"size": 64}}}, "model.image.options: unknown key 'size'; did you mean 'resize'"),
        ({"image": {"options": {"rezise": "pad"}}}, "model.image.options: unknown key 'rezise'; did you mean 'resize'"),
        ({"image": {"options": {"resize": "zoom"}}}, "model.image.options.resize is 'zoom'; it must be one of stretch"),
        ({"image": {"tower": "features", "options": {"a": 1}}}, "model.image.options: .* 'features' has no options"),
        ({"video": {"tower": "frame"}}, "model.video.tower is 'frame'; did you mean 'frames'"),
        ({"video": {"size": 16}}, "model.video.size is 16; it must be at least 32"),
        ({"video": {"options": {"image": "small-vti"}}}, "model.video.options.image is 'small-vti'; did you mean"),
        ({"video": {"options": {"image_options": {"size": 3}}}}, "options.image_options: unknown key 'size'"),
        (
            {"video": {"options": {"image": "small-vit", "image_options": {"depth": 0}}}},
            "model.video.options.image_options.depth is 0; it must be at least 1",
        ),
        (
            {"video": {"options": {"image": "small-vit", "image_frozen": True}}},
            "model.video: .*its image tower 'small-vit' starts from random weights.*set image_frozen to false",
        ),
        ({"video": {"tower": "space-time-vit", "train": "all", "size": 60}}, "size 60 is not a multiple of patch 16"),
        (
            {"text": {"tower": "clip-text", "train": "all", "options": {"heads": 5}}},
            "512 is not a multiple of heads",
        ),
        ({"text": {"tower": "mini-lm"}}, "model.text.tower is 'mini-lm'; did you mean 'minilm'"),
    ],
)
def test_a_tower_that_cannot_be_is_refused_when_the_recipe_is_read(model: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"model": model, "train": {"epochs": 1}})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective.temperature={rule: learned, start: 2}", "objective.temperature: Learned: needs 0 < low <= start"),
        ("objective.temperature={rule: macl, alpha: 4}", "objective.temperature: MACL: with alpha 4"),
        ("objective.temperature={rule: temo, tau_alpha: -1}", "objective.temperature: TeMo: tau_min"),
        ("objective.temperature={rule: shifted, alpha: 0.2}", "objective.temperature: Shifted: .*lower alpha or raise"),
        ("objective={loss: isogclr, start: 1}", "objective: ISogCLR: start is 1"),
        ("objective={loss: isogclr, low: 0.1, start: 0.2}", "objective: ISogCLR: low is 0.1 and high 0.05"),
        ("objective={loss: tempnet, low: 0.1}", "objective: TempNet: low is 0.1 and high 0.05"),
        ("objective={loss: sogclr, gamma: 2}", "objective: gamma is .*2.*; it must lie in"),
        ("objective={loss: sogclr, temperature: {rule: learned}}", "objective: SogCLR: temperature is Learned"),
        (
            "objective.temperature={rule: scheduled, schedule: {kind: join, boundaries: [0.5], "
            "schedules: [1, {kind: cosine, low: 2, high: 1}]}}",
            r"objective.temperature.schedule.schedules\[1\]: Cosine: low 2 is greater than high 1",
        ),
        ("objective={loss: max_margin, margin: {rule: shifted, alpha: 1}}", "objective.margin: Shifted"),
        ("objective.loss=" + 3000 * "a", "objective.loss is 'aaa"),  # longer than a file name can be
        ("objective.temperature={rule: fixd}", "objective.temperature.rule is 'fixd'; did you mean 'fixed'"),
        ("objective.temperature={rul: fixed}", "objective.temperature: unknown key 'rul'; did you mean 'rule'"),
        ("objective.temperature={rule: learned, strat: 1}", "objective.temperature: unknown key 'strat'; did you mean"),
    ],
)
def test_an_impossible_combination_is_refused_when_the_recipe_is_read(setting: str, message: str):
    with pytest.raises(RecipeError, match=message):
        load_recipe("catalogue", [setting])


@pytest.mark.parametrize("depth", [60, 300])
def test_a_recipe_nested_too_deeply_is_refused(depth: int, tmp_path: Path):
    lists = "[" * depth + "]" * depth
    warmups = "{kind: warmup, fraction: 0.1, schedule: " * depth + "0.1" + "}" * depth
    for objective in (lists, f"{{temperature: {{rule: scheduled, schedule: {warmups}}}}}"):
        (tmp_path / "deep.yaml").write_text(f"objective: {objective}\ntrain: {{epochs: 1}}\n")
        with pytest.raises(RecipeError, match=r"deep\.yaml.* nested too deeply"):
            load_recipe(tmp_path / "deep.yaml")
    endless = "train.epochs={a: &x {b: *x}}"
    with pytest.raises(RecipeError, match=r"--set train\.epochs: the recipe is nested too deeply"):
        load_recipe("catalogue", [endless, endless])
    content: Any = 0.1
    for _ in range(depth):
        content = {"kind": "warmup", "fraction": 0.1, "schedule": content}
    with pytest.raises(RecipeError, match="recipe: the recipe is nested too deeply"):
        parse_recipe({"objective": {"temperature": {"rule": "scheduled", "schedule": content}}, "train": {"epochs": 1}})


def test_a_recipe_that_aliases_make_huge_is_refused(tmp_path: Path):
    lines = ["a0: &a0 {kind: constant, value: 0.1}"]
    lines += [
        f"a{n}: &a{n} {{kind: join, boundaries: [0.3, 0.6], schedules: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}"
        for n in range(1, 20)
    ]
    lines += ["objective: {temperature: {rule: scheduled, schedule: *a19}}", "train: {epochs: 1}"]
    (tmp_path / "huge.yaml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=r"huge\.yaml: the recipe holds more values than the 10,000"):
        load_recipe(tmp_path / "huge.yaml")


def test_reading_a_recipe_draws_no_random_numbers():
    before = torch.get_rng_state()
    load_recipe("catalogue", ["objective={loss: tempnet}"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_policy_inside_the_package_is_a_class_and_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch):
    class Halved(Policy):
        """Half of a number (docs/method.md, 3.9).

        value: the number.
        """

        def __init__(self, value: float = 0.2) -> None:
            super().__init__()
            self.value = value

        def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
            return torch.tensor(self.value / 2)

    monkeypatch.setitem(POLICIES, "halved", Halved)  # type: ignore[arg-type]
    recipe = load_recipe("catalogue", ["objective.temperature={rule: halved, value: 0.5}"])
    assert rule_in_words(recipe) == "temperature by Halved: half of a number"
    assert "Half of a number" in CliRunner().invoke(app, ["recipes", "--policies"]).output


# --- components of somebody's own ------------------------------------------------------------------------------------

CODE = '''
from typing import Annotated
import torch
from mmts.losses import info_nce
from mmts.objectives import Objective, ObjectiveOutput, policy_values
from mmts.options import Positive, RecipeDefault
from mmts.policies import Policy


class Cooling(Policy):
    """From `start` down to `end` (nobody's paper).

    start: where it starts.
    end: where it ends.
    """

    def __init__(self, start: Positive = 0.2, end: Positive = 0.05) -> None:
        super().__init__()
        self.start, self.end = start, end

    def forward(self, progress, index, similarity=None):
        return torch.tensor(self.start + (self.end - self.start) * progress)


class Doubled(Objective):
    """InfoNCE, twice."""

    def __init__(self, num_captions: int, temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})]) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("seen", torch.zeros(num_captions))

    def compute(self, x, y, pairs):
        self.seen[pairs.index] += 1
        temperature = policy_values(self.temperature, x, y, pairs)
        loss = 2 * info_nce(x, y, temperature, positives=pairs.positives)
        return ObjectiveOutput(loss, {"temperature": temperature})


class Sawtooth:
    """Down `teeth` times from `high` to half of it.

    high: the highest value.
    teeth: how many there are.
    """

    def __init__(self, high: Positive = 0.1, teeth: int = 2) -> None:
        self.high, self.teeth = high, teeth
        self.minimum, self.maximum = high / 2, high

    def __call__(self, progress):
        return self.high * (1 - (self.teeth * progress % 1) / 2)
'''
RECIPE = """
objective:
  loss: my_rules.py:Doubled
  temperature: {rule: my_rules.py:Cooling, start: 0.3}
concepts: {encoder: tfidf}
train: {epochs: 2, batch_size: 16}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    draw_shapes(folder / "data")
    (folder / "my_rules.py").write_text(CODE)
    (folder / "my.yaml").write_text(RECIPE)
    return folder


TOWERS_CODE = '''
import torch
from mmts.data.media.video import FrameSampling
from mmts.models import ImageTower, TextTower, VideoTower, Vocabulary
from mmts.options import AtLeastOne


class Grid(ImageTower):
    """The colors of a grid of cells, mixed.

    cells: cells per side.
    """

    from_scratch = True

    def __init__(self, size: int = 32, cells: AtLeastOne = 4) -> None:
        super().__init__(size)
        self.pool = torch.nn.AdaptiveAvgPool2d(cells)
        self.mix = torch.nn.Linear(3 * cells * cells, 16)
        self.width = 16

    def features(self, pixels):
        return self.mix(self.pool(pixels).flatten(1))


class First(VideoTower):
    """The first frame's colors."""

    from_scratch = True

    def __init__(self, size: int = 16, frames: int = 2) -> None:
        super().__init__(size, FrameSampling(frames), [0.5] * 3, [0.5] * 3)
        self.mix = torch.nn.Linear(3, 8)
        self.width = 8

    def features(self, pixels):
        return self.mix(pixels[:, 0].mean((2, 3)))


class Bag(TextTower):
    """The sum of the words' vectors.

    width: of the vectors.
    """

    from_scratch = True

    def __init__(self, vocabulary: Vocabulary, width: AtLeastOne = 16) -> None:
        super().__init__()
        self.numbers = {word: at + 1 for at, word in enumerate(vocabulary.words)}
        self.words = torch.nn.EmbeddingBag(len(vocabulary), width, padding_idx=0)
        self.width = width

    def tokenize(self, captions):
        rows = [torch.tensor([self.numbers.get(word, 0) for word in each.split()] or [0]) for each in captions]
        return {"input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)}

    def forward(self, tokens):
        return self.words(tokens["input_ids"])
'''
TOWERS_RECIPE = """
model:
  image: {tower: my_towers.py:Grid, train: all, options: {cells: 2}}
  text: {tower: my_towers.py:Bag, train: all}
  width: 8
concepts: {encoder: tfidf}
train: {epochs: 2, batch_size: 16}
"""


@pytest.fixture(scope="module")
def towers(folder: Path) -> Path:
    (folder / "my_towers.py").write_text(TOWERS_CODE)
    (folder / "towers.yaml").write_text(TOWERS_RECIPE)
    return folder


def test_towers_of_ones_own_train_go_on_and_are_evaluated(towers: Path):
    run = towers / "towers"
    command = ["train", str(towers / "towers.yaml"), "--data", str(towers / "data"), "--quiet", "--out", str(run)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.exception
    assert RunDirectory(run).vocabulary_file.exists()
    assert "cells: 2" in (run / "recipe.yaml").read_text()
    assert CliRunner().invoke(app, [*command, "--resume"]).exit_code == 0
    before = json.loads((run / "metrics.json").read_text())
    result = CliRunner().invoke(app, ["evaluate", str(run), "--trust-code", "--quiet"])
    assert result.exit_code == 0, result.exception
    assert json.loads((run / "metrics.json").read_text()) == before
    command = ["export", str(run), "--to", "sentence-transformers", "--trust-code"]
    assert "a tower from outside mmts, Grid: give --to onnx" in str(CliRunner().invoke(app, command).exception)
    with pytest.raises(MmtsError, match=rf"model.image.tower names code outside mmts, {towers}/my_towers.py:Grid"):
        evaluate(run)


def test_clips_go_through_towers_of_ones_own(towers: Path):
    for tower in ("{tower: my_towers.py:First, train: all}", "{train: all, options: {image: my_towers.py:Grid}}"):
        whole = tower.replace("my_towers.py", f"{towers}/my_towers.py")
        section = load_recipe(towers / "towers.yaml", [f"model.video={whole}", "model.image=null"]).model
        built = section.video.build()  # type: ignore[union-attr]
        clips = torch.rand(2, built.frames, 3, built.size, built.size)
        assert built(clips).shape == (2, built.width)
    assert built.image.name == "Grid"
    assert f"{towers}/my_towers.py:Grid" in section.tower_names


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.image.options.cells=0", r"model\.image\.options\.cells is 0; it must be at least 1"),
        ("model.image.options={celsl: 3}", r"model\.image\.options: unknown key 'celsl'; did you mean 'cells'"),
        ("model.image.train=head", "my_towers.py:Grid' starts from random weights"),
        ("model.image.tower={folder}/my_towers.py:Bag", "Bag is not a valid image tower; it must be a"),
        ("model.text.tower={folder}/my_towers.py:Bags", "has no class 'Bags'; did you mean 'Bag'"),
    ],
)
def test_what_is_wrong_with_a_tower_of_ones_own_is_named(towers: Path, setting: str, message: str):
    with pytest.raises(RecipeError, match=message):
        load_recipe(towers / "towers.yaml", [setting.replace("{folder}", str(towers))])


def test_the_fingerprint_of_a_tower_of_ones_own_follows_its_code(tmp_path: Path):
    fingerprints = []
    for at, code in enumerate((TOWERS_CODE, TOWERS_CODE, TOWERS_CODE + "# changed")):
        file = tmp_path / str(at) / "my_towers.py"
        file.parent.mkdir()
        file.write_text(code)
        section = load_recipe("catalogue", [f"model.image={{tower: '{file}:Grid', train: all}}"]).model.media
        torch.manual_seed(0)
        fingerprints.append(section.build().fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def recipe_of(folder: Path, *settings: str) -> Recipe:
    return tiny(load_recipe(folder / "my.yaml", [*settings]), ["train.steps=4"]).with_data(folder / "data")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    train(recipe_of(folder), folder / "run")
    return folder / "run"


def test_a_users_policy_and_objective_train_and_resume(folder: Path, run: Path):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["temperature"]["mean"] for line in lines] == pytest.approx([0.3, 0.2375, 0.175, 0.1125])
    assert train(recipe_of(folder), run, resume=True)["split"] == "test"
    settings = ["objective={loss: info_nce, temperature: {rule: scheduled, schedule: {kind: my_rules.py:Sawtooth}}}"]
    with pytest.raises(RecipeError, match=r"objective.temperature.schedule.kind: .*my_rules.py cannot be imported"):
        recipe_of(folder, *settings)  # with --set a file is named from where one is
    whole = settings[0].replace("my_rules.py", str(folder / "my_rules.py"))
    train(recipe_of(folder, whole), folder / "scheduled")


def test_code_that_a_run_directory_names_needs_trust(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    named = rf"recipe.yaml: objective.loss names code outside mmts, {folder}/my_rules.py:Doubled.*--trust-code"
    for way in (
        lambda: evaluate(run),
        lambda: read_results([run]),
        lambda: write_report([run], tmp_path / "report.html"),
        lambda: RunDirectory(run).recipe(),
    ):
        with pytest.raises(MmtsError, match=named):
            way()
    with trusting_code():
        assert evaluate(run)["split"] == "test"
        write_report([run], tmp_path / "report.html")
    assert "temperature by Cooling: from `start` down to `end`" in (tmp_path / "report.html").read_text()
    for command in (["evaluate", run], ["compare", run], ["index", run, folder / "data"], ["search", run, "a"]):
        result = CliRunner().invoke(app, [*map(str, command)])
        assert "--trust-code" in str(result.exception), command
    result = CliRunner().invoke(app, ["evaluate", str(run), "--trust-code", "--quiet"])
    assert result.exit_code == 0, result.exception
    with pytest.raises(MmtsError, match=named):  # trust ends with the command
        evaluate(run)


@pytest.mark.slow
def test_a_sweep_runs_a_users_rules_in_several_processes(folder: Path, tmp_path: Path):
    rule = f"{{set: {{objective.temperature: {{rule: '{folder}/my_rules.py:Cooling'}}}}}}"
    lines = [
        "recipe: from-scratch",
        "set: {train.epochs: 1, concepts.encoder: tfidf, train.batch_size: 16}",
        "trials: 1",
    ]
    lines += ["seeds: {tune: [0], test: [1, 2]}", "variants:", "  fixed: {}", f"  cooling: {rule}"]
    (tmp_path / "sweep.yaml").write_text("\n".join(lines))
    board = run_sweep(tmp_path / "sweep.yaml", folder / "data", tmp_path / "out", processes=2)
    assert "cooling" in board.read_text()


def test_the_command_line_lists_the_components_of_a_file(towers: Path, monkeypatch: pytest.MonkeyPatch):
    folder = towers
    result = CliRunner().invoke(app, ["recipes", "--policies", str(folder / "my_towers.py"), "--json"])
    listed = json.loads(result.output)
    assert listed["image towers"] == {f"{folder}/my_towers.py:Grid": "The colors of a grid of cells, mixed."}
    monkeypatch.setattr("mmts.console.console._width", 300)  # a narrow terminal breaks long words, such as the path
    result = CliRunner().invoke(app, ["recipes", "--policies", str(folder / "my_rules.py")])
    assert result.exit_code == 0
    output = " ".join(result.output.split())
    for name, about in (("Cooling", "From `start` down"), ("Doubled", "InfoNCE, twice"), ("Sawtooth", "Down `teeth`")):
        assert f"{folder}/my_rules.py:{name}" in output
        assert about.split()[0] in output


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_rules.py:Coolng", "has no class 'Coolng'; did you mean 'Cooling'"),
        ("my_rules.py:Doubled", "is not a valid policy; it must be a subclass of mmts's Policy"),
        ("other.py:Cooling", "other.py cannot be imported: FileNotFoundError"),
        ("no_such_module:Cooling", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("my_rules.py:", "a class outside mmts is written file.py:Class or module:Class"),
    ],
)
def test_a_missing_class_is_named_with_the_nearest(folder: Path, name: str, message: str):
    (folder / "wrong.yaml").write_text(f"objective: {{temperature: {{rule: '{name}'}}}}\ntrain: {{epochs: 1}}\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(folder / "wrong.yaml")


@pytest.mark.parametrize(
    ("signature", "body", "message"),
    [
        ("self, table: torch.Tensor", "", "parameters of Odd cannot be options of a recipe"),
        ("self, value: 'NoSuchType' = 1", "", "parameters of Odd cannot be options of a recipe .NameError"),
        ("self", "raise ValueError('not today')", "objective.temperature: Odd cannot be made: ValueError: not today"),
    ],
)
def test_an_error_in_a_users_class_is_one_line(signature: str, body: str, message: str, tmp_path: Path):
    code = f"import torch\nfrom mmts.policies import Policy\nclass Odd(Policy):\n    def __init__({signature}):\n"
    (tmp_path / "odd.py").write_text(f"{code}        super().__init__(){'; ' if body else ''}{body}\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe("catalogue", [f"objective.temperature.rule={tmp_path}/odd.py:Odd"])


def test_an_option_of_a_users_class_is_checked_like_any_other(folder: Path):
    with pytest.raises(RecipeError, match=r"objective\.temperature\.start is -1; it must be greater than 0"):
        load_recipe(folder / "my.yaml", ["objective.temperature.start=-1"])
    with pytest.raises(RecipeError, match=r"objective\.temperature: unknown key 'ende'; did you mean 'end'"):
        load_recipe(folder / "my.yaml", ["objective.temperature.ende=1"])
