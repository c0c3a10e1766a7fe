"""What the optimizer gets: parameters in groups, and the learning rate over training."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmts.recipe.recipe import Train
from mmts.schedules import Cosine, Schedule, Warmup

OWN_RATE = "own_rate"
"""The key of a group of parameters that keeps its learning rate."""


def learning_rate_schedule(settings: Train) -> Schedule:
    """Half a cosine from the learning rate to the final one, after a linear warm-up from 0."""
    cosine = Cosine(settings.final_learning_rate, settings.learning_rate, cycles=0.5)
    return Warmup(cosine, settings.warmup) if settings.warmup else cosine


def parameter_groups(
    modules: list[nn.Module], weight_decay: float, own_rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Split what trains into matrices, which decay, and the rest (biases, norms, temperatures), which does not.

    Parameters of the last module named in `own_rates` keep that learning rate throughout, and do not decay.
    """
    own_rates = own_rates or {}
    own = {id(each): rate for name, each in modules[-1].named_parameters() if (rate := own_rates.get(name)) is not None}
    trainable = [each for module in modules for each in module.parameters() if each.requires_grad]
    shared = [each for each in trainable if id(each) not in own]
    return [
        {"params": [each for each in shared if each.ndim >= 2], "weight_decay": weight_decay},
        {"params": [each for each in shared if each.ndim < 2], "weight_decay": 0.0},
        *(
            {"params": [each for each in trainable if own.get(id(each)) == rate], "weight_decay": 0.0, OWN_RATE: rate}
            for rate in sorted(set(own.values()))
        ),
    ]
