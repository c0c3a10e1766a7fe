"""InfoNCE with weights: each row by what is left to learn of it (MACL), two temperatures by progress (TeMo)."""

from functools import partial
from typing import Annotated

from torch import Tensor

from mmts.errors import InputError
from mmts.losses.info_nce import ANCHORS, Anchor, info_nce_and_pull
from mmts.losses.reweighted import reweighted_rows, row_gaps
from mmts.losses.rows import own_values
from mmts.objectives.base import Objective, ObjectiveOutput, Share, pair_values, policy_values, shown, whole
from mmts.options import Positive, RecipeDefault, ZeroToOne
from mmts.policies import Policy, TeMoTemperature
from mmts.schedules import check_progress


class ReweightedInfoNCE(Objective):
    """MACL: InfoNCE with row i multiplied by 1/(1 - P_i), so that easy pairs pull as hard (docs/method.md, 4.16).

    temperature: the policy; with `MACL` this is the whole of MACL.
    anchor: whose temperature divides a logit, as in info_nce.

    Logs "temperature", the policy's values as they came, and
    "weight" (B,): the pull on each sample's own pair relative to the batch's mean (5.1), which is 1/tau_i, or 0 for a
    row without a negative: the row weight cancels the 1 - P_i in it. `relevance` is not looked at.

    Its gradient is that of decoupled InfoNCE at the same temperatures: see `reweighted_info_nce`.
    Source: Huang et al., arXiv 2207.07874.

    >>> import torch
    >>> from mmts.policies import MACL
    >>> output = ReweightedInfoNCE(MACL())(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.log
    {'temperature': tensor(0.1500), 'weight': tensor([1., 1.])}
    """

    def __init__(
        self, temperature: Annotated[Policy, RecipeDefault({"rule": "macl"})], *, anchor: Anchor = "row"
    ) -> None:
        super().__init__()
        if anchor not in ANCHORS:
            raise InputError(f"anchor is {anchor!r}; it must be one of {', '.join(ANCHORS)}")
        self.temperature = temperature
        self.anchor = anchor

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
        """Return reweighted_info_nce at the policy's temperatures."""
        share = share or whole(len(x))
        temperature = policy_values(self.temperature, x, y, progress, index, share.rows)
        gaps = row_gaps(x, y, temperature, positives=positives, anchor=self.anchor, rows=share.rows)  # (2, b)
        log = {"temperature": shown(temperature)}
        pull = gaps.detach().isfinite().sum(dim=0) / own_values(temperature.detach(), share.rows)
        share.log_relative(log, pull)
        return ObjectiveOutput(reweighted_rows(gaps).sum() / (2 * len(x)), log)


class TeMo(Objective):
    """TeMo: from one fixed temperature to one per pair as training goes on (docs/method.md, 5.3; arXiv 2609.07540).

    L = (1 - p)^2 info_nce(tau_min) + p^2 info_nce(tau_ij),   tau_ij = tau_min + tau_alpha sqrt((s_ij + 1)/2)

    tau_min: temperature at the start, and of a pair of similarity -1.
    tau_alpha: what is added to it for a pair of similarity 1.
    label_smoothing: share of the target that is spread over all candidates, in both losses.
    detach: hold tau_ij fixed in the gradient, as every other rule on similarities here does. The authors' code lets
        the gradient run through it: False.

    Logs "temperature" (B, B), the tau_ij, and "weight" (B,): the pull on each sample's own pair at these temperatures,
    relative to the batch's mean (5.1). `relevance` is not looked at. The two weights do not add up to 1 (half-way the
    loss is halved): they stand as published. The paper's further terms, of image with image and text with text between
    two augmented views of each, are left out.
    Source: TeMo, arXiv 2609.07540 (tau_min .01, tau_alpha .04).

    >>> import torch
    >>> objective, x, index = TeMo(0.05, 0.1), torch.eye(2), torch.tensor([0, 1])
    >>> [round(objective(x, x, progress=p, index=index).loss.item(), 6) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.000318, 0.001272]
    """

    def __init__(
        self,
        tau_min: Positive = 0.01,
        tau_alpha: float = 0.04,
        *,
        label_smoothing: ZeroToOne = 0.0,
        detach: bool = True,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing <= 1.0:
            raise InputError(f"label_smoothing is {label_smoothing}; it must lie in [0, 1]")
        self.temperature = TeMoTemperature(tau_min, tau_alpha)
        self.label_smoothing = label_smoothing
        self.detach = detach

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
        """Return both losses, weighed by progress."""
        p, share = check_progress(progress), share or whole(len(x))
        if len(index) != len(x):
            raise InputError(f"index has {len(index)} rows and x has {len(x)}; they must be as many")
        of_x, of_y = (each.detach() if self.detach else each for each in (x, y))
        pairs = pair_values(self.temperature, of_x, of_y, share.rows)
        start, tau_min = (1.0 - p) ** 2, self.temperature.tau_min
        at = partial(
            info_nce_and_pull, x, y, positives=positives, label_smoothing=self.label_smoothing, rows=share.rows
        )
        (first, first_pull), (second, second_pull) = at(tau_min), at(pairs)
        log = {"temperature": shown(pairs)}
        share.log_relative(log, start * first_pull + p**2 * second_pull)
        return ObjectiveOutput(start * first + p**2 * second, log)
