"""Going on from a checkpoint: only where it counts as this run does, and only with what fits this model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmts.console import errors
from mmts.errors import RunError
from mmts.models import TwoTower
from mmts.objectives import Objective
from mmts.training.checkpoint import restore_random_state

_KINDS: dict[str, type | tuple[type, ...]] = {
    "model": Mapping,
    "objective": Mapping,
    "optimizer": Mapping,
    "random": Mapping,
    "step": int,
    "best": float,
    "total_steps": int,
}
_WORDS = {"total_steps": "steps", "batches_per_epoch": "batches an epoch", "batch_size": "pairs a batch"}


def check_same_clock(state: Mapping[str, Any], now: Mapping[str, int]) -> None:
    """Compare what a checkpoint counts with what this run counts: steps, batches an epoch, pairs a batch, processes.

    Progress is step / total_steps, so with other counts the schedules would jump: RunError says from where to where.
    Another number of processes changes only the order of sums, and what dropout draws, which is said.
    """
    for name, kind in _KINDS.items():
        if not isinstance(state.get(name), kind):
            raise RunError(f"the checkpoint has no {name} that a run could go on from; it is another kind of file")
    step, total = state["step"], state["total_steps"]
    if not 0 <= step <= total:
        raise RunError(f"the checkpoint is of step {step} of {total}, which cannot be")
    for name, words in _WORDS.items():
        before = state.get(name, now[name])
        if before != now[name]:
            jump = ""
            if total != now["total_steps"]:
                jump = f"progress would jump from {step / total:.3f} to {step / now['total_steps']:.3f}, and "
            raise RunError(
                f"the checkpoint counts {before} {words} and this run {now[name]}: {jump}batches would be others. "
                "The training data or the batch size has changed since; choose another --out"
            )
    if (before := state.get("processes", 1)) != now["processes"]:
        errors.print(
            f"note: going on with {now['processes']} processes in place of {before}: the same batches and schedules, "
            "sums in another order, and dropout draws anew"
        )


def restore(state: Mapping[str, Any], model: TwoTower, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint's weights, objective, optimizer and random state; RunError for what does not fit them."""
    try:
        model.load_trainable_state_dict(state["model"])
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(_moments(state["optimizer"], optimizer))
        restore_random_state(state["random"])
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise RunError(f"the checkpoint does not fit this run: {why}; choose another --out") from None


def _moments(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what AdamW remembers of each parameter, with this run's own groups; ValueError for another's shapes."""
    own = optimizer.state_dict()["param_groups"]
    parameters: list[nn.Parameter] = [each for group in optimizer.param_groups for each in group["params"]]
    for number, values in saved["state"].items():
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape not in (parameters[number].shape, ()):
                raise ValueError(f"the optimizer's {name} of parameter {number} is another's")
    return {"state": saved["state"], "param_groups": own}
