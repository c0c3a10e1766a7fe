"""A training process killed with SIGKILL, at any moment and in the middle of a write, ends as if it never had been."""

import functools
import io
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests_support import draw_shapes, ready_processes

from mmts.recipe.recipe import load_recipe
from mmts.training.checkpoint import load_checkpoint
from mmts.training.run import train

SETTINGS = [
    "model.image={tower: small-resnet, train: all, size: 16, options: {channels: 4, depth: 1}}",
    "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
    "model.head.hidden=16",
    "model.width=16",
    "concepts={encoder: tfidf, num_concepts: 4}",
    "objective={loss: isogclr}",
    "train={epochs: 4, batch_size: 8, trackers: [], log_every: 1, checkpoint_every: 2}",
]


def run_once(data: Path, out: Path, cache: Path, dies: Callable[[], None] | None = None) -> None:
    """Train in this process until the end, or until `dies` kills it."""
    os.environ["MMTS_CACHE"] = str(cache)
    torch.set_num_threads(1)
    if dies is not None:
        dies()
    train(load_recipe("catalogue", SETTINGS).with_data(data), out, resume=True)


def in_a_while(seconds: float) -> None:
    """Die after so many seconds, whatever goes on."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def while_writing(number: int, share: float) -> None:
    """Die when that share of this process's `number`th checkpoint is on the disk."""
    writes = iter(range(number, -1, -1))
    save = torch.save

    def half_way(state: dict[str, Any], file: Any) -> None:
        if next(writes):
            return save(state, file)
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: int(share * len(whole.getvalue()))])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    torch.save = half_way


def between_renames(number: int) -> None:
    """Die at this process's `number`th rename."""
    renames = iter(range(number, -1, -1))
    replace = os.replace

    def deadly(*arguments: Any) -> None:
        if not next(renames):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments)

    os.replace = deadly


class Nursery:
    """Starts training processes on one data set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = draw_shapes(folder / "shapes", 48)
        self.processes = ready_processes()

    def ends(self, out: str, dies: Callable[[], None] | None = None) -> bool:
        """Train until the end, or until it is killed; say whether it came to the end."""
        process = self.processes.Process(
            target=run_once, args=(self.data, self.folder / out, self.folder / f"{out}-cache", dies)
        )
        process.start()
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode == 0


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Nursery:
    nursery = Nursery(tmp_path_factory.mktemp("killed"))
    assert nursery.ends("whole")
    return nursery


def assert_equal_runs(first: Path, second: Path) -> None:
    for name in ("log.jsonl", "metrics.json", "vocabulary.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in ("last", "previous", "best"):
        one, other = (load_checkpoint(run / "checkpoints" / f"{name}.pt") for run in (first, second))
        assert_equal_states(one, other, name)
    assert {each.name for each in (second / "checkpoints").iterdir()} == {"last.pt", "previous.pt", "best.pt"}


def assert_equal_states(one: Any, other: Any, where: str) -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal_states(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_end_like_unbroken_ones(nursery: Nursery, kills: int) -> None:
    rng = random.Random(os.urandom(8))
    ways: list[Callable[[], Callable[[], None]]] = [
        lambda: functools.partial(while_writing, rng.randrange(5), rng.random()),
        lambda: functools.partial(in_a_while, rng.uniform(0, 1)),
        lambda: functools.partial(between_renames, rng.randrange(40)),
    ]
    done = runs = 0
    while done < kills:
        out = f"{kills}-{runs}"
        while not nursery.ends(out, dies := ways[done % len(ways)]() if done < kills else None):
            done += 1
            print(f"run {out} was killed by {dies}")
        assert_equal_runs(nursery.folder / "whole", nursery.folder / out)
        runs += 1
