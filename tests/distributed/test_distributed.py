"""Several processes train as one: gradients, state, clock and log are those of one; an error on one ends all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.together import together
from tests_support import draw_shapes
from torch import Tensor, nn
from training.small_trainer import N, make_trainer, settings, weights

from mmts import objectives as o
from mmts import policies as p
from mmts.console import console, errors, quiet
from mmts.data.batches.epoch_plan import process_slice
from mmts.data.batches.loader import Batch
from mmts.distributed import processes
from mmts.distributed.divided_state import whole_state
from mmts.distributed.processes import joined, num_processes, process_index
from mmts.errors import DataError, MmtsError, RunError
from mmts.losses import info_nce
from mmts.losses.fused.tiles import product_dtype
from mmts.losses.queries import query_rows
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.schedules import Cosine
from mmts.training.checkpoint import load_checkpoint
from mmts.training.log_line import flatten
from mmts.training.run import train

D = 4
SHIFTED = p.Shifted(Cosine(-0.04, 0.04, 5), torch.linspace(0.05, 0.2, N))


class Own(o.Objective):
    """An objective of a user's that ignores `pairs.queries`."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = p.Learned()
        self.register_buffer("seen", torch.zeros(N))

    def compute(self, x: Tensor, y: Tensor, pairs: o.Pairs) -> o.ObjectiveOutput:
        self.seen[pairs.index] += 1
        tau = self.temperature(pairs.progress, pairs.index)
        assert pairs.positives is not None
        assert pairs.relevance is not None
        wrong = ~pairs.positives * (1 - pairs.relevance)  # both whole and dense
        loss = info_nce(x, y, tau, fused=False) + (wrong * (x @ y.T)).mean()
        return o.ObjectiveOutput(loss, {"temperature": tau})


RULES: dict[str, Callable[[], o.Objective]] = {
    "shifted": lambda: o.InfoNCE(SHIFTED),
    "learned": lambda: o.InfoNCE(p.Learned(), label_smoothing=0.1),
    "decoupled": lambda: o.DecoupledInfoNCE(SHIFTED),
    "multi_positive": lambda: o.MultiPositiveInfoNCE(p.Fixed(0.1)),
    "pairs": lambda: o.InfoNCE(p.DySTreSS()),
    "margin": lambda: o.MaxMargin(SHIFTED),
    "graded_margin": lambda: o.MaxMargin(p.Fixed(0.2), relevance_scaled=True),
    "sms": lambda: o.SMS(p.Fixed(0.6)),
    "siglip": lambda: o.SigLIP(p.Learned()),
    "macl": lambda: o.ReweightedInfoNCE(p.MACL()),
    "dual_temperature": lambda: o.DualTemperature(SHIFTED),
    "no_temperature": lambda: o.NoTemperature(),
    "hard_negatives": lambda: o.HardNegativeInfoNCE(SHIFTED, tau_plus=0.1),
    "rince": lambda: o.RINCE(SHIFTED),
    "cyclip": lambda: o.CyCLIP(SHIFTED),
    "temo": lambda: o.TeMo(0.05, 0.1),
    "sogclr": lambda: o.SogCLR(N, N, SHIFTED),
    "isogclr": lambda: o.ISogCLR(N, N, start=0.05),
    "fastclip": lambda: o.FastCLIP(N, N, learning_rate=1e-9),
    "adjusted": lambda: o.InfoNCE(
        SHIFTED,
        prior=o.Prior(torch.linspace(0.1, 0.9, N), candidates="text"),
        weights=o.RowWeights(torch.arange(1, N + 1), 0.9, start=0.0),
        margin=p.Learned(0.2),
    ),
    "own": Own,
    "nuclr": lambda: o.NUCLR(N, N, SHIFTED, eta=0.01),
    "tempnet": lambda: o.TempNet(
        N, N, D, num_prototypes=8, dropout=0.0, learning_rate=1e-9, prototypes="first_batch", eps=1e-3
    ),
}
PIECES, CLIPPED, BF16 = {"micro_batch": 2}, {"clip_norm": 0.1}, {"precision": "bf16"}
SOME = ("shifted", "isogclr", "fastclip")
CASES: dict[int, list[tuple[str, dict[str, Any]]]] = {
    2: [
        *((rule, {}) for rule in RULES),
        *((rule, PIECES) for rule in SOME),
        *((rule, CLIPPED) for rule in SOME),
        ("margin", BF16),
    ],
    4: [("margin", {}), ("tempnet", {}), ("pairs", {}), ("own", {}), *((rule, PIECES) for rule in SOME)],
}


# --- the gradients of one process ------------------------------------------------------------------------------------


def judge_pairs(step: int, batch: Batch) -> None:
    """Let some pairs of the batch be right for each other, and others be so by degrees."""
    same = batch.index[:, None] % 10 == batch.index % 10
    batch.positives = same.to_sparse()
    relevance = torch.where(same, 1.0, (batch.index[:, None] + batch.index) % 4 / 4).float()
    own = process_slice(len(batch), process_index(), num_processes())
    batch.relevance = torch.stack(query_rows(relevance, own)) if num_processes() > 1 else relevance


def second_steps(folder: Path, cases: list[tuple[str, dict[str, Any]]]) -> list[list[Tensor]]:
    """Return all gradients of the second step, after one of nearly no length, its log line, and what the objective
    then remembers.

    An epoch's batches are of 9 pairs: neither 2 nor 4 processes get equal shares.
    """
    found = []
    with joined():
        for number, (rule, more) in enumerate(cases):
            torch.manual_seed(1)
            trainer = make_trainer(
                folder / str(number),
                settings(batch_size=9, learning_rate=1e-9, **more),
                RULES[rule](),
                change=judge_pairs,
                dropout=0.0,
            )
            for step, batch in zip(range(2), trainer.batches(0, 0), strict=False):
                trainer.step = step
                line = trainer._train_step(batch)
            numbers = flatten(line)
            gradients = [each.grad.flatten() for each in trainer.trainable if each.grad is not None]
            memory = [each.flatten().float() for each in whole_state(trainer.objective).values()]
            memory = memory if process_index() == 0 else []  # others have only their share of it
            found.append([torch.cat(gradients), torch.tensor(list(numbers.values())), *memory])
    return found


@pytest.mark.parametrize("number", [2, 4])
def test_gradients_log_and_memory_are_those_of_one_process_with_the_whole_batch(number: int, tmp_path: Path) -> None:
    expected = second_steps(tmp_path / "one", CASES[number])
    for process, given in enumerate(together(number, second_steps, tmp_path / "more", CASES[number])):
        for case, wanted, found in zip(CASES[number], expected, given, strict=True):
            assert wanted[0].any(), case
            assert process or len(found) == len(wanted)
            for one, other in zip(wanted, found, strict=False):
                near = 1e-2 if case[1] == BF16 else 1e-6
                assert (other - one).abs().max() <= near * one.abs().max(), case


class Watching(o.InfoNCE):
    """Notes the dtype in which Triton's kernels would multiply its embeddings."""

    def compute(self, x: Tensor, y: Tensor, pairs: o.Pairs) -> o.ObjectiveOutput:
        self.dtypes = x.dtype, product_dtype(x, y)
        return super().compute(x, y, pairs)


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize(("precision", "wanted"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_the_losses_know_the_precision_of_a_run(
    precision: str, wanted: torch.dtype, micro_batch: int | None, tmp_path: Path
) -> None:
    objective = Watching(p.Fixed(0.1))
    trainer = make_trainer(tmp_path, settings(precision=precision, micro_batch=micro_batch), objective)
    trainer._train_step(next(trainer.batches(0, 0)))
    assert objective.dtypes == (torch.float32, wanted)  # accelerate hands over embeddings in float32
    assert not torch.is_autocast_enabled("cpu")


# --- one run, whatever happens on one of the processes ---------------------------------------------------------------


def attempt(run: Path, resume: bool = False, seconds: float = 0.0, **rest: Any) -> dict[str, Any]:
    """Train as one of several processes, and tell how it ended; after an error, stay for some seconds."""
    told: dict[str, Any] = {"error": None, "said": ""}
    try:
        with joined():
            trainer = make_trainer(run, **rest)
            trainer.fit(resume)
            told |= {"weights": weights(trainer), "skipped": trainer.skipped}
    except (MmtsError, OSError) as error:
        told |= {"error": type(error).__name__, "said": "" if errors.quiet else str(error), "saved": trainer.saved_at}
        time.sleep(seconds)
    return told


def on_the_second(step: int, action: Callable[[], None]) -> Callable[[int], None]:
    """Return what does something before a step, on process 1 alone."""

    def before_batch(at: int) -> None:
        if at == step and process_index() == 1:
            action()

    return before_batch


def fail(error: Exception) -> None:
    raise error


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def stand_in_the_way(path: Path) -> None:
    """Have a file where the main process will want a folder."""
    if process_index() == 0:
        path.touch()


def poison(step: int, batch: Batch) -> None:
    if step == 6 and process_index() == num_processes() - 1:
        batch.media[-1, 2] = float("nan")


def stop_in_many_ways(folder: Path) -> dict[str, Any]:
    whole = attempt(folder / "whole", objective=o.ISogCLR(N, N))
    lost = on_the_second(6, lambda: fail(DataError("a.jpg: does not exist")))
    term = on_the_second(3, lambda: send(signal.SIGTERM))
    return {
        "whole": whole,
        "lost": attempt(folder / "lost", before_batch=lost, objective=o.ISogCLR(N, N)),
        "terminated": attempt(folder / "terminated", before_batch=term, objective=o.ISogCLR(N, N)),
        "full": attempt(folder / "full", before_batch=lambda step: stand_in_the_way(folder / "full" / "checkpoints")),
        "diverged": attempt(folder / "diverged", change=poison),
        "skipped": attempt(folder / "skipped", train=settings(on_nan="skip"), change=poison),
        "resumed": [attempt(folder / name, resume=True, objective=o.ISogCLR(N, N)) for name in ("lost", "terminated")],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def ends(folder: Path) -> list[dict[str, Any]]:
    """How the runs of two processes ended, by process."""
    return together(2, stop_in_many_ways, folder)


def test_data_that_fail_on_one_process_leave_a_checkpoint_and_end_all(ends: list[Any], folder: Path) -> None:
    assert [each["lost"]["error"] for each in ends] == ["FailedElsewhere", "DataError"]
    assert [each["lost"]["said"] for each in ends] == ["", "a.jpg: does not exist"]
    assert [each["lost"]["saved"] for each in ends] == [6, 6]


def test_where_the_main_process_cannot_write_all_end(ends: list[Any]) -> None:
    assert [each["full"]["error"] for each in ends] == ["NotADirectoryError", "FailedElsewhere"]
    assert "checkpoints" in ends[0]["full"]["said"]
    assert not ends[1]["full"]["said"]


def test_a_signal_to_one_process_stops_all_after_the_same_step(ends: list[Any], folder: Path) -> None:
    assert [each["terminated"]["error"] for each in ends] == ["Interrupted", "Interrupted"]
    said = {each["terminated"]["said"] for each in ends}
    assert said == {"", "SIGTERM at step 4 of 16; --resume continues"}
    assert [each["terminated"]["saved"] for each in ends] == [4, 4]


def test_a_resumed_run_ends_as_the_unbroken_one(ends: list[Any], folder: Path) -> None:
    whole = ends[0]["whole"]["weights"]
    for each in ends:
        for resumed in (each["whole"], *each["resumed"]):
            assert all(torch.equal(value, resumed["weights"][name]) for name, value in whole.items())
    for name in ("lost", "terminated"):
        assert (folder / name / "log.jsonl").read_text() == (folder / "whole" / "log.jsonl").read_text()
        last, wanted = (load_checkpoint(folder / run / "checkpoints" / "last.pt") for run in (name, "whole"))
        assert all(torch.equal(value, last["objective"][key]) for key, value in wanted["objective"].items())


def test_the_clock_is_that_of_one_process(ends: list[Any], folder: Path, tmp_path: Path) -> None:
    make_trainer(tmp_path, objective=o.ISogCLR(N, N)).fit()
    logs = [list(RunDirectory(run).log_lines()) for run in (tmp_path, folder / "whole")]
    clocks = [[(line["step"], line["progress"], line["epoch"], line["lr"]) for line in log] for log in logs]
    assert clocks[0] == clocks[1]


def test_one_process_goes_on_from_a_checkpoint_of_two(
    ends: list[Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "terminated" / "checkpoints" / "last.pt").unlink()
    make_trainer(folder / "terminated", objective=o.ISogCLR(N, N)).fit(resume=True)
    assert "resuming with 1 processes instead of 2" in capsys.readouterr().err.replace("\n", " ")
    assert load_checkpoint(folder / "terminated" / "checkpoints" / "last.pt")["step"] == 16


def test_a_nan_in_one_share_stops_all_or_is_skipped_by_all(ends: list[Any], folder: Path) -> None:
    assert [each["diverged"]["error"] for each in ends] == ["Diverged", "Diverged"]
    assert sorted(bool(each["diverged"]["said"]) for each in ends) == [False, True]
    assert "step 6: x[9] has a NaN" in max(each["diverged"]["said"] for each in ends)
    assert [each["skipped"]["skipped"] for each in ends] == [1, 1]
    states = [each["skipped"]["weights"] for each in ends]
    assert all(torch.equal(value, states[1][name]) and value.isfinite().all() for name, value in states[0].items())
    (line,) = (each for each in RunDirectory(folder / "skipped").log_lines() if "loss" not in each)
    assert (line["step"], line["skipped"]) == (6, 1)


def die_in_the_middle(folder: Path, killed: bool) -> dict[str, Any]:
    processes._GRACE = 0.5
    ends = (lambda: send(signal.SIGKILL)) if killed else (lambda: fail(OSError("the disk is gone")))
    return attempt(folder, before_batch=on_the_second(3, ends), seconds=8.0 if process_index() else 0.0)


def test_a_process_that_waits_for_one_that_failed_is_ended(tmp_path: Path) -> None:
    first, second = together(2, die_in_the_middle, tmp_path, False)
    assert second["said"] == "the disk is gone"
    assert first == 1  # its exit code: it hung in a transfer, since the other process was still there


def test_a_process_that_is_killed_is_named_as_gone(tmp_path: Path) -> None:
    first, second = together(2, die_in_the_middle, tmp_path, True)
    assert "another process is gone" in first["said"]
    assert second == -signal.SIGKILL


def silence() -> list[bool]:
    found = []
    with joined():
        found.append(console.quiet)
    with quiet(), joined():
        found.append(console.quiet)
    return [*found, console.quiet]


def test_only_the_main_process_speaks_and_not_even_it_where_it_is_told_to_be_quiet() -> None:
    assert together(2, silence) == [[False, True, False], [True, True, False]]


def draw(folder: Path) -> list[Tensor]:
    with joined():
        drawn = []
        for step in (0, 1):
            processes.seed_draws(0, step, alike=False)
            drawn.append(torch.rand(3))
            processes.seed_draws(0, step, alike=True)
            drawn.append(torch.rand(3))
    return drawn


def test_dropout_differs_by_process_and_that_of_objectives_does_not(tmp_path: Path) -> None:
    first, second = together(2, draw, tmp_path)
    assert [torch.equal(one, other) for one, other in zip(first, second, strict=True)] == [False, True] * 2
    assert len({each[0].item() for each in (*first, *second)}) == 6


# --- the whole command ------------------------------------------------------------------------------------------------

SETTINGS = [
    "model.image={tower: small-vit, train: all, size: 16, options: {patch: 8, width: 16, depth: 1, heads: 2}}",
    "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
    "model.head.hidden=16",
    "model.width=16",
    "concepts={encoder: tfidf, num_concepts: 4}",
    "train={epochs: 2, batch_size: 9, trackers: [], log_every: 1}",
]


def train_by_recipe(data: Path, out: Path, cache: Path) -> dict[str, Any]:
    os.environ["MMTS_CACHE"] = str(cache)
    return train(load_recipe("catalogue", SETTINGS).with_data(data), out)


def test_a_recipe_is_trained_and_judged_by_two_processes(tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "shapes", 48)
    first, second = together(2, train_by_recipe, data, tmp_path / "run", tmp_path / "cache")
    assert first == second
    assert first["split"] == "test"
    written = {each.name for each in (tmp_path / "run").iterdir()}
    assert written >= {"recipe.yaml", "log.jsonl", "checkpoints", "concepts.npz", "vocabulary.json", "metrics.json"}
    steps = [line["step"] for line in RunDirectory(tmp_path / "run").log_lines()]
    assert steps == list(range(len(steps)))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("data", "code", "said"), [("shapes", 0, []), ("nowhere", 1, ["nowhere does not exist"])])
def test_torchrun_starts_the_command_line(data: str, code: int, said: list[str], tmp_path: Path) -> None:
    draw_shapes(tmp_path / "shapes", 48)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = [part for each in SETTINGS for part in ("--set", each)]
    ended = subprocess.run(
        [*command, "-m", "mmts.cli", "train", "catalogue", "--data", data, "--out", "run", *settings],
        cwd=tmp_path,
        env=os.environ | {"MMTS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert (tmp_path / "run" / "metrics.json").exists() == (code == 0)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("mmts:")]
    assert [line.endswith(wanted) for line, wanted in zip(lines, said, strict=True)] == [True] * len(said)


def test_a_batch_norm_that_trains_is_refused_where_it_cannot_see_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    processes.share_batch_norms(model, torch.device("cpu"))
    monkeypatch.setattr(processes, "num_processes", lambda: 2)
    with pytest.raises(RunError, match="1 is a batch norm that trains; on a cpu"):
        processes.share_batch_norms(model, torch.device("cpu"))
    processes.share_batch_norms(model.eval(), torch.device("cpu"))
    processes.share_batch_norms(model.train(), torch.device("cuda"))
    assert isinstance(model[1], nn.SyncBatchNorm)


def test_a_parameter_that_no_loss_reaches_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1](torch.ones(1, 2)).sum().backward()
    processes.check_all_reached(model)
    monkeypatch.setattr(processes, "num_processes", lambda: 2)
    with pytest.raises(RunError, match=r"does not reach 0\.weight"):
        processes.check_all_reached(model)
