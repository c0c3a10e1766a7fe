"""`mmts runs` from what is on the disk: states, figures, damaged runs; and the lines that end `mmts train`."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mmts.apps import runs
from mmts.apps.runs import closing_lines, find_runs, runs_table, state_of, watch
from mmts.console import console
from mmts.errors import RunError
from mmts.evaluation.measures import measured
from mmts.files import held_by, locked, read_json, write_json
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.run import train

SETTINGS = [
    "model.image={tower: small-resnet, train: all, size: 16, options: {channels: 4, depth: 1}}",
    "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
    "model.head.hidden=16",
    "model.width=16",
    "concepts={encoder: tfidf, num_concepts: 4}",
    "train={epochs: 2, batch_size: 12, trackers: [], log_every: 1}",
]
ELSEWHERE = "12\nnode3\n"


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train(load_recipe("catalogue", SETTINGS).with_data(shapes), out)
    return out


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(trained, tmp_path / "runs" / "run")))


@pytest.fixture
def half(finished: RunDirectory) -> RunDirectory:
    """A run that was killed after half its steps."""
    lines = finished.log_file.read_text().splitlines(keepends=True)
    finished.log_file.write_text("".join(lines[: len(lines) // 2]))
    finished.metrics_file.unlink()
    finished.judgement_file.unlink()
    return finished


def shown(folder: Path) -> str:
    with console.capture() as capture:
        console.print(runs_table([state_of(path) for path in find_runs(folder)], folder))
    return capture.get()


def test_a_finished_run_has_the_figures_of_its_files(finished: RunDirectory) -> None:
    metrics, state = read_json(finished.metrics_file), state_of(finished.path)
    assert (state.state, state.progress, state.seconds_left, state.note) == ("finished", 1.0, None, "")
    assert (state.test, state.tail) == (measured(metrics, "R@1"), measured(metrics, "tail R@1"))
    assert state.val == max(measured(line["val"], "R@1") or 0.0 for line in finished.log_lines() if "val" in line)
    assert not finished.clock_file.exists()
    text = shown(finished.path.parent)
    assert "1 run below" in text
    assert "finished   100 %" in text


def test_an_interrupted_run_says_how_far_it_came(half: RunDirectory) -> None:
    state = state_of(half.path)
    assert (state.state, state.progress, state.test, state.tail) == ("interrupted", 0.5, None, None)
    assert state.val is not None
    with half.log_file.open("a") as file:  # a crash cut the last line short
        file.write('{"step": 3, "prog')
    assert state_of(half.path) == state


def test_a_run_that_only_lacks_its_scores_says_so(finished: RunDirectory) -> None:
    finished.metrics_file.unlink()
    assert state_of(finished.path).note == "all steps are taken; --resume evaluates it"
    write_json(finished.metrics_file, {"stopped_at": {"step": 1}})
    assert state_of(finished.path).state == "damaged"


def test_a_run_runs_as_long_as_its_process(half: RunDirectory) -> None:
    log = half.log_file.read_text()
    with locked(half.lock_file):
        half.prepare_for(0)
        half.log_file.write_text(log)
        now = time.time()
        os.utime(half.clock_file, (now - 60, now - 60))
        os.utime(half.log_file, (now, now))
        state = state_of(half.path)
        assert (state.state, state.progress) == ("running", 0.5)
        assert state.seconds_left == pytest.approx(60, abs=5)
        assert "0:01:0" in shown(half.path.parent) or "0:00:5" in shown(half.path.parent)
        half.prepare_for(2)  # resumed, and no step since
        assert state_of(half.path).seconds_left is None
    assert state_of(half.path).state == "interrupted"


def test_a_killed_process_leaves_an_interrupted_run(half: RunDirectory) -> None:
    code = "import os, pathlib, sys, mmts.files as f\nwith f.locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, half.lock_file], check=False)
    assert half.lock_file.exists()
    before = half.lock_file.read_bytes()
    assert state_of(half.path).state == "interrupted"
    assert half.lock_file.read_bytes() == before  # a look takes nothing over


def test_on_another_machine_the_last_written_line_decides(half: RunDirectory) -> None:
    half.lock_file.write_text(ELSEWHERE)
    assert held_by(half.lock_file) == ("process 12 on node3", False)
    assert (state_of(half.path).state, state_of(half.path).note) == ("running", "process 12 on node3")
    for file in (half.lock_file, half.log_file):
        os.utime(file, (time.time() - 7200, time.time() - 7200))
    state = state_of(half.path)
    assert (state.state, state.note) == ("interrupted", "process 12 on node3 holds it, and last wrote 2:00:00 ago")


def test_a_run_that_diverged_failed(half: RunDirectory) -> None:
    write_json(half.diverged_file, {"step": 3, "what": "the loss is nan"})
    assert (state_of(half.path).state, state_of(half.path).note) == ("failed", "step 3: the loss is nan")
    assert "run: step 3: the loss is nan" in shown(half.path.parent)
    (half.path / "failed.txt").write_text("no batch fits")  # of a sweep
    assert state_of(half.path).note == "no batch fits"


def damage(name: str, content: bytes) -> Callable[[RunDirectory], object]:
    return lambda run: (run.path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (damage("recipe.yaml", b"a: [b"), "recipe.yaml is not a resolved recipe"),
        (damage("recipe.yaml", bytes(range(256))), "recipe.yaml is not a resolved recipe"),
        (damage("recipe.yaml", b"train: 3\n"), "lacks something"),
        (lambda run: run.recipe_file.unlink(), "recipe.yaml"),
        (damage("metrics.json", b"{"), "metrics.json is damaged"),
        (damage("metrics.json", b"[1]"), "lacks something"),
        (damage("metrics.json", b"{}"), "lacks something"),
        (damage("log.jsonl", b'\x00\x01 "val"\n\n{"step": 1, "progress": 0.1}\n'), "log.jsonl, line 1, is not JSON"),
        (damage("log.jsonl", b'{"step": 1}\n'), "lacks something"),
        (damage("log.jsonl", b"[]\n"), "lacks something"),
        (damage("log.jsonl", b'{"step": 1, "progress": "x"}\n'), "lacks something"),
    ],
)
def test_a_damaged_run_is_a_row_that_says_so(
    finished: RunDirectory, break_it: Callable[[RunDirectory], object], says: str
) -> None:
    break_it(finished)
    state = state_of(finished.path)
    assert state.state == "damaged"
    assert says in state.note
    assert "damaged" in shown(finished.path.parent)


def test_runs_are_found_below_a_folder_and_nothing_else(half: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: mine")  # written by hand
    (tmp_path / "other" / "data").mkdir(parents=True)
    assert find_runs(tmp_path) == [half.path]
    assert find_runs(half.path) == [half.path]
    assert find_runs(tmp_path / "other") == []
    assert " run " in shown(half.path)
    with pytest.raises(RunError, match="nowhere does not exist"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is a file; give a folder"):
        find_runs(tmp_path / "recipe.yaml")


def test_runs_come_by_state(finished: RunDirectory) -> None:
    for name in ("a", "b"):
        shutil.copytree(finished.path, finished.path.parent / name)
    RunDirectory(finished.path.parent / "b").metrics_file.unlink()
    text = shown(finished.path.parent)
    assert text.index(" b ") < text.index(" a ") < text.index(" run ", text.index(" a "))


def test_watching_needs_a_terminal_and_ends_with_ctrl_c(
    finished: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match="--watch redraws the table on a terminal"):
        watch(finished.path.parent)

    looks = iter([None, KeyboardInterrupt()])

    def sleep(seconds: float) -> None:
        if stop := next(looks):
            raise stop

    monkeypatch.setattr(runs.time, "sleep", sleep)
    monkeypatch.setattr(console, "_force_terminal", True)
    watch(finished.path.parent)
    assert "finished" in capsys.readouterr().out
    assert next(looks, None) is None


def test_training_ends_by_naming_the_last_run_of_the_recipe(finished: RunDirectory) -> None:
    folder = finished.path.parent
    metrics = read_json(finished.metrics_file)
    metrics["groups"]["tail"] = {"text_to_image": {"R@1": 20.0}, "image_to_text": {"R@1": 30.0}}
    write_json(finished.metrics_file, metrics)
    first, rare, look = closing_lines(finished.path)
    assert first == f"run: {finished.path}"
    assert rare == "rare things: tail R@1 25.0 %, the mean of both directions"
    assert look == f"to look at it: mmts report {finished.path}"

    newer, other = (RunDirectory(Path(shutil.copytree(finished.path, folder / name))) for name in ("new", "other"))
    recipe = yaml.safe_load(other.recipe_file.read_text())
    other.recipe_file.write_text(yaml.safe_dump(recipe | {"name": "another recipe"}))
    metrics["groups"]["tail"]["text_to_image"]["R@1"] += 4.0
    write_json(newer.metrics_file, metrics)
    (folder / "broken").mkdir()
    (folder / "broken" / "metrics.json").write_text("[")
    rare, look = closing_lines(newer.path)[1:]
    assert rare.endswith(
        f"; +2.0 points to {finished.path}, this recipe's last run on these data (noise? `mmts compare`)"
    )
    assert look == f"to look at it: mmts report {finished.path} {newer.path}"

    write_json(newer.metrics_file, metrics | {"groups": {"tail": None}})
    assert closing_lines(newer.path)[1] == "rare things: no tail concept has a query in test"
    write_json(
        newer.metrics_file, metrics | {"groups": {"tail": {"text_to_image": {"R@1": 24.0}, "image_to_text": None}}}
    )
    words = "tail R@1 text→image 24.0 % in test; the other direction has no query of the tail"
    assert closing_lines(newer.path)[1] == f"rare things: {words}"


def test_the_clock_of_a_process_goes_with_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.held(resume=False):
        run.prepare_for(3)
        assert json.loads(run.clock_file.read_text()) == 3
        run.recipe_file.write_text("name: x")
        run.log_file.write_text("{}\n")
    assert {file.name for file in run.path.iterdir()} == {"recipe.yaml", "log.jsonl"}
