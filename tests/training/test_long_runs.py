"""Long runs need no more of anything than short ones: tensors, memory, open files, threads."""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_trainer import N, make_trainer, settings
from torch import Tensor

from mmts.objectives import InfoNCE, ISogCLR, Objective, ObjectiveOutput
from mmts.policies import Learned, Shifted
from mmts.recipe.sections import Train
from mmts.schedules import Cosine

WARM = 40  # steps until everything is there that will be
MEGABYTE = 1 << 20


class Held(NamedTuple):
    """What the process holds: tensors, bytes of memory, open files, threads."""

    tensors: int
    memory: int
    files: int
    threads: int


def held() -> Held:
    gc.collect()
    tensors = sum(isinstance(each, Tensor) for each in gc.get_objects())
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Held(tensors, memory, len(os.listdir("/proc/self/fd")), threading.active_count())


def growth(folder: Path, train: Train, objective: Objective) -> Held:
    """Train, and return what is held at the last epoch's start beyond what was held when the run was warm."""
    at: dict[int, Held] = {}
    last = (train.steps or 0) - 4

    def look(step: int) -> None:
        if step in (WARM, last):
            at[step] = held()

    make_trainer(folder, train, objective, before_batch=look).fit()
    return Held(*(late - early for early, late in zip(at[WARM], at[last], strict=True)))


def shifted() -> Objective:
    return InfoNCE(Shifted(Cosine(-0.02, 0.02, 5), torch.linspace(0.05, 0.2, N)))


RUNS: dict[str, tuple[Callable[[], Objective], dict[str, Any]]] = {
    "shifted": (shifted, {"trackers": ("tensorboard",), "checkpoint_every": 50}),
    "learned, in pieces": (lambda: InfoNCE(Learned()), {"micro_batch": 4, "clip_norm": 1.0, "on_nan": "skip"}),
    "with memory": (lambda: ISogCLR(N, N), {"evaluate_every": 10}),
}

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")


@pytest.mark.parametrize("steps", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RUNS)
def test_memory_is_constant(name: str, steps: int, tmp_path: Path) -> None:
    make, changes = RUNS[name]
    more = growth(tmp_path, settings(epochs=None, steps=steps, log_every=10, **changes), make())
    assert more.tensors == 0
    assert more.files == 0
    assert more.threads == 0
    assert more.memory < 4 * MEGABYTE


class Leaky(InfoNCE):
    """Keeps every batch's loss."""

    def forward(self, x: Tensor, y: Tensor, **rest: Any) -> ObjectiveOutput:
        output = super().forward(x, y, **rest)
        self.__dict__.setdefault("kept", []).append(output.loss)
        return output


def test_a_leak_is_seen(tmp_path: Path) -> None:
    more = growth(tmp_path, settings(epochs=None, steps=100, log_every=10), Leaky(Learned()))
    assert more.tensors >= 100 - WARM - 4
