"""Trackers: TensorBoard, Weights & Biases, MLflow and the others that accelerate knows, by one line of a recipe."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers

from mmts.distributed.processes import process_index
from mmts.errors import RunError
from mmts.objectives import Objective
from mmts.recipe.run_directory import RunDirectory

_MOST_SAMPLES = 1_000_000  # in a histogram


def trackers_for(names: Sequence[str], run: RunDirectory) -> list[Any] | None:
    """Return Accelerator's `log_with`; RunError names the package of a tracker that is not installed."""
    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in available:  # accelerate itself would silently track nothing
            package = "comet-ml" if name == "comet_ml" else name
            remedy = f"pip install {package}, or leave it out"
            raise RunError(f"train.trackers: the package {package} is not installed: {remedy}")
    # All trackers get one project name, and TensorBoard takes it for the folder of its files.
    made = [TensorBoardTracker("tensorboard", str(run.path)) if name == "tensorboard" else name for name in names]
    return made or None


def start_trackers(accelerator: Accelerator, run: RunDirectory, project: str, settings: Mapping[str, Any]) -> None:
    """Open a run with the recipe's settings in every tracker; RunError if one cannot start, such as without a login."""
    name, folder = run.path.resolve().name, str(run.path)
    options = {
        "wandb": {"name": name, "dir": folder},
        "mlflow": {"run_name": name},
        "clearml": {"task_name": name},
        "dvclive": {"dir": str(run.path / "dvclive")},
        "swanlab": {"experiment_name": name, "logdir": str(run.path / "swanlab")},
        "trackio": {"name": name},
    }
    plain = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in settings.items()}
    try:
        accelerator.init_trackers(project, init_kwargs=options)
        for tracker in accelerator.trackers:
            if tracker.name != "tensorboard":
                tracker.store_init_configuration(plain)
            elif process_index() == 0:  # its table of hyper-parameters would make a folder for every start
                tracker.writer.add_text("recipe", "".join(f"    {key}: {value}\n" for key, value in plain.items()))
    except Exception as error:  # a third party raises anything without a login or a network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"train.trackers: a tracker could not start: {reason}; set it up, or leave it out") from error


def track(trackers: Sequence[Any], numbers: Mapping[str, float], step: int) -> None:
    """Send numbers by name to every tracker."""
    for tracker in trackers:
        # MLflow refuses the sign in R@1.
        sent = {name.replace("@", "_at_") if tracker.name == "mlflow" else name: numbers[name] for name in numbers}
        tracker.log(sent, step=step)


def track_histograms(
    trackers: Sequence[Any], objective: Objective, progress: float, num_samples: int, device: torch.device, step: int
) -> None:
    """Send the distribution of all samples' own temperatures or margins to TensorBoard and Weights & Biases."""
    index = torch.arange(0, num_samples, math.ceil(num_samples / _MOST_SAMPLES), device=device)  # evenly spread
    for name, value in objective.values(progress, index).items():
        if value.ndim != 1:
            continue
        rows = value.detach().float().cpu().numpy()
        for tracker in trackers:
            if tracker.name == "tensorboard":
                tracker.writer.add_histogram(f"{name}/samples", rows, global_step=step)
            elif tracker.name == "wandb":
                import wandb

                tracker.log({f"{name}/samples": wandb.Histogram(rows)}, step=step)
