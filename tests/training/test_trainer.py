"""The trainer: it learns, follows its schedules, and a run that was stopped goes on as if it had not been."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from small_trainer import N, make_trainer, settings, weights
from torch import nn

from mmts.errors import Interrupted, RunError
from mmts.objectives import InfoNCE, MaxMargin
from mmts.policies import Fixed, Learned, Shifted
from mmts.recipe.run_directory import RunDirectory
from mmts.schedules import Cosine
from mmts.training.checkpoint import load_checkpoint
from mmts.training.optimizer import learning_rate_schedule, parameter_groups


def test_training_lowers_the_loss_and_logs_every_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, settings(epochs=20))
    trainer.fit()
    lines = list(RunDirectory(tmp_path).log_lines())
    assert [line["step"] for line in lines] == list(range(80))
    assert [line["progress"] for line in lines] == [step / 80 for step in range(80)]
    assert sum(line["loss"] for line in lines[-8:]) < 0.5 * sum(line["loss"] for line in lines[:8])
    assert lines[0]["temperature"] == {"min": pytest.approx(0.1), "mean": pytest.approx(0.1), "max": pytest.approx(0.1)}
    assert [("val" in line) for line in lines[:8]] == [False, False, False, True] * 2


def test_the_logged_values_are_those_of_the_rule(tmp_path: Path) -> None:
    swing, shift = Cosine(-0.04, 0.04, 5), torch.linspace(0.05, 0.2, N)
    make_trainer(tmp_path, objective=InfoNCE(Shifted(swing, shift))).fit()
    for line in RunDirectory(tmp_path).log_lines():
        assert line["temperature"]["min"] >= 0.05 + swing(line["progress"]) - 1e-6
        assert line["temperature"]["max"] <= 0.2 + swing(line["progress"]) + 1e-6
        groups = line["groups"]
        assert set(groups) == {"head", "mid", "tail"}
        assert groups["head"]["weight"] > 0


def test_margins_are_logged_as_margins(tmp_path: Path) -> None:
    make_trainer(tmp_path, objective=MaxMargin(Fixed(0.2))).fit()
    assert next(RunDirectory(tmp_path).log_lines())["margin"]["mean"] == pytest.approx(0.2)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(tmp_path: Path) -> None:
    train = settings(warmup=0.25, warmup_learning_rate=2e-3, final_learning_rate=1e-3)
    make_trainer(tmp_path, train).fit()
    rates = [line["lr"] for line in RunDirectory(tmp_path).log_lines()]
    assert rates[0] == 2e-3
    assert rates[2] == pytest.approx((2e-3 + 1e-2) / 2)
    assert rates[4] == pytest.approx(1e-2)
    assert rates[10] == pytest.approx((1e-2 + 1e-3) / 2)
    assert learning_rate_schedule(train)(1.0) == pytest.approx(1e-3)


def test_only_matrices_decay() -> None:
    groups = parameter_groups([nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), Learned()], 0.1)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 1), (0.0, 4)]


def test_a_learned_temperature_learns_and_stays_in_its_bounds(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, settings(learning_rate=0.5), InfoNCE(Learned(0.07, low=0.05, high=0.08)))
    trainer.fit()
    values = [line["temperature"]["mean"] for line in RunDirectory(tmp_path).log_lines()]
    assert values[0] == pytest.approx(0.07)
    assert len(set(values)) > 1
    assert all(0.05 - 1e-6 <= value <= 0.08 + 1e-6 for value in values)


@pytest.mark.parametrize("stop_at", [0, 3, 4, 10, 15])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_to_the_same_end(tmp_path: Path, stop_at: int, number: int) -> None:
    whole = make_trainer(tmp_path / "whole", objective=InfoNCE(Learned()))
    whole.fit()

    def stop(step: int) -> None:
        if step == stop_at:
            os.kill(os.getpid(), number)

    stopped = make_trainer(tmp_path / "stopped", objective=InfoNCE(Learned()), before_batch=stop)
    with pytest.raises(Interrupted, match=f"step {stop_at + 1} of 16; --resume continues") as raised:
        stopped.fit()
    assert raised.value.signal_number == number
    resumed = make_trainer(tmp_path / "stopped", objective=InfoNCE(Learned()))
    resumed.fit(resume=True)

    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name])
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "stopped")]
    assert logs[0] == logs[1]
    best = [load_checkpoint(tmp_path / run / "checkpoints" / "best.pt") for run in ("whole", "stopped")]
    assert best[0]["step"] == best[1]["step"]


def test_a_crash_between_checkpoints_loses_only_what_came_after_the_last(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole.fit()

    def crash(step: int) -> None:
        if step == 6:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        make_trainer(tmp_path / "crashed", before_batch=crash).fit()
    with (tmp_path / "crashed" / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "progre')  # a line cut short
    resumed = make_trainer(tmp_path / "crashed")
    resumed.fit(resume=True)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "crashed" / "log.jsonl").read_text()


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.model.text_head.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match=r"step 0: y\[0\] has a NaN .* no checkpoint was written yet"):
        trainer.fit()


def test_bf16_trains_on_the_cpu(tmp_path: Path) -> None:
    make_trainer(tmp_path, settings(precision="bf16", epochs=20)).fit()
    lines = list(RunDirectory(tmp_path).log_lines())
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path, settings(trackers=("tensorboard",), epochs=1)).fit()
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.*")).parent))
    events.Reload()
    logged = [event.value for event in events.Scalars("loss")]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == pytest.approx([line["loss"] for line in lines])


def test_gradients_are_clipped_only_if_the_settings_say_so(tmp_path: Path) -> None:
    norms = []
    for clip_norm in (None, 1e-3):
        torch.manual_seed(0)
        trainer = make_trainer(tmp_path / str(clip_norm), settings(clip_norm=clip_norm))
        trainer._train_step(next(iter(trainer.batches(0, 0))))
        gradients = [value.grad for value in trainer.trainable if value.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
    assert norms[0] > norms[1] == pytest.approx(1e-3, rel=1e-2)
