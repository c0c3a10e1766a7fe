"""SigLIP: every pair is a classification of its own."""

from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from mmts.losses import siglip
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.options import RecipeDefault, checked
from mmts.policies import Policy
from mmts.policies.base import from_pair


class SigLIP(Objective):
    """SigLIP's sigmoid loss with the temperatures of a policy and a learned bias (docs/method.md, 4.15).

    temperature: the policy, published as Learned(start=0.1).
    bias: where the learned bias starts, a parameter of shape (), so without weight decay; `pretrained` is the logit
        bias of the SigLIP that `model.start` names.

    Logs "temperature", the policy's values, "bias", and "weight" (B,), the pull on each positive pair (5.1).
    Source: Zhai et al., arXiv 2303.15343.

    >>> from mmts.policies import Learned
    >>> objective, x = SigLIP(Learned(start=0.1)), torch.eye(2)
    >>> output = objective(x, x, progress=0.0, index=torch.tensor([0, 1]))
    >>> round(output.loss.item(), 4), output.log["bias"].item()  # ln 2 per row for the positive pair, whose logit is 0
    (0.6932, -10.0)
    """

    splits_queries = True

    @checked
    def __init__(self, temperature: Policy, *, bias: float = -10.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    @classmethod
    def from_recipe(
        cls,
        run: Any,
        temperature: Annotated[Policy, RecipeDefault({"rule": "learned", "start": 0.1})],
        *,
        bias: float | Literal["pretrained"] = -10.0,
    ) -> "SigLIP":
        """Return the objective, with the bias of the run's pretrained pair if `bias` says so."""
        if bias != "pretrained":
            return cls(temperature, bias=bias)
        return cls(temperature, bias=from_pair("bias", run.pair_bias, "logit bias", run) or 0.0)

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return siglip at the policy's temperatures."""
        temperature = policy_values(self.temperature, x, y, pairs)
        loss, pull = siglip.with_pull(x, y, temperature, self.bias, positives=pairs.positives, queries=pairs.queries)
        return ObjectiveOutput(loss, {"temperature": temperature, "bias": self.bias.detach().clone(), "weight": pull})
