"""What a step did, in plain numbers: a line of log.jsonl, the same in words, the same for trackers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES
from mmts.distributed.collectives import gather
from mmts.distributed.processes import num_processes
from mmts.recipe.run_directory import dotted

_VALUES = ("temperature", "margin")


def value_range(value: Tensor) -> dict[str, float]:
    """Return min, mean and max of a tensor."""
    low, mean, high = _low_mean_high(value).tolist()
    return {"min": low, "mean": mean, "max": high}


def range_of_all(value: Tensor) -> dict[str, float]:
    """Return the same of values a pair over all processes, of which each has its queries', (b, B)."""
    own = torch.cat([_low_mean_high(value), torch.tensor([value.numel()], dtype=torch.float64)])
    lows, means, highs, numbers = gather(own[None], [1] * num_processes()).unbind(dim=1)
    mean = (means * numbers).sum() / numbers.sum()
    return {"min": lows.min().item(), "mean": mean.item(), "max": highs.max().item()}


def _low_mean_high(value: Tensor) -> Tensor:
    value = value.detach().float()
    return torch.stack([value.min(), value.mean(), value.max()]).cpu().double()


def summarize(log: dict[str, Tensor], of_sample: Tensor | None) -> dict[str, Any]:
    """Turn what an objective logs into min, mean and max, and into means by head, mid and tail; on all processes.

    `of_sample` (B,) is 0, 1, 2 = head, mid, tail; None leaves the groups out.
    """
    summary: dict[str, Any] = {}
    groups: dict[str, dict[str, float]] = {}
    for name, value in log.items():
        if name != "weight":  # its mean is 1 by definition; only its groups say something
            summary[name] = range_of_all(value) if value.ndim == 2 else value_range(value)
        if of_sample is None or value.shape != of_sample.shape:
            continue
        value = value.detach().float().cpu()
        for number, group in enumerate(GROUP_NAMES):
            inside = of_sample == number
            if inside.any():
                groups.setdefault(group, {})[name] = value[inside].mean().item()
    return summary | ({"groups": groups} if groups else {})


def recall_in_words(figures: Mapping[str, Any]) -> str:
    """Put R@1 of both directions in words.

    >>> recall_in_words({"text_to_image": {"R@1": 51.46}, "image_to_text": {"R@1": 48.0}, "groups": {}})
    'R@1 text→image 51.5, image→text 48.0'
    """
    sides = (f"{key.replace('_to_', '→')} {side['R@1']:.1f}" for key, side in figures.items() if "_to_" in key)
    return f"R@1 {', '.join(sides)}"


def describe(line: dict[str, Any]) -> str:
    """Put a log line in words for the progress bar.

    >>> describe({"loss": 1.234, "temperature": {"min": 0.05, "mean": 0.1, "max": 0.2}})
    'loss 1.23, temperature 0.050-0.200'
    """
    loss = f"loss {line['loss']:.2f}" if "loss" in line else f"skipped, {line['skipped']} by now"
    return ", ".join([loss, *describe_values(line)])


def describe_values(line: dict[str, Any]) -> list[str]:
    """Put the temperatures or margins of a log line in words.

    >>> describe_values({"margin": {"min": 0.2, "mean": 0.2, "max": 0.2}})
    ['margin 0.200']
    """
    parts = []
    for name in _VALUES:
        if name in line:
            low, high = line[name]["min"], line[name]["max"]
            parts.append(f"{name} {low:.3f}" + (f"-{high:.3f}" if high - low > 5e-4 else ""))
    return parts


def flatten(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a log line by paths of keys.

    >>> flatten({"loss": 1.0, "val": {"image_to_text": {"R@1": 50.0}}})
    {'loss': 1.0, 'val/image_to_text/R@1': 50.0}
    """
    return {name: value for name, value in dotted(line, sign="/").items() if isinstance(value, int | float)}
