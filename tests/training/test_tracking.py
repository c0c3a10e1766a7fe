"""What trackers are told: the recipe, every logged number, and how the temperatures of all samples lie."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.tracking
import numpy as np
import pytest
import torch
from accelerate.utils import LoggerType
from small_trainer import N, make_trainer, settings
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmts.errors import RunError
from mmts.objectives import InfoNCE, ISogCLR, MaxMargin, Objective
from mmts.policies import MACL, Fixed, Shifted
from mmts.recipe.run_directory import RunDirectory
from mmts.schedules import Cosine
from mmts.training.tracking import track, track_histograms

SHIFT = torch.linspace(0.05, 0.2, N)


def shifted() -> Shifted:
    return Shifted(Cosine(-0.04, 0.04, 5), SHIFT)


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"histograms": 0})
    return events.Reload()


class Wandb(SimpleNamespace):
    """As much of Weights & Biases as accelerate and we ask for; keeps what it is told."""

    def __init__(self) -> None:
        self.opened: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self.config = SimpleNamespace(update=lambda values, allow_val_change: self.settings.update(values))
        self.Histogram = lambda rows: ("histogram", len(rows), float(np.min(rows)), float(np.max(rows)))

    def init(self, **options: Any) -> "Wandb":
        self.opened = options
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [LoggerType.TENSORBOARD, LoggerType.WANDB])
    return fake


@pytest.mark.parametrize(
    ("objective", "name"), [(InfoNCE(shifted()), "temperature"), (MaxMargin(shifted()), "margin")], ids=str
)
def test_tensorboard_gets_the_values_of_all_samples_at_every_validation(
    tmp_path: Path, objective: Objective, name: str
) -> None:
    make_trainer(tmp_path, settings(trackers=("tensorboard",), epochs=4, evaluate_every=2), objective).fit()
    histograms = events_of(tmp_path).Histograms(f"{name}/samples")
    validated = [line for line in RunDirectory(tmp_path).log_lines() if "val" in line]
    assert [each.step for each in histograms] == [line["step"] for line in validated] == [7, 15]
    for line, each in zip(validated, histograms, strict=True):
        swing = Cosine(-0.04, 0.04, 5)(line["progress"])
        assert each.histogram_value.num == N
        assert each.histogram_value.min == pytest.approx(0.05 + swing, abs=1e-6)
        assert each.histogram_value.max == pytest.approx(0.20 + swing, abs=1e-6)
        assert each.histogram_value.sum == pytest.approx(float(SHIFT.sum()) + N * swing, rel=1e-5)


def test_learned_temperatures_of_both_sides_are_two_histograms(tmp_path: Path) -> None:
    make_trainer(tmp_path, settings(trackers=("tensorboard",), epochs=1), ISogCLR(N, N, rho=1.0)).fit()
    tags = events_of(tmp_path).Tags()["histograms"]
    assert tags == ["temperature_text/samples", "temperature_media/samples"]


@pytest.mark.parametrize("policy", [Fixed(0.1), MACL()], ids=["one for all", "by the batch"])
def test_rules_without_one_value_per_sample_have_no_histogram(tmp_path: Path, policy: Fixed | MACL) -> None:
    make_trainer(tmp_path, settings(trackers=("tensorboard",), epochs=1), InfoNCE(policy)).fit()
    assert events_of(tmp_path).Tags()["histograms"] == []


def test_tensorboard_shows_the_recipe(tmp_path: Path) -> None:
    recipe = {"train.epochs": 1, "train.trackers": ["tensorboard"]}
    make_trainer(tmp_path, settings(trackers=("tensorboard",), epochs=1), recipe=recipe).fit()
    [text] = events_of(tmp_path).Tensors("recipe/text_summary")
    assert text.tensor_proto.string_val[0] == b'    train.epochs: 1\n    train.trackers: ["tensorboard"]\n'
    assert [each.name for each in (tmp_path / "tensorboard").iterdir() if each.is_dir()] == []


def test_weights_and_biases_by_one_line(tmp_path: Path, wandb: Wandb) -> None:
    train = settings(trackers=("wandb",), epochs=1, project="shoes")
    make_trainer(tmp_path / "mine", train, InfoNCE(shifted()), recipe={"train.epochs": 1}).fit()
    assert wandb.opened == {"project": "shoes", "name": "mine", "dir": str(tmp_path / "mine")}
    assert wandb.settings == {"train.epochs": 1}
    lines = list(RunDirectory(tmp_path / "mine").log_lines())
    losses = [values["loss"] for _, values in wandb.lines if "loss" in values]
    assert losses == [line["loss"] for line in lines]
    step, last = wandb.lines[-1]
    kind, count, low, high = last["temperature/samples"]
    assert (step, kind, count) == (3, "histogram", N)
    assert (low, high) == pytest.approx((lines[-1]["temperature"]["min"], lines[-1]["temperature"]["max"]), abs=0.02)
    assert wandb.finished == 1


def test_a_run_that_fails_is_closed_in_the_tracker(tmp_path: Path, wandb: Wandb) -> None:
    def crash(step: int) -> None:
        if step == 2:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        make_trainer(tmp_path, settings(trackers=("wandb",)), before_batch=crash).fit()
    assert wandb.finished == 1


def test_a_tracker_that_cannot_start_says_why(tmp_path: Path, wandb: Wandb) -> None:
    def refuse(**_: Any) -> None:
        raise ValueError("no API key;\n  run wandb login")

    wandb.init = refuse  # type: ignore[assignment]
    with pytest.raises(RunError, match=r"train\.trackers: a tracker could not start: no API key; run wandb login; set"):
        make_trainer(tmp_path, settings(trackers=("wandb",))).fit()


def test_a_missing_package_is_named_as_pip_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comet_ml").mkdir()  # what a tracker writes there is no package, though Python would import it
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(RunError, match="the package comet-ml is not installed: pip install comet-ml, or leave it out"):
        make_trainer(tmp_path / "run", settings(trackers=("comet_ml",)))


def test_names_that_mlflow_refuses_are_changed_for_it_alone() -> None:
    told: dict[str, dict[str, float]] = {}
    trackers = [
        SimpleNamespace(name=name, log=lambda values, step, name=name: told.update({name: values}))
        for name in ("mlflow", "aim")
    ]
    track(trackers, {"val/text_to_image/R@1": 50.0}, 3)
    assert told == {"mlflow": {"val/text_to_image/R_at_1": 50.0}, "aim": {"val/text_to_image/R@1": 50.0}}


def test_histograms_use_at_most_a_million_samples() -> None:
    asked: list[torch.Tensor] = []
    objective: Any = SimpleNamespace(values=lambda progress, index: asked.append(index) or {})
    track_histograms([], objective, 0.0, 2_500_000, torch.device("cpu"), 0)
    (index,) = asked
    assert len(index) <= 1_000_000
    assert int(index[-1]) > 2_490_000
