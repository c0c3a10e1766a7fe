"""State per sample of which each process holds a share equals, bit for bit, state of which each process holds all."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.together import together
from training.small_trainer import N, make_trainer, settings, weights

from mmts import objectives as o
from mmts.data.batches.loader import Batch
from mmts.distributed.processes import joined, process_index
from mmts.errors import DataError, MmtsError
from mmts.training import trainer as trainer_module
from mmts.training.checkpoint import load_checkpoint

RULES: dict[str, Callable[[], o.Objective]] = {
    "isogclr": lambda: o.ISogCLR(N, N, start=0.05),
    "nuclr": lambda: o.NUCLR(N, N, 0.1, eta=0.01),
    "tempnet": lambda: o.TempNet(N, N, 4, num_prototypes=8, prototypes="first_batch"),
}
KINDS = ("divided", "whole")


@contextmanager
def on_each_process(kind: str) -> Iterator[None]:
    """With the kind "whole", leave all of the state on every process."""
    before = trainer_module.divide_state
    if kind == "whole":
        trainer_module.divide_state = lambda objective: None
    try:
        yield
    finally:
        trainer_module.divide_state = before


def trained(
    run: Path, rule: str, resume: bool = False, fails_at: int = -1, on_val: bool = False, **rest: Any
) -> tuple[Any, ...]:
    """Return the rows held here of the media's state, the weights, and how it ended; run.name says which kind."""

    def before_batch(step: int) -> None:
        if step == fails_at and process_index() == 1:
            raise DataError("a.jpg: does not exist")

    def failing(model: object) -> dict[str, Any]:
        raise DataError("b.jpg: does not exist")

    error = ""
    torch.manual_seed(1)
    with on_each_process(run.name):
        trainer = make_trainer(
            run, settings(batch_size=9, epochs=2, **rest.pop("train", {})), RULES[rule](), before_batch, **rest
        )
        if on_val:
            trainer.evaluate = failing
        try:
            trainer.fit(resume)
        except MmtsError as ended:
            error = f"{type(ended).__name__}: {ended}"
    return len(trainer.objective.media_sum.seen), weights(trainer), error


def in_both_kinds(folder: Path, rules: list[str]) -> dict[str, list[Any]]:
    with joined():
        return {rule: [trained(folder / rule / kind, rule) for kind in KINDS] for rule in rules}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def last(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.pt")


@pytest.mark.parametrize(("number", "rules"), [(2, [*RULES]), (4, ["isogclr"])])
def test_divided_state_trains_to_the_same_bits(number: int, rules: list[str], tmp_path: Path) -> None:
    given = together(number, in_both_kinds, tmp_path, rules)
    for rule in rules:
        for each in given:
            (rows, own, error), (all_rows, expected, _) = each[rule]
            assert (rows, all_rows, error) == (N // number, N, "")
            assert same(own, expected), rule
        states = [last(tmp_path / rule / kind)["objective"] for kind in KINDS]
        assert same(*states), rule
        assert states[0]["media_sum.seen"].shape == (N,)


def poison(step: int, batch: Batch) -> None:
    if step == 5 and process_index() == 0:
        batch.media[0, 2] = float("nan")


def end_early(folder: Path) -> dict[str, Any]:
    with joined():
        return {
            kind: [
                trained(folder / "lost" / kind, "isogclr", fails_at=6),
                trained(folder / "val" / kind, "isogclr", on_val=True),
                trained(folder / "nan" / kind, "isogclr", change=poison),
                trained(folder / "tracked" / kind, "isogclr", train={"trackers": ("tensorboard",)}),
            ]
            for kind in KINDS
        }


def go_on(folder: Path) -> list[Any]:
    with joined():
        ended = [trained(folder / "lost" / kind, "isogclr", resume=True) for kind in KINDS]
        return [*ended, trained(folder / "lost" / "other", "isogclr", resume=True)]


def test_checkpoints_reports_and_trackers_are_those_of_undivided_state(tmp_path: Path) -> None:
    first, second = together(2, end_early, tmp_path)
    for kind in KINDS:
        assert [each[2].partition(":")[0] for each in first[kind]] == ["FailedElsewhere", "DataError", "Diverged", ""]
        assert [each[2].partition(":")[0] for each in second[kind]] == ["DataError", "DataError", "Diverged", ""]
    for name, step in {"lost": 6, "val": 4, "tracked": 8}.items():
        states = [last(tmp_path / name / kind) for kind in KINDS]
        assert [each["step"] for each in states] == [step, step]
        assert same(*[each["objective"] for each in states])
    diverged = [json.loads((tmp_path / "nan" / kind / "diverged.json").read_text()) for kind in KINDS]
    assert diverged[0]["index"] == diverged[1]["index"]

    # Another number of processes goes on from the same file: divided, undivided, or one process alone.
    shutil.copytree(tmp_path / "lost" / "whole", tmp_path / "one" / "whole")
    other = tmp_path / "lost" / "other" / "checkpoints"
    shutil.copytree(tmp_path / "lost" / "divided", other.parent)
    for file in other.glob("*.pt"):
        state = load_checkpoint(file)
        state["objective"]["tau_media"] = torch.zeros(N + 1)
        torch.save(state, file)
    for given in together(3, go_on, tmp_path):
        assert same(given[0][1], given[1][1])
        assert given[2][2].startswith(("RunError: the checkpoint does not fit this run: tau_media is", "FailedElse"))
    assert same(*[last(tmp_path / "lost" / kind)["objective"] for kind in KINDS])
    assert trained(tmp_path / "one" / "whole", "isogclr", resume=True)[2] == ""
    assert last(tmp_path / "one" / "whole")["step"] == 8
