"""SigLIP's sigmoid loss with the temperatures of a policy and a learned bias."""

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.rows import own_cosines, own_values
from mmts.losses.siglip import siglip
from mmts.objectives.base import Objective, ObjectiveOutput, Share, policy_values, shown, whole
from mmts.options import RecipeDefault
from mmts.policies import Policy

PUBLISHED = RecipeDefault({"rule": "learned", "start": 0.1})


class SigLIP(Objective):
    """SigLIP's sigmoid loss with the temperatures of a policy and a learned bias (docs/method.md, 4.15).

    temperature: the policy, published as Learned(start=0.1).
    bias: where the learned bias starts, a parameter of shape (), so in the group without weight decay.

    Logs "temperature", the policy's values as they came, "bias", and "weight"
    (B,): the pull on each sample's own pair, sigmoid(-z_ii) / tau_i, relative to the batch's mean (5.1). InputError
    unless the bias is finite.
    Source: Zhai et al., arXiv 2303.15343.

    >>> from mmts.policies import Learned
    >>> objective, x = SigLIP(Learned(start=0.1)), torch.eye(2)
    >>> output = objective(x, x, progress=0.0, index=torch.tensor([0, 1]))
    >>> round(output.loss.item(), 4), output.log["bias"].item()  # ln 2 a row for the own pair, whose logit is 0
    (0.6932, -10.0)
    """

    def __init__(self, temperature: Annotated[Policy, PUBLISHED], *, bias: float = -10.0) -> None:
        super().__init__()
        if not math.isfinite(bias):
            raise InputError(f"bias is {bias}; it must be finite")
        self.temperature = temperature
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        progress: float,
        index: Tensor,
        media_index: Tensor | None = None,
        positives: Tensor | None = None,
        relevance: Tensor | None = None,
        share: Share | None = None,
    ) -> ObjectiveOutput:
        """Return siglip at the policy's temperatures; `relevance` is not looked at."""
        share = share or whole(len(x))
        temperature = policy_values(self.temperature, x, y, progress, index, share.rows)
        loss = siglip(x, y, temperature, self.bias, positives=positives, rows=share.rows)
        log = {"temperature": shown(temperature), "bias": self.bias.detach().clone()}
        own = own_values(temperature.detach(), share.rows)
        logit = own_cosines(x.detach(), y.detach())[share.rows] / own + log["bias"]
        share.log_relative(log, torch.sigmoid(-logit) / own)
        return ObjectiveOutput(loss, log)
