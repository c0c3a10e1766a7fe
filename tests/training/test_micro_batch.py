"""Batches in pieces: the whole batch's gradients, with dropout from the same random states, in a piece's memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from test_trainer import make_trainer, settings
from torch import Tensor, nn

from mmts.data.batches.loader import Batch, Tokens
from mmts.errors import RunError
from mmts.models import TwoTower
from mmts.models.image_towers import SmallResNet, SmallViT
from mmts.models.text_towers import SmallTransformer, Vocabulary
from mmts.objectives import InfoNCE, MaxMargin, Objective, ObjectiveOutput
from mmts.policies import Fixed, Learned
from mmts.recipe.run_directory import RunDirectory
from mmts.training.micro_batch import micro_batch_step, pieces, refuse_batch_norm
from mmts.training.trainer import Trainer, enable_gradient_checkpointing

B = 10
WORDS = ("red", "blue", "shoe", "hat", "old", "new")


def small_model(dropout: float = 0.1) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(
        SmallViT(size=16, patch=8, width=8, depth=2, heads=2, dropout=dropout),
        SmallTransformer(Vocabulary(WORDS), width=8, depth=1, heads=2, dropout=dropout),
        nn.Sequential(nn.Linear(8, 8), nn.Dropout(dropout), nn.Linear(8, 6)),
        nn.Linear(8, 6),
    )


def small_batch(model: TwoTower, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    media = torch.rand(B, 3, 16, 16, generator=generator).to(dtype)
    text: Tensor | Tokens = torch.randn(B, 8, generator=generator).to(dtype)
    if model.media_tower is None:
        media = torch.randn(B, 8, generator=generator).to(dtype)
    if model.text_tower is not None:  # captions of several lengths, so that pieces hold padding
        text = model.text_tower.tokenize([" ".join(WORDS[: 1 + i % 5]) for i in range(B)])
    positives = torch.eye(B, dtype=torch.bool)
    positives[0, 7] = positives[7, 0] = True
    return Batch(media, text, torch.arange(B), torch.arange(B), positives)


def asked(objective: Objective, batch: Batch) -> Callable[[Tensor, Tensor], ObjectiveOutput]:
    return lambda x, y: objective(x, y, progress=0.3, index=batch.index, positives=batch.positives)


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    named = [item for at, module in enumerate(modules) for item in module.named_parameters(str(at))]
    return {name: each.grad.clone() for name, each in named if each.grad is not None}


def in_pieces(
    model: nn.Module, objective: Objective, batch: Batch, size: int, backward: Callable[[Tensor], object]
) -> ObjectiveOutput:
    return micro_batch_step(model, batch, size, asked(objective, batch), backward)


def with_graph(
    model: nn.Module, objective: Objective, batch: Batch, size: int, backward: Callable[[Tensor], object]
) -> ObjectiveOutput:
    """The plain way: all pieces with a graph, joined, one loss, one backward pass."""
    x, y = zip(*(model(*piece) for piece in pieces(batch, size, "cpu")), strict=True)
    output = asked(objective, batch)(torch.cat(x), torch.cat(y))
    backward(output.loss)
    return output


def taken(way: Callable[..., ObjectiveOutput], model: TwoTower, objective: Objective, batch: Batch, size: int) -> Any:
    """Gradients, loss, log, and the random number that comes next."""
    model.zero_grad()
    objective.zero_grad()
    torch.manual_seed(7)
    output = way(model.train(), objective, batch, size, Tensor.backward)
    return gradients(model, objective), output.loss.detach(), output.log, torch.rand(1)


def assert_same(ours: Any, wanted: Any, atol: float) -> None:
    assert ours[0].keys() == wanted[0].keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in wanted[0].values())
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("size", [1, 3, 5, B, B + 1])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_with_dropout_it_equals_the_same_pieces_with_a_graph(size: int, dtype: torch.dtype, atol: float) -> None:
    model, objective = small_model().to(dtype), InfoNCE(Learned(0.2)).to(dtype)
    batch = small_batch(model, dtype)
    ours = taken(in_pieces, model, objective, batch, size)
    assert_same(ours, taken(with_graph, model, objective, batch, size), atol)
    assert "1.temperature.log_value" in ours[0]


@pytest.mark.parametrize("objective", [InfoNCE(Learned(0.2)), MaxMargin(Fixed(0.2)), InfoNCE(Fixed(0.1))])
def test_without_dropout_it_equals_the_whole_batch_at_once(objective: Objective) -> None:
    model, objective = small_model(dropout=0.0).double(), objective.double()
    batch = small_batch(model, torch.float64)
    assert_same(taken(in_pieces, model, objective, batch, 4), taken(with_graph, model, objective, batch, B), 1e-12)


def test_the_random_numbers_matter_so_that_the_comparison_could_fail() -> None:
    model, objective = small_model(), InfoNCE(Fixed(0.2))
    batch = small_batch(model)
    first, second = (taken(with_graph, model, objective, batch, size)[0] for size in (3, 5))
    assert any((first[name] - second[name]).abs().max() > 1e-3 for name in first)


@pytest.mark.parametrize("sides", ["media frozen", "text frozen", "rows", "rows without heads on one side"])
def test_frozen_and_absent_towers(sides: str) -> None:
    model = small_model()
    if sides == "media frozen" and model.media_tower is not None:
        model.media_tower.freeze()
    if sides == "text frozen" and model.text_tower is not None:
        model.text_tower.freeze()
    if sides.startswith("rows"):
        model.media_tower = model.text_tower = None
    if sides == "rows without heads on one side":
        model.text_head = nn.Identity()
        model.media_head = nn.Linear(8, 8)
    batch, objective = small_batch(model), InfoNCE(Learned(0.2))
    assert_same(taken(in_pieces, model, objective, batch, 3), taken(with_graph, model, objective, batch, 3), 1e-6)


def test_when_only_the_objective_trains() -> None:
    model, objective = TwoTower(None, None, nn.Identity(), nn.Identity()), InfoNCE(Learned(0.2))
    batch = small_batch(model)
    ours = taken(in_pieces, model, objective, batch, 3)
    assert list(ours[0]) == ["1.temperature.log_value"]
    assert_same(ours, taken(with_graph, model, objective, batch, B), 1e-6)


def test_under_autocast_in_bf16() -> None:
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    objective = InfoNCE(Learned(0.2))
    model = accelerator.prepare(small_model())
    batch = small_batch(model)
    ours = taken(in_pieces, model, objective, batch, 4)
    assert_same(ours, taken(with_graph, model, objective, batch, 4), 5e-3)  # bf16 has 8 bits; sums run in another order
    AcceleratorState._reset_state()


def test_the_graph_keeps_a_piece_and_not_the_batch() -> None:
    model, objective = small_model(), InfoNCE(Fixed(0.1))
    batch = small_batch(model)
    peaks = {}
    for way, size in ((with_graph, B), (in_pieces, 5), (in_pieces, 2), (in_pieces, 1)):
        with bytes_kept(model) as meter:
            taken(way, model, objective, batch, size)
        peaks[way, size] = meter.peak
    whole = peaks[with_graph, B]
    assert whole > 100_000
    for size in (5, 2, 1):
        assert peaks[in_pieces, size] <= 1.1 * whole * size / B


@pytest.mark.parametrize("size", [4, B])
def test_gradient_checkpointing_changes_no_gradient_and_no_random_number(size: int) -> None:
    model, objective = small_model(), InfoNCE(Learned(0.2))
    batch = small_batch(model)
    wanted = taken(with_graph, model, objective, batch, size)
    enable_gradient_checkpointing(model)
    calls: list[bool] = []
    assert model.media_tower is not None
    layer = model.media_tower.get_submodule("blocks.layers.0.linear1")
    layer.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    assert_same(taken(in_pieces, model, objective, batch, size), wanted, 1e-6)
    pieces_done = -(-B // size)
    assert calls.count(False) == pieces_done
    assert calls.count(True) == 2 * pieces_done  # once when replayed, once again on the way back


class Meter:
    """Bytes that graphs keep for their backward pass, now and at most."""

    now = peak = 0

    def add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class Kept:
    """A tensor that a graph keeps; weighs in while it lives."""

    def __init__(self, tensor: Tensor, size: int, meter: Meter) -> None:
        self.tensor, self.size, self.meter = tensor, size, meter
        meter.add(size)

    def __del__(self) -> None:
        self.meter.add(-self.size)


@contextmanager
def bytes_kept(model: nn.Module) -> Iterator[Meter]:
    """Count what is saved for backward passes beside the parameters, which are there anyway."""
    meter = Meter()
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def pack(tensor: Tensor) -> Kept:
        known = tensor.untyped_storage().data_ptr() in own
        return Kept(tensor, 0 if known else tensor.numel() * tensor.element_size(), meter)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        yield meter


# In the trainer -------------------------------------------------------------------------------------------------------


def weights_and_log(trainer: Trainer, run: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    return trainer.model.state_dict(), list(RunDirectory(run).log_lines())


def test_a_run_in_pieces_equals_the_whole_run_if_nothing_is_random(tmp_path: Path) -> None:
    runs = []
    for name, size in (("whole", None), ("pieces", 3)):
        trainer = make_trainer(tmp_path / name, settings(micro_batch=size), InfoNCE(Learned()))
        trainer.model.media_head[1].p = 0.0
        trainer.fit()
        runs.append(weights_and_log(trainer, tmp_path / name))
    (weights, log), (piece_weights, piece_log) = runs
    torch.testing.assert_close(piece_weights, weights, rtol=0, atol=1e-4)  # AdamW blows the last bits up
    assert [line.keys() for line in piece_log] == [line.keys() for line in log]
    assert [line["loss"] for line in piece_log] == pytest.approx([line["loss"] for line in log], abs=1e-4)


def test_a_run_in_pieces_resumes_exactly(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole", settings(micro_batch=3), InfoNCE(Learned()))
    whole.fit()

    def crash(step: int) -> None:
        if step == 6:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        make_trainer(tmp_path / "cut", settings(micro_batch=3), InfoNCE(Learned()), before_batch=crash).fit()
    resumed = make_trainer(tmp_path / "cut", settings(micro_batch=3), InfoNCE(Learned()))
    resumed.fit(resume=True)
    weights, log = weights_and_log(whole, tmp_path / "whole")
    resumed_weights, resumed_log = weights_and_log(resumed, tmp_path / "cut")
    assert all(torch.equal(value, resumed_weights[name]) for name, value in weights.items())
    assert log == resumed_log


def test_a_loss_that_is_not_finite_stops_a_run_in_pieces(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, settings(micro_batch=3))
    with torch.no_grad():
        trainer.model.text_head.weight[0, 0] = float("nan")
    with pytest.raises(RunError, match=r"step 0: y\[0\] has a NaN"):
        trainer.fit()


def test_batch_norm_that_trains_is_refused_by_name() -> None:
    model = TwoTower(SmallResNet(size=16, channels=2, depth=1), None, nn.Linear(16, 4), nn.Linear(5, 4))
    with pytest.raises(RunError, match=r"media_tower\.layers\.1 is a batch norm .* freeze this one"):
        refuse_batch_norm(model)
    assert model.media_tower is not None
    model.media_tower.freeze()
    refuse_batch_norm(model.train())


def test_the_trainer_refuses_batch_norm_before_it_starts_and_only_in_pieces(tmp_path: Path) -> None:
    model = TwoTower(None, None, nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), nn.Linear(5, 4))

    def trainer(size: int) -> Trainer:
        run, no_batches = RunDirectory(tmp_path), lambda epoch, first: iter(())
        return Trainer(model, InfoNCE(Fixed(0.1)), settings(micro_batch=size), run, no_batches, 4, batch_size=10)

    with pytest.raises(RunError, match=r"train\.micro_batch: media_head\.1 is a batch norm"):
        trainer(9)
    assert trainer(10).micro_batch is None  # the whole batch in one piece


def test_gradient_checkpointing_is_for_towers_that_train(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no tower trains"):
        make_trainer(tmp_path, settings(gradient_checkpointing=True))
    model = small_model()
    assert model.text_tower is not None
    model.text_tower.freeze()
    run = RunDirectory(tmp_path)
    Trainer(model, InfoNCE(Fixed(0.1)), settings(gradient_checkpointing=True), run, lambda *_: iter(()), 4, 10)
    assert [is_checkpointed(tower) for tower in (model.media_tower, model.text_tower)] == [True, False]


def is_checkpointed(tower: nn.Module | None) -> bool:
    assert tower is not None
    return all(getattr(block, "checkpointing", False) for block in tower.get_submodule("blocks.layers").children())
