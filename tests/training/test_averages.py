"""Averages of weights: the moving average that is judged in place of the weights, and mixtures with the start."""

from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from distributed.together import together
from small_trainer import make_trainer, settings, weights
from torch import Tensor, nn

from mmts.distributed.processes import joined
from mmts.errors import RecipeError
from mmts.models import TwoTower
from mmts.recipe.recipe import load_recipe
from mmts.training.averages import MovingAverage, ema_decay, interpolated
from mmts.training.checkpoint import load_checkpoint
from mmts.training.trainer import Trainer


def saved(run: Path, name: str = "last") -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / f"{name}.pt")


def test_the_average_is_that_of_the_formula(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, settings(ema=0.6, epochs=2))
    history = [weights(trainer)]
    update = trainer.average.update

    def watched(model: TwoTower, t: int) -> None:
        assert t == len(history) - 1
        history.append(weights(trainer))
        update(model, t)

    trainer.average.update = watched
    trainer.fit()
    assert len(history) == 9
    for name, value in trainer.average.state.items():
        flat = [states[name].double().flatten().tolist() for states in history]
        expected = [reference.moving_average([row[at] for row in flat], 0.6) for at in range(len(flat[0]))]
        assert torch.allclose(value.double().flatten(), torch.tensor(expected).double(), atol=1e-6)
    assert [round(ema_decay(0.6, t), 3) for t in (0, 1, 100)] == [0.1, 0.182, 0.6]


def test_the_averaged_weights_are_judged_and_kept(tmp_path: Path) -> None:
    judged: list[dict[str, Tensor]] = []
    trainer = make_trainer(tmp_path, settings(ema=0.9))
    evaluate = trainer.evaluate

    def watched(model: TwoTower) -> dict[str, Any]:
        judged.append({name: value.clone() for name, value in model.state_dict().items()})
        return evaluate(model)

    trainer.evaluate = watched
    trainer.fit()
    last, best = saved(tmp_path), saved(tmp_path, "best")
    for name, value in weights(trainer).items():
        assert torch.equal(last["model"][name], judged[-1][name])
        assert torch.equal(last["weights"][name], value)
        assert torch.equal(best["model"][name], judged[best["step"] // 4 - 1][name])
    assert not torch.equal(last["model"]["text_head.weight"], last["weights"]["text_head.weight"])


def test_training_takes_the_same_steps_with_an_average(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain")
    plain.fit()
    averaged = make_trainer(tmp_path / "averaged", settings(ema=0.9))
    averaged.fit()
    assert all(torch.equal(value, weights(averaged)[name]) for name, value in weights(plain).items())
    assert "weights" not in saved(tmp_path / "plain")


def skip_one(trainer: Trainer) -> None:
    """Let the gradients of step 3 be NaN, once."""
    compute = trainer.compute_loss

    def broken(*arguments: Any) -> Any:
        output = compute(*arguments)
        return output._replace(loss=output.loss * float("nan")) if trainer.step == 3 else output

    trainer.compute_loss = broken


@pytest.mark.parametrize("more", [{}, {"micro_batch": 3}, {"precision": "bf16"}, {"on_nan": "skip"}], ids=str)
@pytest.mark.parametrize("stop_at", [2, 7])
def test_a_stopped_run_resumes_to_the_same_average(stop_at: int, more: dict[str, Any], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def trainer(run: str, stops: bool = False) -> Trainer:
        def before(step: int) -> None:
            if stops and step == stop_at + 1:
                raise Stop

        made = make_trainer(tmp_path / run, settings(ema=0.9, checkpoint_every=1, **more), before_batch=before)
        if "on_nan" in more:
            skip_one(made)
        return made

    trainer("whole").fit()
    with pytest.raises(Stop):
        trainer("stopped", stops=True).fit()
    trainer("stopped").fit(resume=True)
    for name in ("last", "best"):
        whole, resumed = saved(tmp_path / "whole", name), saved(tmp_path / "stopped", name)
        assert whole["step"] == resumed["step"]
        for part in ("model", *(["weights"] if name == "last" else [])):
            for key, value in whole[part].items():
                assert torch.equal(value, resumed[part][key])


def test_buffers_are_copied_and_small_steps_of_bf16_add_up() -> None:
    model = TwoTower(None, None, nn.Linear(2, 2).to(torch.bfloat16), nn.BatchNorm1d(2))
    average = MovingAverage(model, 0.999)
    with torch.no_grad():
        model.media_head.weight.fill_(1)
        model.text_head.running_mean.fill_(5)
        model.text_head.num_batches_tracked.fill_(7)
    average.state["media_head.weight"].fill_(1.5)
    for _ in range(100):
        average.update(model, 100_000)
    left = 1 + 0.5 * 0.999**100
    assert torch.allclose(average.state["media_head.weight"], torch.full((2, 2), left), atol=1e-4)
    assert average.state["text_head.running_mean"].tolist() == [5, 5]
    assert average.state["text_head.num_batches_tracked"] == 7
    with average.in_place_of_weights(model):
        assert model.media_head.weight[0, 0] > 1.4
    assert model.media_head.weight[0, 0] == 1


def averages(folder: Path) -> list[Tensor]:
    with joined():
        trainer = make_trainer(folder, settings(ema=0.9), dropout=0.0)
        trainer.fit()
    return [*trainer.average.state.values()]


def test_all_processes_hold_the_average_of_one(tmp_path: Path) -> None:
    first, second = together(2, averages, tmp_path / "two")
    for ours, theirs, alone in zip(first, second, averages(tmp_path / "one"), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.allclose(ours, alone, atol=1e-5)


@pytest.mark.parametrize("value", ["0", "1", "1.5", "-.1", "much"])
def test_a_decay_outside_its_range_is_named(value: str) -> None:
    with pytest.raises(RecipeError, match=r"train\.ema"):
        load_recipe("catalogue", [f"train.ema={value}"])


def test_another_ema_cannot_be_resumed(tmp_path: Path) -> None:
    make_trainer(tmp_path, settings(epochs=1)).fit()
    with pytest.raises(Exception, match="does not fit this run: 'weights'"):
        make_trainer(tmp_path, settings(epochs=1, ema=0.9)).fit(resume=True)


# --- mixtures with the start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_weights_and_statistics_are_mixed_as_in_the_formula(share: float) -> None:
    torch.manual_seed(0)
    start, tuned = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    tuned.train()
    tuned(torch.randn(8, 3))
    nn.init.normal_(tuned.weight)
    first, second = start.state_dict(), tuned.state_dict()
    mixed = interpolated(first, second, share)
    assert mixed["num_batches_tracked"] == 1
    for name in ("weight", "bias", "running_mean", "running_var"):
        for at in range(3):
            expected = reference.interpolated(float(first[name][at]), float(second[name][at]), share)
            assert float(mixed[name][at]) == pytest.approx(expected, rel=1e-6)
        if share in (0.0, 1.0):
            assert torch.equal(mixed[name], (first, second)[int(share)][name])


def test_a_lora_that_adds_something_at_the_start_keeps_both_ends() -> None:
    start = {"q.lora_A.default.weight": torch.ones(2), "q.lora_B.default.weight": torch.ones(2)}
    tuned = {name: 3 * value for name, value in start.items()}
    for share, expected in ((0.0, 1), (0.5, 2), (1.0, 3)):
        assert all((value == expected).all() for value in interpolated(start, tuned, share).values())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_b_is_a_share_of_the_whole_change(share: float) -> None:
    torch.manual_seed(0)
    W, A, B = torch.randn(3, 4).double(), torch.randn(2, 4).double(), torch.randn(3, 2).double()
    start = {"q.base_layer.weight": W, "q.lora_A.default.weight": -A, "q.lora_B.default.weight": 0 * B}
    tuned = {"q.base_layer.weight": W, "q.lora_A.default.weight": A, "q.lora_B.default.weight": B}
    mixed = interpolated(start, tuned, share)
    assert torch.equal(mixed["q.lora_A.default.weight"], A)
    layers = [
        reference.lora(*(x.tolist() for x in (W, A, b)), scale=2.0) for b in (mixed["q.lora_B.default.weight"], B)
    ]
    for i in range(3):
        for j in range(4):
            expected = reference.interpolated(float(W[i, j]), layers[1][i][j], share)
            assert layers[0][i][j] == pytest.approx(expected, abs=1e-12)
