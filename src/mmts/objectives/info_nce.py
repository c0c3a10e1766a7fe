"""InfoNCE and its relatives with the temperatures of a policy."""

from collections.abc import Callable
from typing import Annotated, Any

from torch import Tensor

from mmts.losses import (
    cyclic_consistency,
    decoupled_info_nce,
    dual_temperature,
    hard_negative_info_nce,
    info_nce,
    multi_positive_info_nce,
    no_temperature,
    reweighted_info_nce,
    rince,
)
from mmts.losses.no_temperature import Eps
from mmts.losses.queries import Anchor
from mmts.objectives.adjustments import Prior, RowWeights
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.objectives.max_margin import MARGIN
from mmts.options import AboveZeroToOne, NotNegative, Positive, RecipeDefault, ZeroToBelowOne, ZeroToOne, checked
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

    @checked
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
        self.temperature, self.prior, self.weights, self.margin = temperature, prior, weights, margin
        self.options: dict[str, Any] = {"anchor": anchor, "label_smoothing": label_smoothing}
        self.options["scale_by_temperature"] = scale_by_temperature

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
    """

    loss = staticmethod(reweighted_info_nce.with_pull)

    @checked
    def __init__(
        self, temperature: Annotated[Policy, RecipeDefault({"rule": "macl"})], *, anchor: Anchor = "row"
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"anchor": anchor}


class DualTemperature(InfoNCE):
    """Dual temperature: InfoNCE whose rows weigh as much as at a second temperature (docs/method.md, 4.23).

    temperature: the policy, published as Fixed(0.1).
    ratio: the second temperature over the first; 1 is InfoNCE.

    Source: Zhang et al., arXiv 2203.17248.
    """

    loss = staticmethod(dual_temperature.with_pull)

    @checked
    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        ratio: Positive = 10.0,
        anchor: Anchor = "row",
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"ratio": ratio, "anchor": anchor}


class HardNegativeInfoNCE(InfoNCE):
    """HN-NCE and HCL: InfoNCE in which nearer negatives count more (docs/method.md, 4.25).

    beta: how much more near negatives count; 0 is InfoNCE. Published: .5 in CoVR's code, 1 in HCL's.
    alpha: weight of the positive pair in the denominator (HN-NCE); 0 decouples it.
    tau_plus: share of the negatives that are probably positives (HCL, published .1); 0 in HN-NCE.

    Source: Radenovic et al., arXiv 2301.02280; Robinson et al., arXiv 2010.04592.
    """

    loss = staticmethod(hard_negative_info_nce.with_pull)

    @checked
    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        beta: NotNegative = 0.5,
        alpha: ZeroToOne = 1.0,
        tau_plus: ZeroToBelowOne = 0.0,
        anchor: Anchor = "row",
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"beta": beta, "alpha": alpha, "tau_plus": tau_plus, "anchor": anchor}


class RINCE(InfoNCE):
    """RINCE: InfoNCE that is robust to wrong pairs, on which it pulls less (docs/method.md, 4.26; arXiv 2201.04309).

    temperature: the policy; q over the smallest temperature is at most 64.
    q: near 0 this is InfoNCE; with a larger q, pairs of low similarity pull less.
    lam: weight of the sum over all candidates.
    scale_by_temperature: multiply each row by its temperature, which cancels the inverse temperature in its gradient.
    """

    loss = staticmethod(rince.with_pull)

    @checked
    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        q: AboveZeroToOne = 0.1,
        lam: AboveZeroToOne = 0.01,
        anchor: Anchor = "row",
        scale_by_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"q": q, "lam": lam, "anchor": anchor, "scale_by_temperature": scale_by_temperature}


class CyCLIP(InfoNCE):
    """CyCLIP: InfoNCE with similarities that agree across modalities (docs/method.md, 4.27; arXiv 2205.14459).

    temperature: the policy of InfoNCE; the two terms have none.
    in_modal: weight of the differences between the similarities of two media and of their texts.
    cross_modal: weight of the differences between medium i with text j and medium j with text i.

    The rest is as in InfoNCE, and changes its part of the loss alone.
    """

    @checked
    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        in_modal: NotNegative = 0.25,
        cross_modal: NotNegative = 0.25,
        anchor: Anchor = "row",
        label_smoothing: ZeroToOne = 0.0,
        scale_by_temperature: bool = False,
        prior: Prior | None = None,
        weights: RowWeights | None = None,
        margin: Annotated[Policy | None, RecipeDefault(None, MARGIN.options)] = None,
    ) -> None:
        options: dict[str, Any] = {"anchor": anchor, "label_smoothing": label_smoothing}
        options["scale_by_temperature"] = scale_by_temperature
        super().__init__(temperature, **options, prior=prior, weights=weights, margin=margin)
        self.in_modal, self.cross_modal = in_modal, cross_modal

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return InfoNCE and the two terms."""
        contrast, log = super().compute(x, y, pairs)
        terms = cyclic_consistency(x, y, in_modal=self.in_modal, cross_modal=self.cross_modal, queries=pairs.queries)
        return ObjectiveOutput(contrast + terms, log)


class NoTemperature(Objective):
    """InfoNCE without a temperature: a pair's logit is 2 artanh of its cosine (docs/method.md, 4.24; arXiv 2501.17683).

    eps: cosines are clamped to [-1 + eps, 1 - eps], where artanh is finite.
    label_smoothing: share of the target that is spread over all candidates.

    Logs "weight" (B,), the pull on each positive pair over the batch's mean, and no temperature.
    """

    splits_queries = True

    @checked
    def __init__(self, *, eps: Eps = 1e-6, label_smoothing: ZeroToOne = 0.0) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"eps": eps, "label_smoothing": label_smoothing}

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return no_temperature."""
        loss, pull = no_temperature.with_pull(x, y, positives=pairs.positives, queries=pairs.queries, **self.options)
        return ObjectiveOutput(loss, {"weight": pull})
