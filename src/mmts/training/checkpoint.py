"""Checkpoints: written beside the old one and renamed, checked byte for byte when read, never unpickled.

A resumed run needs last.pt or previous.pt: whenever a process is killed, one of them is whole.
"""

import errno
import os
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmts.console import errors
from mmts.errors import RunError
from mmts.files import atomic_write, leftovers
from mmts.models import TwoTower
from mmts.objectives import Objective
from mmts.training.averages import MovingAverage

_SECTIONS = ("model", "objective", "random")
_NUMBERS = {"step": int, "best": float, "total_steps": int}
_COUNTS = {"total_steps": "steps", "batches_per_epoch": "batches per epoch", "batch_size": "pairs per batch"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; a crash while writing leaves the old file. Raises OSError naming the file."""
    try:
        with atomic_write(path) as file:
            torch.save(state, file)
    except RuntimeError as error:  # torch raises this on a full disk
        message = f"cannot be written, is the disk full? ({' '.join(str(error).split())})"
        raise OSError(errno.EIO, message, str(path)) from None


def save_in_turn(folder: Path, state: dict[str, Any]) -> None:
    """Write last.pt; the one that was there becomes previous.pt. At every moment one of them is whole.

    Shards that neither of them names are removed.
    """
    save_checkpoint(folder / "next.pt", state)
    if (folder / "last.pt").exists():
        os.replace(folder / "last.pt", folder / "previous.pt")
    os.replace(folder / "next.pt", folder / "last.pt")
    named = {_shards_of(folder / "last.pt"), _shards_of(folder / "previous.pt")}
    for shards in folder.glob("step-*"):
        if shards.name not in named:
            shutil.rmtree(shards, ignore_errors=True)


def _shards_of(file: Path) -> str | None:
    with suppress(Exception):  # there is no file, it is damaged, or it holds the whole model
        name: str = torch.load(file, map_location="cpu", weights_only=True, mmap=True)["shards"]["folder"]
        return name
    return None


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Read last.pt, or previous.pt with a note if last.pt is missing or damaged; None if neither exists.

    Temporary files of a killed process are removed. Raises RunError if every checkpoint is damaged.
    """
    last, previous = folder / "last.pt", folder / "previous.pt"
    for file in [*leftovers(folder), folder / "next.pt"]:
        file.unlink(missing_ok=True)
    if not last.exists() and not previous.exists():
        return None
    try:
        return _with_shards(last)
    except RunError as error:
        if not previous.exists():
            raise RunError(f"{error}, and there is none before it; remove it, and --resume starts over") from None
        state = _with_shards(previous)
        errors.print(f"note: {error}; resuming from the one before it, {previous.name}")
        return state


def _with_shards(path: Path) -> dict[str, Any]:
    state = load_checkpoint(path)
    if "shards" in state:
        from mmts.training.shards import check_shards  # imports what takes half a second, of torch.distributed

        check_shards(path.parent, state["shards"])
    return state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint (weights only); raises RunError naming the file if it is missing or damaged."""
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch accepts flipped bits, so compare checksums. It never compresses; a bomb would.
            stored = all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
            whole = stored and archive.testzip() is None
        state = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except Exception:  # torch and zipfile raise nearly anything on a damaged file
        state = None
    if not isinstance(state, dict):
        raise RunError(f"{path} cannot be read as a checkpoint: it is damaged, or another kind of file")
    return state


def check_same_clock(state: Mapping[str, Any], now: Mapping[str, int]) -> None:
    """Compare a checkpoint's counts with this run's: steps, batches per epoch, pairs per batch, processes.

    Progress is step / total_steps, so with other counts the schedules would jump: RunError says from where to where.
    Another number of processes changes only the order of sums and the dropout, which is printed.
    """
    sections = (*_SECTIONS, "shards" if "shards" in state else "optimizer")
    for name, kind in (dict.fromkeys(sections, Mapping) | _NUMBERS).items():
        if not isinstance(state.get(name), kind):
            raise RunError(f"the checkpoint has no {name} to resume from; it is another kind of file")
    step, total = state["step"], state["total_steps"]
    if not 0 <= step <= total:
        raise RunError(f"the checkpoint says step {step} of {total}, which is impossible")
    for name, words in _COUNTS.items():
        if (before := state.get(name)) != now[name]:
            jump = ""
            if total != now["total_steps"]:
                jump = f"progress would jump from {step / total:.3f} to {step / now['total_steps']:.3f}, and "
            why = "The training data or the batch size has changed since; choose another --out"
            counts = f"the checkpoint counts {before} {words} and this run {now[name]}"
            raise RunError(f"{counts}: {jump}batches would differ. {why}")
    if (before := state.get("processes")) != now["processes"]:
        same = "the same batches and schedules, but sums run in another order and dropout draws anew"
        errors.print(f"note: resuming with {now['processes']} processes instead of {before}: {same}")


def check_frozen(state: Mapping[str, Any], model: TwoTower) -> None:
    """Raise RunError if a checkpoint was written with other frozen weights (it does not hold them) than `model`."""
    if state.get("frozen") != model.frozen_hash:
        what = "the frozen weights, of model.start or of a frozen tower, are not those that the run was trained with"
        raise RunError(f"{what}; its checkpoints do not hold them: bring the former weights back, or train again")


def restore(
    state: Mapping[str, Any],
    model: TwoTower,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None = None,
    checkpoints: Path = Path(),
) -> None:
    """Load a checkpoint's weights, average, objective, optimizer and random state; RunError if they do not fit.

    checkpoints: the folder that has the shards of a sharded model.
    """
    from mmts.distributed.sharded_model import shared_out  # imports what takes half a second, of torch.distributed
    from mmts.training.shards import load_shards

    check_frozen(state, model)
    try:
        if "shards" in state:
            load_shards(checkpoints / state["shards"]["folder"], model, objective, optimizer, average)
        else:
            own = model.trainable_state_dict()
            weights = shared_out(state["model"], own)
            model.load_trainable_state_dict(weights)  # with an average, this one, which has to fit as well
            if average is not None:
                average.load(weights)
                model.load_trainable_state_dict(shared_out(state["weights"], own))
            optimizer.load_state_dict(_moments(state["optimizer"], optimizer))
        objective.load_state_dict(state["objective"])
        restore_random_state(state["random"])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise RunError(f"the checkpoint does not fit this run: {why}; choose another --out") from None


def _moments(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return AdamW's saved moments of each parameter, with this run's own groups; ValueError for other shapes."""
    from mmts.distributed.sharded_model import shared_out

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {}
    for number, values in saved["state"].items():
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape not in (parameters[number].shape, ()):
                raise ValueError(f"the optimizer's {name} of parameter {number} has another shape")
        alike = {name: parameters[number] for name, value in values.items() if value.shape}
        state[number] = shared_out(values, alike)
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def random_state() -> dict[str, Any]:
    """Return the state of torch's random generators, CPU and CUDA."""
    cuda = {"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back into a state that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
