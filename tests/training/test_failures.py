"""What goes wrong on long runs: no room, no permission, no number, a signal, other counts; what is said and kept."""

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trainer import make_trainer, settings, weights
from tests_support import draw_shapes
from torch import Tensor

from mmts.cli import main
from mmts.data.batches.loader import Batch
from mmts.errors import DataError, Diverged, RunError
from mmts.objectives import InfoNCE, ObjectiveOutput
from mmts.policies import Fixed, Shifted
from mmts.recipe.run_directory import RunDirectory
from mmts.schedules import Constant
from mmts.training import run as runs
from mmts.training.checkpoint import check_same_clock, load_checkpoint


def assert_resumes_as_unbroken(run: Path, whole: Path) -> None:
    unbroken = make_trainer(whole)
    unbroken.fit()
    resumed = make_trainer(run)
    resumed.fit(resume=True)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(unbroken).items())
    assert (run / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()


# --- no room, no permission ------------------------------------------------------------------------------------------


@contextmanager
def limits_put_back() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_earlier_checkpoints(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")

    def fill(step: int) -> None:
        if step == 11:  # from here on the system refuses files as long as a checkpoint, as on a full disk
            room = run.log_file.stat().st_size + 1000
            assert room < run.checkpoint_file("last").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with limits_put_back(), pytest.raises(OSError, match=r"too large|disk full") as raised:
        make_trainer(run.path, before_batch=fill).fit()
    assert Path(raised.value.filename).parent == run.path / "checkpoints"
    kept = {each.name: load_checkpoint(each)["step"] for each in (run.path / "checkpoints").iterdir()}
    assert (kept["last.pt"], kept["previous.pt"]) == (8, 4)
    assert set(kept) == {"last.pt", "previous.pt", "best.pt"}
    assert_resumes_as_unbroken(run.path, tmp_path / "whole")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_names_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run" / "log.jsonl"

    def fill(step: int) -> None:
        if step == 6:
            log.rename(tmp_path / "kept")
            log.symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left") as raised:
        make_trainer(tmp_path / "run", before_batch=fill).fit()
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(log)
    (tmp_path / "kept").replace(log)
    assert_resumes_as_unbroken(tmp_path / "run", tmp_path / "whole")


def mmts_train(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, *more: str) -> int:
    tiny = ["train", "catalogue", "--tiny", "--data", str(data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["mmts", *tiny, "--set", "train.trackers=[]", *more])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_shapes(tmp_path / "shapes", 48)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.geteuid() == 0:  # to whom every folder is open, but for the system's own
        closed = Path("/proc")
    monkeypatch.setattr(runs, "prepare_inputs", None)
    assert mmts_train(monkeypatch, data, closed / "run") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert str(closed / "run") in said
    assert "Traceback" not in said


def test_a_folder_that_becomes_read_only_keeps_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shut(step: int) -> None:
        if step == 9:
            error = OSError(errno.EROFS, "Read-only file system")
            monkeypatch.setattr("mmts.files.open", lambda *_, **__: (_ for _ in ()).throw(error), raising=False)

    with pytest.raises(OSError, match=r"Read-only file system: .*checkpoints"):
        make_trainer(tmp_path / "run", before_batch=shut).fit()
    monkeypatch.undo()
    assert_resumes_as_unbroken(tmp_path / "run", tmp_path / "whole")


# --- signals, damaged checkpoints, data that fail --------------------------------------------------------------------


def test_sigterm_leaves_a_checkpoint_and_exit_code_143(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_shapes(tmp_path / "shapes", 48)
    batches = runs.training_batches

    def terminated(*arguments: Any) -> Any:
        def of_epoch(epoch: int, first: int) -> Iterator[Batch]:
            for at, batch in enumerate(batches(*arguments)(epoch, first), first):
                if (epoch, at) == (1, 0):
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return of_epoch

    monkeypatch.setattr(runs, "training_batches", terminated)
    assert mmts_train(monkeypatch, data, tmp_path / "run") == 143
    stopped = RunDirectory(tmp_path / "run")
    step = load_checkpoint(stopped.checkpoint_file("last"))["step"]
    assert f"SIGTERM at step {step} of 12; --resume continues" in capsys.readouterr().err
    monkeypatch.setattr(runs, "training_batches", batches)
    assert mmts_train(monkeypatch, data, tmp_path / "run", "--resume") == 0
    assert stopped.metrics_file.exists()


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 and then nothing"])
def test_a_damaged_checkpoint_costs_an_epoch_and_nothing_else(
    damage: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(step: int) -> None:
        if step == 13:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        make_trainer(tmp_path / "run", before_batch=crash).fit()
    (tmp_path / "run" / "checkpoints" / "last.pt").write_bytes(damage)
    assert_resumes_as_unbroken(tmp_path / "run", tmp_path / "whole")
    assert "resuming from the one before it" in capsys.readouterr().err.replace("\n", " ")


def test_a_checkpoint_is_written_when_the_data_fail(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        if step == 6:
            raise DataError("a.jpg: does not exist")

    with pytest.raises(DataError, match="does not exist"):
        make_trainer(tmp_path / "run", before_batch=fail).fit()
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 6
    assert_resumes_as_unbroken(tmp_path / "run", tmp_path / "whole")


# --- no number -------------------------------------------------------------------------------------------------------

POISONED = 6


def poison(step: int, batch: Batch) -> None:
    if step == POISONED:
        batch.media[3, 2] = float("nan")


class NaNGradients(InfoNCE):
    """At one step the loss is finite, and its gradient is not."""

    def forward(self, x: Tensor, y: Tensor, **rest: Any) -> ObjectiveOutput:
        output = super().forward(x, y, **rest)
        if round(rest["progress"] * 16) == POISONED:
            return ObjectiveOutput(output.loss + (0 * x).sum().sqrt(), output.log)
        return output


def test_a_nan_stops_the_run_and_is_reported_in_full(tmp_path: Path) -> None:
    objective = InfoNCE(Shifted(Constant(0.0), torch.linspace(0.05, 0.2, 40)))
    with pytest.raises(Diverged) as raised:
        make_trainer(tmp_path, objective=objective, change=poison).fit()
    found = json.loads((tmp_path / "diverged.json").read_text())
    samples = ", ".join(map(str, found["index"][:8]))
    low, high = found["temperature"]["min"], found["temperature"]["max"]
    assert 0.05 <= low < high <= 0.2 + 1e-6
    assert len(found["index"]) == 10
    said = str(raised.value)
    assert said.startswith(f"step {POISONED}: x[3] has a NaN")
    assert f"temperature {low:.3f}-{high:.3f}; samples {samples}, ... (all in {tmp_path / 'diverged.json'})" in said
    assert f"the last good checkpoint is {tmp_path / 'checkpoints' / 'last.pt'} (step 4)" in said
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["step"] == found["checkpoint_step"] == 4


def test_a_nan_gradient_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    for clip_norm in (None, 1.0):
        trainer = make_trainer(tmp_path / str(clip_norm), settings(clip_norm=clip_norm), NaNGradients(Fixed(0.1)))
        with pytest.raises(Diverged, match=rf"step {POISONED}: the loss is .* and the norm of its gradients nan"):
            trainer.fit()
        assert all(value.isfinite().all() for value in weights(trainer).values())


@pytest.mark.parametrize("resumed", [False, True])
def test_a_nan_can_be_skipped_and_counted(resumed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip = settings(on_nan="skip")
    if resumed:
        with pytest.raises(Diverged, match=r"--resume with train\.on_nan=skip"):
            make_trainer(tmp_path, change=poison).fit()
    trainer = make_trainer(tmp_path, skip, change=poison)
    trainer.fit(resume=resumed)
    assert "1 of 16 steps were skipped" in capsys.readouterr().out
    assert not (tmp_path / "diverged.json").exists()
    lines = list(RunDirectory(tmp_path).log_lines())
    assert [line["step"] for line in lines] == list(range(16))
    assert [line["step"] for line in lines if "loss" not in line] == [POISONED]
    assert lines[POISONED]["skipped"] == 1
    assert "x[3] has a NaN" in lines[POISONED]["why"]
    assert all(value.isfinite().all() for value in weights(trainer).values())
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["skipped"] == 1


def test_a_skipped_batch_leaves_no_trace_in_batch_statistics(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, settings(on_nan="skip"), change=poison)
    trainer.model.media_head.append(torch.nn.BatchNorm1d(4))
    trainer.fit()
    assert trainer.model.media_head[-1].running_mean.isfinite().all()


def test_skipping_every_step_of_an_epoch_is_an_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, settings(on_nan="skip"))
    with torch.no_grad():
        trainer.model.text_head.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match=r"y\[0\] has a NaN.*every step of epoch 1 was skipped"):
        trainer.fit()
    assert not (tmp_path / "checkpoints").exists()


# --- other counts ----------------------------------------------------------------------------------------------------


def test_a_resume_that_would_make_the_schedules_jump_says_from_where_to_where(tmp_path: Path) -> None:
    make_trainer(tmp_path, settings(epochs=1)).fit()
    with pytest.raises(RunError, match=r"4 steps and this run 16: progress would jump from 1\.000 to 0\.250"):
        make_trainer(tmp_path, settings(epochs=4)).fit(resume=True)
    with pytest.raises(RunError, match="4 batches per epoch and this run 5: batches would differ"):
        make_trainer(tmp_path, settings(epochs=None, steps=4, batch_size=8)).fit(resume=True)


def test_another_number_of_processes_keeps_the_clock_and_prints_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    now = {"total_steps": 16, "batches_per_epoch": 4, "batch_size": 10, "processes": 2}
    empty: dict[str, Any] = {name: {} for name in ("model", "objective", "optimizer", "random")}
    state = empty | now | {"step": 8, "best": 0.0}
    check_same_clock(state, now)
    assert not capsys.readouterr().err
    check_same_clock(state | {"processes": 1}, now)
    assert "2 processes instead of 1: the same batches and schedules" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": 17}, "step 17 of 16, which is impossible"),
        ({"optimizer": None}, "has no optimizer"),
        ({"random": {"cpu": torch.zeros(3)}}, "does not fit this run"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}, "exp_avg of parameter 0 has another shape"),
        ({"optimizer": {"state": {99: {"exp_avg": torch.zeros(2)}}}}, "does not fit this run"),
        ({"objective": {"x": 3}}, "does not fit this run"),
        ({"model": {}}, "belongs to a model of another shape"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    make_trainer(tmp_path).fit()
    last = tmp_path / "checkpoints" / "last.pt"
    torch.save(load_checkpoint(last) | change, last)
    with pytest.raises(RunError, match=says):
        make_trainer(tmp_path).fit(resume=True)
