"""A model of which each process holds a share (train.shard): results and checkpoints are those of a whole one."""

import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.test_distributed import SETTINGS, attempt, on_the_second, send
from distributed.together import skip_if_torch_cannot_shard, together
from tests_support import draw_shapes
from torch import nn
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.tensor import DTensor
from training.small_trainer import N, make_trainer, settings

from mmts.distributed.processes import joined, process_index
from mmts.distributed.sharded_model import _blocks, launcher_shards, shard_model
from mmts.errors import RunError
from mmts.files import read_json
from mmts.objectives import FastCLIP
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training import run
from mmts.training.checkpoint import load_checkpoint, load_newest
from mmts.training.experiment import build_model, load_model
from mmts.training.run import train
from mmts.training.shards import _Reader, check_shards

# One recipe with all that has to go together: blocks and what is around them, LoRA beside frozen weights, rates by
# tower, a temperature that is learned, pieces of unequal size, checkpointing, an average, clipping, two epochs.
RECIPE = [
    *SETTINGS,
    "model.image={tower: small-vit, train: all, size: 16, learning_rate: .002}",
    "model.image.options={patch: 8, width: 16, depth: 2, heads: 2, dropout: 0}",
    "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 2, heads: 2, dropout: 0}}",
    "model.head={hidden: 16, dropout: 0, input_dropout: 0}",
    "objective={loss: info_nce, temperature: {rule: learned}}",
    "train={epochs: 2, batch_size: 9, trackers: [], log_every: 1, learning_rate: .01, micro_batch: 2, clip_norm: 1.0}",
    "train.ema=0.9",
    "train.gradient_checkpointing=true",
]


def train_by_recipe(data: Path, out: Path, cache: Path, shard: bool) -> dict[str, Any]:
    """Train in float64: AdamW makes steps of full length of gradients that are 0 but for rounding (biases of keys)."""
    recipe = load_recipe("catalogue", [*RECIPE, f"train.shard={shard}"]).with_data(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMTS_CACHE", str(cache))
        patch.setattr(run, "build_model", lambda *given: build_model(*given).double())
        return train(recipe, out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run of a model that was not sharded."""
    folder = tmp_path_factory.mktemp("sharded")
    draw_shapes(folder / "shapes", 48)
    train_by_recipe(folder / "shapes", folder / "one", folder / "cache", shard=False)
    return folder


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_losses_weights_and_scores_are_those_of_one_process(number: int, whole: Path) -> None:
    skip_if_torch_cannot_shard()
    several, one = RunDirectory(whole / str(number)), RunDirectory(whole / "one")
    first, *rest = together(number, train_by_recipe, whole / "shapes", several.path, whole / "cache", True)
    assert first["split"] == "test", first
    assert all(each == first for each in rest)
    for ours, wanted in zip(several.log_lines(), one.log_lines(), strict=True):
        assert ours["loss"] == pytest.approx(wanted["loss"], abs=1e-6)
        assert ours.get("val") == wanted.get("val")
    assert first["image_to_text"] == read_json(one.metrics_file)["image_to_text"]
    for name in ("best", "last"):
        ours, wanted = (load_checkpoint(each.checkpoint_file(name)) for each in (several, one))
        assert ours["model"].keys() == wanted["model"].keys()
        for key, value in wanted["model"].items():
            torch.testing.assert_close(ours["model"][key], value, rtol=0, atol=1e-6)
        torch.testing.assert_close(ours["objective"], wanted["objective"], rtol=0, atol=1e-6)
    assert not any(
        isinstance(value, DTensor) for value in load_model(several).state_dict().values()
    )  # as evaluate does


# --- checkpoints ------------------------------------------------------------------------------------------------------


def fit(run: Path, resume: bool = False, stops: bool = False, shard: bool = True) -> dict[str, Any]:
    """Train heads and a temperature in a folder, with state per sample that is divided; tell how it ended.

    It goes to the end, or stops at a signal after step 4.
    """
    act = (lambda: send(signal.SIGTERM)) if stops else (lambda: None)
    rest = {"train": settings(shard=shard, ema=0.9, clip_norm=0.5), "objective": FastCLIP(N, N), "dropout": 0.0}
    at = on_the_second(3, act) if "RANK" in os.environ else lambda step: act() if step == 3 else None
    return attempt(run, resume, before_batch=at, **rest)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])
        self.blocks[0].weight = self.first.weight


class Numbered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


def refusal(model: nn.Module) -> str:
    with pytest.raises(RunError) as caught:
        shard_model(model, [model], torch.device("cpu"))
    return str(caught.value)


def begin(folder: Path) -> dict[str, Any]:
    """Train a run whole, and one that is stopped, copied and resumed; also tell what a process holds."""
    told: dict[str, Any] = {}
    with joined():
        shares = make_trainer(folder / "unused", settings(shard=True)).trainable
        told["held"] = sum(each.to_local().numel() for each in shares if isinstance(each, DTensor))
        told["refused"] = [refusal(Tied()), refusal(Numbered())]
    told["whole"] = fit(folder / "whole")
    told["stopped"] = fit(folder / "two", stops=True)
    if process_index() == 0:
        for name in ("four", "one", "damaged"):
            shutil.copytree(folder / "two", folder / name)
    told["resumed"] = fit(folder / "two", resume=True)
    return told


def go_on(folder: Path) -> dict[str, Any]:
    return {"sharded": fit(folder / "four", resume=True), "unsharded": fit(folder / "single", resume=True)}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    skip_if_torch_cannot_shard()
    folder = tmp_path_factory.mktemp("shards")
    return folder, together(2, begin, folder)


def test_each_process_holds_its_share_of_every_weight(begun: tuple[Path, list[dict[str, Any]]]) -> None:
    total = sum(each.numel() for each in make_trainer(begun[0] / "count").trainable)
    assert [told["held"] for told in begun[1]] == [total / 2, total / 2]


def test_what_cannot_be_shared_out_is_named(begun: tuple[Path, list[dict[str, Any]]]) -> None:
    tied, number = begun[1][0]["refused"]
    assert "first.weight belongs to two blocks" in tied
    assert "scale is a number without a dimension" in number


def test_a_stopped_run_goes_on(begun: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, told = begun
    assert [each["stopped"]["saved"] for each in told] == [4, 4]
    wanted = told[0]["whole"]["weights"]
    assert all(torch.equal(value, each["resumed"]["weights"][key]) for each in told for key, value in wanted.items())
    assert (folder / "two" / "log.jsonl").read_text() == (folder / "whole" / "log.jsonl").read_text()
    assert {each.name for each in (folder / "two" / "checkpoints").glob("step-*")} == {"step-12", "step-16"}
    check_end(fit(folder / "one", resume=True, shard=False), wanted)


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_more_processes(begun: tuple[Path, list[dict[str, Any]]]) -> None:
    """Sharded or whole before, sharded after."""
    folder, told = begun
    assert fit(folder / "single", stops=True, shard=False)["saved"] == 4
    for ends in together(4, go_on, folder):
        for end in ends.values():
            check_end(end, told[0]["whole"]["weights"])


def check_end(end: dict[str, Any], wanted: dict[str, torch.Tensor]) -> None:
    assert end["error"] is None, end
    for key, value in wanted.items():
        torch.testing.assert_close(end["weights"][key], value, rtol=0, atol=1e-6)


def test_damaged_shards_are_named_before_they_are_read(begun: tuple[Path, list[dict[str, Any]]]) -> None:
    checkpoints = begun[0] / "damaged" / "checkpoints"
    file = checkpoints / "step-4" / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"__1_0\.distcp is damaged"):
        load_newest(checkpoints)
    file.unlink()
    with pytest.raises(RunError, match=r"__1_0\.distcp is missing"):
        load_newest(checkpoints)
    for written in ({"folder": "../step-4", "files": {}}, {"folder": "step-4", "files": {"../x": 1}}, {}):
        with pytest.raises(RunError, match="names shards that mmts does not write"):
            check_shards(checkpoints, written)


class Shell:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_a_description_that_names_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Shell()))
    with pytest.raises(pickle.UnpicklingError, match=r"it names posix\.system"):
        _Reader(tmp_path).read_metadata()
    outside = Metadata({}, storage_data={MetadataIndex("a"): _StorageInfo("../a", 0, 1)})
    (tmp_path / ".metadata").write_bytes(pickle.dumps(outside))
    with pytest.raises(pickle.UnpicklingError, match="outside its folder"):
        _Reader(tmp_path).read_metadata()
    assert not (tmp_path / "ran").exists()


# --- what is shared out, and who asks for it --------------------------------------------------------------------------


def test_blocks_are_members_of_lists_or_what_must_not_be_split() -> None:
    inner, second = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), nn.Linear(2, 2)
    assert _blocks(nn.Sequential(nn.Linear(2, 2), nn.ModuleList([inner, second]))) == [*inner, second]
    tower = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.LayerNorm(2)))
    assert _blocks(tower) == []
    tower._no_split_modules = ["LayerNorm"]  # type: ignore[assignment]
    assert _blocks(tower) == [tower[1][0]]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"FSDP_VERSION": "1"}, "asks for FSDP version 1.*Add --fsdp_version 2"),
        ({}, "asks for FSDP version 1"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "--fsdp_offload_params"),
        ({"FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "set train.gradient_checkpointing to true"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for DeepSpeed.*set train.shard"),
    ],
)
def test_what_a_launcher_asks_for_in_vain(
    environment: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=said):
        train(load_recipe("catalogue"), tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_torch_that_cannot_shard_on_the_cpu_is_refused_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmts.distributed.sharded_model.num_processes", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delattr("torch.cpu.Stream.record_event", raising=False)
    recipe = load_recipe("catalogue", ["train.shard=true"]).with_data(tmp_path / "not-there")
    with pytest.raises(RunError, match=r"torch \d.* cannot shard a model on the CPU; install 2\.7"):
        train(recipe, tmp_path / "run")


def test_a_launcher_that_asks_for_fsdp_2_means_train_shard(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not launcher_shards()
    monkeypatch.setenv("MMTS_CACHE", str(whole / "cache"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    recipe = load_recipe("catalogue", [*SETTINGS, "train.epochs=1"]).with_data(whole / "shapes")
    train(recipe, whole / "launched")
    assert RunDirectory(whole / "launched").recipe().train.shard
    assert "train.shard changes nothing with one process" in capsys.readouterr().out.replace("\n", " ")
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
