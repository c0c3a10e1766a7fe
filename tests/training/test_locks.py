"""One process at a time writes a folder; who holds it is named, and a killed one does not stand in the way."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmts.apps.prepare import prepare
from mmts.console import errors
from mmts.errors import RunError
from mmts.evaluation.run import evaluate
from mmts.examples import draw_example
from mmts.files import locked
from mmts.recipe.recipe import Recipe, load_recipe
from mmts.search.build import build_index
from mmts.sweep import run_sweep
from mmts.training.run import train

SETTINGS = [
    "model.image={tower: small-resnet, train: all, size: 16, options: {channels: 4, depth: 1}}",
    "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
    "model.head.hidden=16",
    "model.width=16",
    "concepts={encoder: tfidf, num_concepts: 4}",
    "train={epochs: 2, batch_size: 12, trackers: [], log_every: 1}",
]


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(recipe(shapes), out)
    return out


def recipe(data: Path, *settings: str) -> Recipe:
    return load_recipe("catalogue", [*SETTINGS, *settings]).with_data(data)


HOLDS = """
import pathlib, signal, sys
from mmts.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


@contextmanager
def held_elsewhere(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a lock; it is killed at the end, if it is not by then."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(file)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_learns_who_trains_and_a_kill_blocks_nothing(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with held_elsewhere(out / ".lock") as other:
        says = f"{out} is in use by process {other.pid} on {socket.gethostname()}; wait for it, or stop it"
        with pytest.raises(RunError, match=says):
            train(recipe(shapes), out, resume=True)
        assert [each.name for each in out.iterdir()] == [".lock"]
        other.kill()
        other.wait()
        assert (out / ".lock").exists()
        assert train(recipe(shapes), out, resume=True)["split"] == "test"
    assert not (out / ".lock").exists()


def test_writers_of_a_folder_wait_or_name_who_holds_it(shapes: Path, finished: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("{recipe: catalogue, trials: 1, variants: {fixed: {set: {}, grid: {train.epochs: [1]}}}}")
    before = (finished / "metrics.json").read_bytes()
    for folder, lock, write in (
        (tmp_path / "out", ".lock", lambda: run_sweep(sweep, shapes, tmp_path / "out")),
        (finished, ".lock", lambda: evaluate(finished)),
    ):
        with held_elsewhere(folder / lock), pytest.raises(RunError, match=f"{folder} is in use by process"):
            write()
    assert (finished / "metrics.json").read_bytes() == before


def test_prepare_refuses_a_folder_that_another_process_prepares(tmp_path: Path) -> None:
    root = draw_example("flickr30k", tmp_path / "flickr30k")
    with held_elsewhere(root / ".mmts.lock"), pytest.raises(RunError, match="is in use by process"):
        prepare("flickr30k", root)
    assert prepare("flickr30k", root).exists()


def test_indexing_waits_for_the_process_before_it(
    shapes: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    with held_elsewhere(finished / "index" / ".lock") as other:

        def end_the_other(note: str) -> None:
            notes.append(note)
            other.kill()
            other.wait()

        monkeypatch.setattr(errors, "print", end_the_other)
        index = build_index(finished, shapes / "images")
    assert len(index) == 48
    assert notes[0].startswith(f"note: waiting: {finished / 'index'} is in use by process {other.pid} on")
    assert not (finished / "index" / ".lock").exists()


def test_a_lock_from_another_machine_names_the_file_to_remove(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("12\nfar-away\n")
    with (
        pytest.raises(
            RunError, match=rf"by process 12 on far-away; .* \(if it is not running, remove {tmp_path}/.lock\)"
        ),
        locked(tmp_path / ".lock"),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / "file")), locked(tmp_path / "file" / ".lock"):
        pass
