"""A sweep's runs: tuned on val without a look at test, resumed exactly, in one process or in two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_sweep import ONLY_FIXED, rows, write_sweep
from tests_support import children, command_of, draw_shapes

from mmts.errors import DataError, Interrupted, RecipeError, RunError
from mmts.evaluation.run import evaluate
from mmts.recipe.run_directory import RunDirectory
from mmts.sweep import run_sweep
from mmts.sweep.sweep_file import load_sweep
from mmts.training import run as runs
from mmts.training.run import train


def test_the_chosen_setting_is_the_best_on_val(finished: Path) -> None:
    reached: dict[tuple[str, int], float] = {}
    for file in (finished / "trials").rglob("metrics.json"):
        metrics = json.loads(file.read_text())
        variant, number = file.parts[-4], int(file.parts[-3])
        reached[variant, number] = (metrics["text_to_image"]["R@1"] + metrics["image_to_text"]["R@1"]) / 2
    for variant in ("fixed", "mm-ts"):
        best = max((0, 1), key=lambda number: (reached[variant, number], -number))
        chosen = {line["trial"] for line in rows(finished) if line["variant"] == variant and line["chosen"] == "1"}
        assert chosen == {str(best)}
        trial = RunDirectory(finished / "trials" / variant / str(best) / "seed-100").recipe()
        final = RunDirectory(finished / "runs" / variant / "seed-0").recipe()
        assert final.objective == trial.objective
        assert final.train.seed == 0


def test_a_finished_sweep_trains_nothing_and_writes_the_same_table(
    finished: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "leaderboard.csv").read_text()
    monkeypatch.setattr("mmts.sweep.run.train", pytest.fail)
    run_sweep(write_sweep(tmp_path), shapes, finished, 1)
    assert (finished / "leaderboard.csv").read_text() == before
    assert "4 runs, 4 already finished" in capsys.readouterr().out


def test_a_run_of_another_recipe_is_an_error(finished: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"trials/fixed/0/seed-100 holds a run of another recipe \(train.epochs is 2"):
        run_sweep(write_sweep(tmp_path), shapes, finished, 1, ["train.epochs=3"])


def test_tuning_never_reads_test(tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "shapes", 60)
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    pictures = {data / line["image"]: (data / line["image"]).read_bytes() for line in lines if line["split"] == "test"}
    for picture in pictures:
        picture.write_bytes(b"nothing that can be decoded")
    file = write_sweep(tmp_path, variants=ONLY_FIXED)
    with pytest.raises(DataError, match="runs/fixed/seed-0"):
        run_sweep(file, data, tmp_path / "out", 1)
    assert len(list((tmp_path / "out" / "trials").rglob("metrics.json"))) == 2
    for picture, content in pictures.items():
        picture.write_bytes(content)
    run_sweep(file, data, tmp_path / "out", 1)
    assert {line["stage"] for line in rows(tmp_path / "out")} == {"trial", "test"}


def test_a_trial_evaluated_on_test_since_is_an_error(shapes: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, seeds={"test": [0]}, variants=ONLY_FIXED)
    run_sweep(file, shapes, tmp_path / "out", 1)
    evaluate(tmp_path / "out" / "trials" / "fixed" / "0" / "seed-100")
    with pytest.raises(RunError, match="has since been evaluated on test"):
        run_sweep(file, shapes, tmp_path / "out", 1)


def test_a_trial_that_cannot_be_trained_is_lost(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = {"fixed": {"grid": {"train.learning_rate": [1e30, 1e-3]}}}
    file = write_sweep(tmp_path, variants=variants, seeds={"test": [0]})
    run_sweep(file, shapes, tmp_path / "out", 1)
    assert "failed: the embedding of medium '0'" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert {line["trial"] for line in rows(tmp_path / "out")} == {"1"}
    monkeypatch.setattr("mmts.sweep.run.train", pytest.fail)  # it is not tried again
    run_sweep(file, shapes, tmp_path / "out", 1)
    monkeypatch.undo()
    variants["fixed"]["grid"]["train.learning_rate"] = [1e30, 1e29]
    with pytest.raises(RunError, match="variant fixed: no trial could be trained"):
        run_sweep(write_sweep(tmp_path, variants=variants), shapes, tmp_path / "other", 1)


def test_a_variant_that_cannot_be_trained_leaves_the_others_in_the_table(shapes: Path, tmp_path: Path) -> None:
    grid = {"grid": {"objective.temperature.value": [0.05, 0.1]}}
    wild = {"grid": {"train.learning_rate": [1e30, 1e29]}}
    variants = {"fixed": grid, "wild": wild, "slow": {"set": {"train.epochs": 1}, **grid}}
    with pytest.raises(RunError, match=r"variant wild: no trial could be trained: .*embedding"):
        run_sweep(write_sweep(tmp_path, variants=variants, seeds={"test": [0]}), shapes, tmp_path / "out", 1)
    assert {line["variant"] for line in rows(tmp_path / "out") if line["stage"] == "test"} == {"fixed", "slow"}


def test_data_without_val_and_missing_measures_are_errors(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(shapes / "images")
    (data / "captions.jsonl").write_text((shapes / "captions.jsonl").read_text().replace('"val"', '"train"'))
    with pytest.raises(DataError, match=r"a sweep tunes on val .*nothing is in split 'val'"):
        run_sweep(write_sweep(tmp_path), data, tmp_path / "out", 1)
    with pytest.raises(RecipeError, match="choose mAP needs"):
        run_sweep(write_sweep(tmp_path, choose="mAP"), shapes, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_training_evaluated_on_val_records_that_in_its_metrics(shapes: Path, tmp_path: Path) -> None:
    recipe = load_sweep(write_sweep(tmp_path)).recipe("fixed", {}, 0).with_data(shapes)
    assert train(recipe, tmp_path / "run", evaluate_on="val")["split"] == "val"
    with pytest.raises(DataError, match="nothing is in split 'dev2'"):
        train(recipe, tmp_path / "other", evaluate_on="dev2")


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_stopped_sweep_continues_to_the_same_end(
    finished: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = runs.training_batches
    begun = []

    def interrupting(*arguments: Any) -> Any:
        original = batches(*arguments)
        begun.append(1)

        def of_epoch(epoch: int, first: int) -> Any:
            if len(begun) in (2, 6) and epoch == 1:  # in the second trial, then in the second run on test
                os.kill(os.getpid(), signal.SIGINT)
            yield from original(epoch, first)

        return of_epoch

    monkeypatch.setattr(runs, "training_batches", interrupting)
    for _ in range(2):
        with pytest.raises(Interrupted, match="run the same command again to continue"):
            run_sweep(write_sweep(tmp_path), shapes, tmp_path / "out", 1)
        begun.append(1)
    monkeypatch.undo()
    run_sweep(write_sweep(tmp_path), shapes, tmp_path / "out", 1)
    assert (tmp_path / "out" / "leaderboard.csv").read_text() == (finished / "leaderboard.csv").read_text()


@pytest.mark.slow
def test_parts_make_the_same_table_as_one(finished: Path, shapes: Path, tmp_path: Path) -> None:
    sweep, out = write_sweep(tmp_path), tmp_path / "out"
    page = out / "leaderboard.md"
    assert run_sweep(sweep, shapes, out, 1, part="2/2") is None  # two of the four trials
    with pytest.raises(RunError, match=r"--collect: 2 runs not finished: .*seed-"):
        run_sweep(sweep, shapes, out, 1, collect=True)
    assert run_sweep(sweep, shapes, out, 1, part="1/2") is None  # the others, and two of the four runs on test
    assert run_sweep(sweep, shapes, out, 1, part="2/2") == page
    assert (out / "leaderboard.csv").read_bytes() == (finished / "leaderboard.csv").read_bytes()
    assert len(list((out / "trials").rglob("metrics.json"))) == 4
    page.unlink()
    assert run_sweep(sweep, shapes, out, 1, collect=True) == page


@pytest.mark.slow
def test_two_processes_make_the_same_table_as_one(finished: Path, shapes: Path, tmp_path: Path) -> None:
    run_sweep(write_sweep(tmp_path), shapes, tmp_path / "out", 2)
    assert (tmp_path / "out" / "leaderboard.csv").read_text() == (finished / "leaderboard.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stop_leaves_no_process_behind(shapes: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mmts.cli", "sweep", str(write_sweep(tmp_path)), "--data", str(shapes)]
    command += ["--out", str(out), "--jobs", "2", "--set", "train.epochs=3000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(list(out.rglob("last.pt"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        workers = [pid for pid in children(process.pid) if "LokyProcess" in command_of(pid)]
        assert len(workers) == 2
        process.send_signal(number)
        message = process.communicate()[1]
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert message == "mmts: stopped; run the same command again to continue\n"
    while any("LokyProcess" in command_of(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
