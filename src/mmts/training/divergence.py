"""A step whose numbers are none: what is found out about it, and said."""

import torch
from torch import Tensor, nn

from mmts.errors import Diverged, InputError
from mmts.files import write_json
from mmts.objectives import Objective, ObjectiveOutput
from mmts.recipe.run_directory import RunDirectory
from mmts.training.log_line import describe_values, range_of_all, value_range

_NAMED = 8  # samples in a message; diverged.json has them all
_VALUES = ("temperature", "margin")


class NotFinite(Exception):
    """A batch's loss or gradients are no numbers; `what` says which, `values` the temperatures or margins by name."""

    def __init__(self, what: str, values: dict[str, dict[str, float]]) -> None:
        super().__init__(what)
        self.what = what
        self.values = values


def values_in(output: ObjectiveOutput) -> dict[str, dict[str, float]]:
    """Return min, mean and max of the temperatures or margins that an objective logged; all processes must ask."""
    logged = {name: output.log[name] for name in _VALUES if name in output.log}
    return {name: range_of_all(value) if value.ndim == 2 else value_range(value) for name, value in logged.items()}


def values_of(objective: Objective, progress: float, index: Tensor) -> dict[str, dict[str, float]]:
    """Ask an objective that gave no output for its temperatures or margins, as far as no embeddings decide."""
    try:
        return {name: value_range(value) for name, value in objective.values(progress, index).items()}
    except InputError:  # it may be the policy that has gone wrong
        return {}


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients together, shape (); not finite where one of them is not, or beyond 1e19."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    # On a CPU products take half the time of norms.
    if gradients and all(each.device.type == "cpu" and each.dtype.itemsize >= 4 for each in gradients):
        squares = [torch.dot(each, each) for each in (each.flatten() for each in gradients)]
        return torch.stack([each.double() for each in squares]).sum().sqrt()
    return torch.nn.utils.get_total_norm(gradients)


def diverged(
    run: RunDirectory, step: int, progress: float, found: NotFinite, index: Tensor, saved_at: int | None
) -> Diverged:
    """Write diverged.json and return the error: step, what was found, temperatures, samples, last good checkpoint.

    `index` (B,) are the batch's samples, `saved_at` the step of the last checkpoint.
    """
    samples = index.tolist()
    last = None if saved_at is None else str(run.checkpoint_file("last"))
    write_json(
        run.diverged_file,
        {"step": step, "progress": progress, "what": found.what, **found.values, "index": samples}
        | {"checkpoint": last, "checkpoint_step": saved_at},
    )
    named = ", ".join(map(str, samples[:_NAMED])) + (", ..." if len(samples) > _NAMED else "")
    good = "no checkpoint was written yet" if last is None else f"the last good checkpoint is {last} (step {saved_at})"
    values = "".join(f"; {each}" for each in describe_values(found.values))
    return Diverged(
        f"step {step}: {found.what}{values}; samples {named} (all in {run.diverged_file}); {good}. "
        "Try a lower train.learning_rate, or --resume with train.on_nan=skip"
    )
