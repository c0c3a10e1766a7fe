"""InfoNCE with weights: each row by what is left to learn of it (MACL), two temperatures by progress (TeMo)."""

from functools import partial

from torch import Tensor
from torch.nn.functional import softplus

from mmts.errors import InputError
from mmts.losses.info_nce import ANCHORS, Anchor, info_nce
from mmts.losses.reweighted import reweighted_rows, row_gaps
from mmts.objectives.base import Objective, ObjectiveOutput, Share, own_values, pair_values, policy_values, shown, whole
from mmts.policies import Policy, TeMoTemperature
from mmts.schedules import check_progress


class ReweightedInfoNCE(Objective):
    """InfoNCE with row i multiplied by 1/(1 - P_i); with the policy `MACL` the whole of MACL (docs/method.md, 4.16).

    `temperature` is any policy; `anchor` as in info_nce. Logs "temperature", the policy's values as they came, and
    "weight" (B,): row i's 1/(tau_i (1 - P_i)), summed over both directions, relative to the batch's mean (a row without
    a negative counts as 1/tau_i). `relevance` is not looked at.

    Its gradient is that of decoupled InfoNCE at the same temperatures: see `reweighted_info_nce`.
    Source: Huang et al., arXiv 2207.07874.

    >>> import torch
    >>> from mmts.policies import MACL
    >>> output = ReweightedInfoNCE(MACL())(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.log
    {'temperature': tensor(0.1500), 'weight': tensor([1., 1.])}
    """

    def __init__(self, temperature: Policy, *, anchor: Anchor = "row") -> None:
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

        def log_weights(log_weight: Tensor) -> None:
            # In logarithms: 1/(1 - P) is beyond float32 at the temperatures in use.
            log["weight"] = log_weight.softmax(dim=0) * len(log_weight)

        share.then(log_weights, row_log_weights(gaps.detach(), own_values(temperature, share.rows)))
        return ObjectiveOutput(reweighted_rows(gaps).sum() / (2 * len(x)), log)


class TeMo(Objective):
    """From one fixed temperature to one a pair as training goes on: TeMo (docs/method.md, 5.3).

    L = (1 - p)^2 info_nce(tau_min) + p^2 info_nce(tau_ij),   tau_ij = tau_min + tau_alpha sqrt((s_ij + 1)/2)

    tau_min, tau_alpha: as in the policy `TeMoTemperature`, which checks them. label_smoothing: info_nce's, in both.
    detach: hold tau_ij fixed in the gradient, as every other rule on similarities here does. The authors' code lets
        the gradient run through it: False.

    Logs "temperature" (B, B), the tau_ij, and "weight" (B,): (1 - p)^2 / tau_min + p^2 / tau_ii relative to the batch's
    mean. `relevance` is not looked at. The two weights are not of sum 1 (half-way the loss is halved); they stand as
    published. The paper adds terms of image with image and text with text, between two augmented views of each; with
    one view of each they are left out.
    Source: TeMo, arXiv 2609.07540 (tau_min .01, tau_alpha .04).

    >>> import torch
    >>> objective, x, index = TeMo(0.05, 0.1), torch.eye(2), torch.tensor([0, 1])
    >>> [round(objective(x, x, progress=p, index=index).loss.item(), 6) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.000318, 0.001272]
    """

    def __init__(
        self, tau_min: float = 0.01, tau_alpha: float = 0.04, *, label_smoothing: float = 0.0, detach: bool = True
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
        at = partial(info_nce, x, y, positives=positives, label_smoothing=self.label_smoothing, rows=share.rows)
        loss = start * at(tau_min) + p**2 * at(pairs)
        log = {"temperature": shown(pairs)}
        share.log_relative(log, start / tau_min + p**2 / own_values(pairs, share.rows))
        return ObjectiveOutput(loss, log)


def row_log_weights(gaps: Tensor, temperature: Tensor) -> Tensor:
    """Return the logarithm of each row's 1/(tau_i (1 - P_i)), summed over both directions: (2, b) of row_gaps -> (b,).

    temperature: tau_i, () or (b,).

    >>> import torch
    >>> row_log_weights(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0.1, 0.3])).exp()
    tensor([40.0000, 13.3333])
    """
    return softplus(-gaps.masked_fill(gaps == float("-inf"), float("inf"))).logsumexp(dim=0) - temperature.log()
