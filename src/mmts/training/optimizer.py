"""The groups of parameters for the optimizer, and the learning rate over training."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmts.recipe.sections import Train
from mmts.schedules import Cosine, Schedule, Warmup

OWN_RATE = "own_rate"
"""The key of a parameter group that keeps its own learning rate."""
SHARE = "share_of_rate"
"""The key of a parameter group whose learning rate is this multiple of the schedule's."""


def learning_rate_schedule(settings: Train) -> Schedule:
    """Return half a cosine from the learning rate to the final one, after a linear warm-up (docs/method.md, 1.5)."""
    cosine = Cosine(settings.final_learning_rate, settings.learning_rate, cycles=0.5)
    return Warmup(cosine, settings.warmup, settings.warmup_learning_rate) if settings.warmup else cosine


def parameter_groups(
    modules: list[nn.Module],
    weight_decay: float,
    own_rates: Mapping[str, float] | None = None,
    shares: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Split what trains into matrices, which decay, and the rest (biases, norms, temperatures), which does not.

    own_rates: learning rates of parameters of the last module, by name; they keep it throughout, and do not decay.
    shares: multiples of the schedule's learning rate, by the beginning of the names of parameters of the first module.
    """
    own_rates = own_rates or {}
    own = {id(value): own_rates[name] for name, value in modules[-1].named_parameters() if name in own_rates}
    trainable = [value for module in modules for value in module.parameters() if value.requires_grad]
    share = {
        id(value): factor
        for start, factor in (shares or {}).items()
        for name, value in modules[0].named_parameters()
        if name.startswith(start)
    }
    groups: list[dict[str, Any]] = []
    for factor in sorted({1.0, *share.values()}):
        values = [value for value in trainable if id(value) not in own and share.get(id(value), 1.0) == factor]
        matrices, rest = [v for v in values if v.ndim >= 2], [v for v in values if v.ndim < 2]
        groups.append({"params": matrices, "weight_decay": weight_decay, SHARE: factor})
        groups.append({"params": rest, "weight_decay": 0.0, SHARE: factor})
    for rate in sorted(set(own.values())):
        params = [value for value in trainable if own.get(id(value)) == rate]
        groups.append({"params": params, "weight_decay": 0.0, OWN_RATE: rate})
    return groups
