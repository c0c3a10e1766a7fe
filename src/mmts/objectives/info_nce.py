"""InfoNCE, its relatives and SigLIP with the temperatures of a policy."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses import decoupled_info_nce, info_nce, multi_positive_info_nce, reweighted_info_nce, siglip
from mmts.losses.queries import Anchor
from mmts.losses.softmax import check_options
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values, similarities
from mmts.options import Positive, RecipeDefault, ZeroToOne
from mmts.policies import Policy, TeMoTemperature
from mmts.schedules import check_progress


class InfoNCE(Objective):
    """InfoNCE with the temperatures of a policy (docs/method.md, 4.3 to 4.7 and 5.1; arXiv 1807.03748).

    temperature: the policy.
    anchor: whose temperature divides a logit: the query's (`row`), the candidate's, or in both directions the medium's.
    label_smoothing: share of the target that is spread over all candidates.
    scale_by_temperature: multiply each row by its temperature, which cancels its effect on the size of the gradient.

    Logs "temperature", the policy's values, and "weight" (B,), the pull on each positive pair over the batch's mean.

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> output = InfoNCE(Fixed(0.1))(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.log["weight"]
    tensor([1., 1.])
    """

    splits_queries = True
    loss: Callable[..., tuple[Tensor, Tensor]] = staticmethod(info_nce.with_pull)

    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        anchor: Anchor = "row",
        label_smoothing: ZeroToOne = 0.0,
        scale_by_temperature: bool = False,
    ) -> None:
        super().__init__()
        check_options(anchor, label_smoothing)
        self.temperature = temperature
        self.options: dict[str, Any] = {
            "anchor": anchor,
            "label_smoothing": label_smoothing,
            "scale_by_temperature": scale_by_temperature,
        }

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the loss at the policy's temperatures."""
        temperature = policy_values(self.temperature, x, y, pairs)
        loss, pull = self.loss(x, y, temperature, positives=pairs.positives, queries=pairs.queries, **self.options)
        return ObjectiveOutput(loss, {"temperature": temperature, "weight": pull})


class DecoupledInfoNCE(InfoNCE):
    """Decoupled InfoNCE: the positive pair leaves the denominator (docs/method.md, 4.11; arXiv 2110.06848).

    temperature: the policy; the loss has no lower bound, so a learned temperature ends at its own lower bound.
    anchor: whose temperature divides a logit, as in info_nce.
    label_smoothing: share of the target that is spread over all candidates.
    scale_by_temperature: multiply each row by its temperature, which cancels its effect on the size of the gradient.
    """

    loss = staticmethod(decoupled_info_nce.with_pull)


class MultiPositiveInfoNCE(InfoNCE):
    """Multi-positive InfoNCE: extra positives are targets too, SupCon's L_out (docs/method.md, 4.12; arXiv 2004.11362).

    temperature: the policy.
    anchor: whose temperature divides a logit, as in info_nce.
    label_smoothing: share of the target that is spread over all candidates, positives included.
    scale_by_temperature: multiply each row by its temperature, which cancels its effect on the size of the gradient.
    """

    loss = staticmethod(multi_positive_info_nce.with_pull)


class ReweightedInfoNCE(InfoNCE):
    """MACL: InfoNCE with row i multiplied by 1/(1 - P_i), so that easy pairs pull as hard (docs/method.md, 4.16).

    temperature: the policy; with `MACL` this is the whole of MACL.
    anchor: whose temperature divides a logit, as in info_nce.

    The gradient is that of decoupled InfoNCE, so the logged weight is 1/tau_i over its mean, or 0 without a negative.
    Source: Huang et al., arXiv 2207.07874.

    >>> import torch
    >>> from mmts.policies import MACL
    >>> output = ReweightedInfoNCE(MACL())(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.log
    {'temperature': tensor(0.1500), 'weight': tensor([1., 1.])}
    """

    loss = staticmethod(reweighted_info_nce.with_pull)

    def __init__(
        self, temperature: Annotated[Policy, RecipeDefault({"rule": "macl"})], *, anchor: Anchor = "row"
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"anchor": anchor}


class TeMo(Objective):
    """TeMo: from one fixed temperature to one per pair as training goes on (docs/method.md, 5.3; arXiv 2609.07540).

    L = (1 - p)^2 info_nce(tau_min) + p^2 info_nce(tau_ij),   tau_ij = tau_min + tau_alpha sqrt((s_ij + 1)/2)

    tau_min: temperature at the start, and of a pair of similarity -1.
    tau_alpha: what is added to it for a pair of similarity 1.
    label_smoothing: share of the target that is spread over all candidates, in both losses.
    detach: hold tau_ij fixed in the gradient. False lets the gradient run through it, as the authors' code does.

    Logs "temperature" (B, B), the tau_ij, and "weight" (B,), the pull on each positive pair (5.1).
    The two factors do not add up to 1 (halfway the loss is halved), as published. The paper's terms between two
    augmented views of each image and each text are left out.
    Source: TeMo, arXiv 2609.07540 (tau_min .01, tau_alpha .04).

    >>> import torch
    >>> objective, x, index = TeMo(0.05, 0.1), torch.eye(2), torch.tensor([0, 1])
    >>> [round(objective(x, x, progress=p, index=index).loss.item(), 6) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.000318, 0.001272]
    """

    splits_queries = True

    def __init__(
        self,
        tau_min: Positive = 0.01,
        tau_alpha: float = 0.04,
        *,
        label_smoothing: ZeroToOne = 0.0,
        detach: bool = True,
    ) -> None:
        super().__init__()
        check_options(label_smoothing=label_smoothing)
        self.temperature = TeMoTemperature(tau_min, tau_alpha)
        self.label_smoothing, self.detach = label_smoothing, detach

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return both losses, weighted by progress."""
        p = check_progress(pairs.progress)
        sides = (x.detach(), y.detach()) if self.detach else (x, y)
        tau = self.temperature.values(similarities(*sides, pairs.queries))
        (first, first_pull), (second, second_pull) = (
            info_nce.with_pull(
                x, y, at, positives=pairs.positives, label_smoothing=self.label_smoothing, queries=pairs.queries
            )
            for at in (self.temperature.tau_min, tau)
        )
        start, end = (1.0 - p) ** 2, p**2
        log = {"temperature": tau, "weight": start * first_pull + end * second_pull}
        return ObjectiveOutput(start * first + end * second, log)


class SigLIP(Objective):
    """SigLIP's sigmoid loss with the temperatures of a policy and a learned bias (docs/method.md, 4.15).

    temperature: the policy, published as Learned(start=0.1).
    bias: where the learned bias starts, a parameter of shape (), so without weight decay.

    Logs "temperature", the policy's values, "bias", and "weight" (B,), the pull on each positive pair (5.1).
    Source: Zhai et al., arXiv 2303.15343.

    >>> from mmts.policies import Learned
    >>> objective, x = SigLIP(Learned(start=0.1)), torch.eye(2)
    >>> output = objective(x, x, progress=0.0, index=torch.tensor([0, 1]))
    >>> round(output.loss.item(), 4), output.log["bias"].item()  # ln 2 per row for the positive pair, whose logit is 0
    (0.6932, -10.0)
    """

    splits_queries = True

    def __init__(
        self, temperature: Annotated[Policy, RecipeDefault({"rule": "learned", "start": 0.1})], *, bias: float = -10.0
    ) -> None:
        super().__init__()
        if not math.isfinite(bias):
            raise InputError(f"bias is {bias}; it must be finite")
        self.temperature = temperature
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return siglip at the policy's temperatures."""
        temperature = policy_values(self.temperature, x, y, pairs)
        loss, pull = siglip.with_pull(x, y, temperature, self.bias, positives=pairs.positives, queries=pairs.queries)
        return ObjectiveOutput(loss, {"temperature": temperature, "bias": self.bias.detach().clone(), "weight": pull})
