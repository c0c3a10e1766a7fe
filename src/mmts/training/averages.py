"""Averages of weights: over the steps of a run, and of its start with what came of it (docs/method.md, 8)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from mmts.models import TwoTower


def ema_decay(decay: float, t: int) -> float:
    """Return the share of the average that stays when the weights after step t (from 0) join it: formula 8.2.

    It grows from .1 to `decay`, so that the first steps do not keep the random or pretrained start in the average.

    >>> [round(ema_decay(0.99, t), 3) for t in (0, 10, 10_000)]
    [0.1, 0.55, 0.99]
    """
    return min(decay, (1 + t) / (10 + t))


class MovingAverage:
    """The exponential moving average of what trains in a model: formula 8.1; buffers are copied.

    The average is kept in float32 or better, since bfloat16 would round its small steps away.

    Source: Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992.
    """

    def __init__(self, model: TwoTower, decay: float) -> None:
        self.decay = decay
        self.state = {name: _copy(value) for name, value in model.trainable_state_dict().items()}

    @torch.no_grad()
    def update(self, model: TwoTower, t: int) -> None:
        """Take in the weights after step t, from 0; skipped steps do not count."""
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        decay = ema_decay(self.decay, t)
        for name, value in model.trainable_state_dict().items():
            average = self.state[name]
            if name in parameters:
                average.lerp_(value.to(average.dtype), 1 - decay)
            else:
                average.copy_(value)

    @contextmanager
    def in_place_of_weights(self, model: TwoTower) -> Iterator[None]:
        """Within it, the model has the averaged weights."""
        own = {name: value.detach().clone() for name, value in model.trainable_state_dict().items()}
        model.load_trainable_state_dict(self.state)
        try:
            yield
        finally:
            model.load_trainable_state_dict(own)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        for name, value in self.state.items():
            value.copy_(state[name])


def interpolated(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the weights (1 - share) start + share tuned, formula 8.3, for two states of one model.

    share: in [0, 1]. Integers are those of `tuned`, and so is A of a LoRA whose B is 0 at the start, so that it adds
    nothing there: B alone is then multiplied by `share`, which is the same change of the layer (formula 8.4).

    >>> start, tuned = {"weight": torch.tensor([0.0, 4.0])}, {"weight": torch.tensor([1.0, 2.0])}
    >>> interpolated(start, tuned, 0.25)["weight"]
    tensor([0.2500, 3.5000])

    Source: Wortsman et al., Robust fine-tuning of zero-shot models (WiSE-FT), arXiv 2109.01903.
    """
    result = {}
    for name, value in tuned.items():
        factor = name.replace("lora_A", "lora_B")
        adds_nothing = factor != name and not start[factor].any()
        if adds_nothing or not value.is_floating_point():
            result[name] = value
        else:
            result[name] = (1 - share) * start[name] + share * value
    return result


def _copy(value: Tensor) -> Tensor:
    value = value.detach()
    if not value.is_floating_point():
        return value.clone()
    return value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
