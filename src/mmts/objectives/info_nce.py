"""InfoNCE and its relatives with the temperatures of a policy."""

from collections.abc import Callable
from typing import Annotated, Any

from torch import Tensor

from mmts.losses import decoupled_info_nce, info_nce, multi_positive_info_nce, reweighted_info_nce
from mmts.losses.queries import Anchor
from mmts.losses.softmax import check_options
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.objectives.max_margin import MARGIN
from mmts.objectives.prior import Prior
from mmts.objectives.row_weights import RowWeights
from mmts.options import RecipeDefault, ZeroToOne
from mmts.policies import Policy


class InfoNCE(Objective):
    """InfoNCE with the temperatures of a policy (docs/method.md, 4.3 to 4.7 and 5.1; arXiv 1807.03748).

    temperature: the policy.
    anchor: whose temperature divides a logit: the query's (`row`), the candidate's, or in both directions the medium's.
    label_smoothing: share of the target that is spread over all candidates.
    scale_by_temperature: multiply each row by its temperature, which cancels its effect on the size of the gradient.
    prior: logit adjustment by the share of each candidate's concept (4.20).
    weights: weights of rows by the size of their concept (4.21).
    margin: a policy whose values are subtracted from the cosines of positive pairs (4.22), one per sample.

    Logs "temperature" and "margin", the policies' values, and "weight" (B,), the pull on each positive pair over the
    batch's mean.

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
        prior: Prior | None = None,
        weights: RowWeights | None = None,
        margin: Annotated[Policy | None, RecipeDefault(None, MARGIN.options)] = None,
    ) -> None:
        super().__init__()
        check_options(anchor, label_smoothing)
        self.temperature, self.prior, self.weights, self.margin = temperature, prior, weights, margin
        self.options: dict[str, Any] = {
            "anchor": anchor,
            "label_smoothing": label_smoothing,
            "scale_by_temperature": scale_by_temperature,
        }

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the loss at the policy's temperatures."""
        log = {"temperature": policy_values(self.temperature, x, y, pairs)}
        options = self.options | {"positives": pairs.positives, "queries": pairs.queries}
        if self.prior is not None:
            options |= {"candidate_bias": self.prior(pairs.index), "bias_positives": self.prior.of == "all"}
        if self.weights is not None:
            options["weights"] = self.weights(pairs.progress, pairs.index)
        if self.margin is not None:
            options["margin"] = log["margin"] = policy_values(self.margin, x, y, pairs)
        loss, log["weight"] = self.loss(x, y, log["temperature"], **options)
        return ObjectiveOutput(loss, log)


class DecoupledInfoNCE(InfoNCE):
    """Decoupled InfoNCE: the positive pair leaves the denominator (docs/method.md, 4.11; arXiv 2110.06848).

    temperature: the policy; the loss has no lower bound, so a learned temperature ends at its own lower bound.

    The rest is as in InfoNCE.
    """

    loss = staticmethod(decoupled_info_nce.with_pull)


class MultiPositiveInfoNCE(InfoNCE):
    """Multi-positive InfoNCE: extra positives are targets too, SupCon's L_out (docs/method.md, 4.12; arXiv 2004.11362).

    label_smoothing: share of the target that is spread over all candidates, positives included.

    The rest is as in InfoNCE.
    """

    loss = staticmethod(multi_positive_info_nce.with_pull)


class ReweightedInfoNCE(InfoNCE):
    """MACL: InfoNCE with row i multiplied by 1/(1 - P_i), so that easy pairs pull as hard (docs/method.md, 4.16).

    temperature: the policy; with `MACL` this is the whole of MACL.

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
