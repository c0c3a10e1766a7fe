"""Every loss and every rule can be had from a recipe, trains, and goes on after a stop as if there had been none."""

import json
from pathlib import Path

import pytest
import torch
from tests_support import draw_shapes

from mmts.errors import MmtsError, RecipeError
from mmts.examples import draw_example
from mmts.recipe.recipe import Recipe, load_recipe
from mmts.recipe.tiny import tiny
from mmts.training.checkpoint import load_checkpoint
from mmts.training.optimizer import parameter_groups
from mmts.training.run import train
from mmts.training.trainer import Trainer

LOSSES = [
    "reweighted_info_nce",
    "dual_temperature",
    "no_temperature",
    "hard_negative_info_nce",
    "rince",
    "cyclip",
    "temo",
    "siglip",
    "sogclr",
    "isogclr",
    "fastclip",
    "tempnet",
    "nuclr",
]
RULES = [
    "{rule: macl}",
    "{rule: dystress}",
    "{rule: temo}",
    "{rule: scheduled, schedule: {kind: step, values: [0.1, 0.05], boundaries: [0.5]}}",
    "{rule: shifted, low: 0.2, high: 0.05}",
    "{rule: shifted, neighbours: 2}",
]
COMPOSITIONS = [
    "{loss: decoupled_info_nce, temperature: {rule: shifted}}",
    "{loss: multi_positive_info_nce, anchor: media}",
    "{loss: max_margin, margin: {rule: shifted, scale: rank}}",
    "{loss: sogclr, temperature: {rule: shifted, scale: log}, gamma: 0.9}",
    "{loss: dual_temperature, temperature: {rule: shifted}, ratio: 5}",
    "{loss: hard_negative_info_nce, beta: 1, alpha: 0.5, tau_plus: 0.1, temperature: {rule: dystress}}",
    "{loss: rince, q: 0.6, temperature: {rule: learned}, scale_by_temperature: true}",
    "{loss: cyclip, prior: {strength: 0.5}, margin: 0.1, weights: {}}",
    "{prior: {strength: 0.5, candidates: text, of: negatives}, temperature: {rule: learned}}",
    "{loss: decoupled_info_nce, margin: {rule: ldam}, weights: {by: shape, start: 0.5}}",
    "{loss: max_margin, margin: {rule: ldam, high: 0.3}}",
    "{margin: 0.1, temperature: {rule: shifted, scale: power, exponent: 0.5}}",
    "{loss: sogclr, prior: {by: shape, strength: 0.5}}",
    "{loss: sogclr, gamma: {kind: cosine, low: 0.2, high: 1.0, cycles: 0.5}}",
    "{loss: nuclr, temperature: {rule: shifted}, eta: 1.0e-3}",
    "{loss: isogclr, rho: 4, high: {kind: linear, start: 0.1, end: 0.05}}",
]


def shapes_recipe(folder: Path, *settings: str) -> Recipe:
    data = folder / "data"
    if not data.exists():
        draw_shapes(data)
    overrides = ["train.steps=4", *settings]
    return tiny(load_recipe("from-scratch", overrides), overrides).with_data(data)


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "setting",
    [
        *(f"objective={{loss: {loss}}}" for loss in LOSSES),
        *(f"objective.temperature={rule}" for rule in RULES),
        *(f"objective={composition}" for composition in COMPOSITIONS),
    ],
)
def test_a_recipe_line_trains(setting: str, tmp_path: Path) -> None:
    metrics = train(shapes_recipe(tmp_path, setting), tmp_path / "run")
    assert metrics["split"] == "test"
    assert len(losses(tmp_path / "run")) == 4


@pytest.mark.parametrize("objective", ["{loss: sms}", "{loss: max_margin, relevance_scaled: true}"])
def test_losses_on_relevance_train_only_on_data_that_have_it(objective: str, tmp_path: Path) -> None:
    data = draw_example("ek100", tmp_path / "data", features=True)
    overrides = [f"objective={objective}", "train.steps=2"]
    train(tiny(load_recipe("ek100-features", overrides), overrides).with_data(data), tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 2
    with pytest.raises(MmtsError, match="relevance"):
        train(shapes_recipe(tmp_path / "other", f"objective={objective}"), tmp_path / "other" / "run")


RELEASED_TEMPNET = "tempnet, num_prototypes: 8, prototypes: first_batch, rate_decay: 0.5, learning_rate: 0.01"


@pytest.mark.parametrize("loss", ["isogclr", "fastclip", "tempnet", RELEASED_TEMPNET, "nuclr, eta: 0.001"])
def test_memory_survives_a_stop(loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Half of the media a step: two steps an epoch, and a checkpoint at its end.
    settings = [f"objective={{loss: {loss}}}", "train.batch_size=14", "train.steps=6", "data.max_media=28"]
    recipe = shapes_recipe(tmp_path, *settings)
    train(recipe, tmp_path / "whole")
    step = Trainer._train_step

    def stops(self: Trainer, batch: object) -> object:
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", stops)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped")
    train(recipe, tmp_path / "stopped", resume=True)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    states = [load_checkpoint(tmp_path / run / "checkpoints" / "last.pt")["objective"] for run in ("whole", "stopped")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_own_learning_rates_are_kept_and_do_not_decay() -> None:
    model = torch.nn.Linear(2, 2)
    objective = torch.nn.Module()
    objective.temperature = torch.nn.Parameter(torch.ones(3, 3))
    objective.other = torch.nn.Parameter(torch.ones(3, 3))
    matrices, rest, own = parameter_groups([model, objective], 0.1, {"temperature": 2e-4})
    assert (len(matrices["params"]), len(rest["params"]), len(own["params"])) == (2, 1, 1)
    assert own["params"][0] is objective.temperature
    assert (own["own_rate"], own["weight_decay"]) == (2e-4, 0.0)


def test_tempnets_learning_rate_decays_by_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [f"objective={{loss: {RELEASED_TEMPNET}}}", "train.batch_size=14", "train.steps=6", "data.max_media=28"]
    rates: list[float] = []
    step = Trainer._train_step

    def noting(self: Trainer, batch: object) -> object:
        line = step(self, batch)  # type: ignore[arg-type]
        rates.append(self.optimizer.param_groups[-1]["lr"])
        return line

    monkeypatch.setattr(Trainer, "_train_step", noting)
    train(shapes_recipe(tmp_path, *settings), tmp_path / "run")
    assert rates == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025]


def test_sogclr_refuses_rules_that_learn() -> None:
    with pytest.raises(RecipeError, match="SogCLR: temperature is Learned, whose log_value would never move"):
        load_recipe("from-scratch", ["objective={loss: sogclr, temperature: {rule: learned}}"])
