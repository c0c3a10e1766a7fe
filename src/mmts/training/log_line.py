"""The report of a step: a line of log.jsonl, the same in words, and the batch at which training diverged."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES
from mmts.distributed.processes import gather, num_processes
from mmts.errors import Diverged
from mmts.files import write_json
from mmts.recipe.run_directory import RunDirectory, dotted

_VALUES = ("temperature", "margin")


def summarize(log: dict[str, Tensor], groups: Tensor | None) -> dict[str, Any]:
    """Reduce an objective's log to min, mean and max, and to means by head, mid and tail; called on all processes.

    groups: (B,), 0, 1, 2 = head, mid, tail of each pair; None leaves the means by group out.
    """
    summary: dict[str, Any] = {}
    by_group: dict[str, dict[str, float]] = {}
    for name, value in log.items():
        if name != "weight":  # its mean is 1 by definition; only its groups say something
            summary[name] = _range(value)
        if groups is None or value.shape != groups.shape:
            continue
        value = value.detach().float().cpu()
        for number, group in enumerate(GROUP_NAMES):
            if (inside := groups == number).any():
                by_group.setdefault(group, {})[name] = value[inside].mean().item()
    return summary | ({"groups": by_group} if by_group else {})


def _range(value: Tensor) -> dict[str, float]:
    """Return min, mean and max; of one value per pair, this process's (b, B), those over all processes."""
    value = value.detach().float()
    row = torch.stack([value.min(), value.mean(), value.max()]).cpu().double()
    if value.ndim == 2:
        count = torch.tensor([value.numel()], dtype=torch.float64)
        lows, means, highs, counts = gather(torch.cat([row, count])[None], [1] * num_processes()).unbind(dim=1)
        row = torch.stack([lows.min(), (means * counts).sum() / counts.sum(), highs.max()])
    return dict(zip(("min", "mean", "max"), row.tolist(), strict=True))


def describe(line: dict[str, Any]) -> str:
    """Put a log line in words for the progress bar.

    >>> describe({"loss": 1.234, "temperature": {"min": 0.05, "mean": 0.1, "max": 0.2}})
    'loss 1.23, temperature 0.050-0.200'
    """
    words = [f"loss {line['loss']:.2f}"] if "loss" in line else []
    words += [f"skipped, {line['skipped']} so far"] if "skipped" in line else []
    for name in _VALUES:
        if name in line:
            low, high = line[name]["min"], line[name]["max"]
            words.append(f"{name} {low:.3f}" + (f"-{high:.3f}" if high - low > 5e-4 else ""))
    return ", ".join(words)


def recall_in_words(figures: Mapping[str, Any]) -> str:
    """Put R@1 of both directions in words.

    >>> recall_in_words({"text_to_image": {"R@1": 51.46}, "image_to_text": {"R@1": 48.0}, "groups": {}})
    'R@1 text→image 51.5, image→text 48.0'
    """
    sides = (f"{key.replace('_to_', '→')} {side['R@1']:.1f}" for key, side in figures.items() if "_to_" in key)
    return f"R@1 {', '.join(sides)}"


def flatten(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a log line by paths of keys: `val/image_to_text/R@1`."""
    return {name: value for name, value in dotted(line, sign="/").items() if isinstance(value, int | float)}


class NotFinite(Exception):
    """A batch's loss or gradients are not finite; `values` are the ranges of its temperatures or margins, by name."""

    def __init__(self, what: str, log: Mapping[str, Tensor]) -> None:  # on all processes
        super().__init__(what)
        self.values = {name: _range(log[name]) for name in _VALUES if name in log}


def diverged(
    run: RunDirectory, step: int, progress: float, problem: NotFinite, index: Tensor, saved_at: int | None
) -> Diverged:
    """Write diverged.json and return the error: step, problem, temperatures, samples, last good checkpoint.

    index: (B,), the batch's samples. saved_at: the step of the last checkpoint.
    """
    samples, last = index.tolist(), run.checkpoint_file("last")
    saved = {"checkpoint": None if saved_at is None else str(last), "checkpoint_step": saved_at}
    about = {"step": step, "progress": progress, "what": str(problem), **problem.values, "index": samples}
    write_json(run.diverged_file, about | saved)
    named = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
    good = "no checkpoint was written yet"
    if saved_at is not None:
        good = f"the last good checkpoint is {last} (step {saved_at})"
    what = "; ".join(filter(None, (str(problem), describe(problem.values))))
    remedy = "Try a lower train.learning_rate, or --resume with train.on_nan=skip"
    return Diverged(f"step {step}: {what}; samples {named} (all in {run.diverged_file}); {good}. {remedy}")
