"""InfoNCE with weights on its negatives that grow with their similarity (HN-NCE and HCL)."""

import math
from functools import partial

import torch
from torch import Tensor

from mmts.losses.queries import Anchor, Direction, with_pull
from mmts.losses.softmax import softmax_loss
from mmts.options import NotNegative, ZeroToBelowOne, ZeroToOne


@with_pull
def hard_negative_info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    beta: NotNegative = 0.5,
    alpha: ZeroToOne = 1.0,
    tau_plus: ZeroToBelowOne = 0.0,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE whose negatives have weights that grow with their similarity (docs/method.md, 4.25).

    CE_i = -z_ii + log(alpha e^z_ii + N_i),   N_i = n sum_{j != i} e^((1 + beta) z_ij) / sum_{j != i} e^(beta z_ij)

    n is the number of negatives. The rest is as in `info_nce`; a row without a negative has loss 0.

    beta: with a larger one the nearest negatives count more; 0 (with alpha 1) is `info_nce`. Finite, at least 0.
    alpha: weight of the positive pair in the denominator, in [0, 1]; 0 decouples it.
    tau_plus: share of the negatives that are probably positives, in [0, 1); N_i becomes
        max((N_i - tau_plus n e^z_ii) / (1 - tau_plus), n e^(-1/tau_i)).

    Source: HN-NCE, Radenovic et al., arXiv 2301.02280 (alpha); HCL, Robinson et al., arXiv 2010.04592 (tau_plus).

    >>> x = torch.eye(3)
    >>> round(hard_negative_info_nce(x, x, 1.0, beta=1.0).item(), 4)  # equal negatives: ln(1 + 2/e) at any beta
    0.5514
    """
    row_loss = partial(_hard_entropy, beta=beta, alpha=alpha, tau_plus=tau_plus)
    return softmax_loss("hard_negative_info_nce", row_loss, x, y, temperature, positives, anchor, queries=queries)


def _hard_entropy(
    logits: Tensor, direction: Direction, label_smoothing: float, beta: float, alpha: float, tau_plus: float
) -> tuple[Tensor, Tensor]:
    positive, own = direction.is_positive, direction.of_pair(logits)
    empty = positive.all(dim=1)
    hidden = positive & ~empty[:, None]  # an empty row keeps its logits until the end, as in `decoupled_info_nce`
    sums = [(k * logits).masked_fill(hidden, float("-inf")).logsumexp(dim=1) for k in (1.0 + beta, beta)]
    number = (~positive).sum(dim=1).clamp_min(1).to(logits)
    gap = sums[0] - sums[1] + number.log() - own  # log N_i - z_ii
    steepness = torch.ones_like(own)  # minus the slope of the gap in z_ii
    if tau_plus:
        least = number.log() - own - 1.0 / direction.of_pair(direction.value.expand_as(logits))
        gap, steepness = _debiased(gap, (tau_plus * number).log(), tau_plus, least)
    log_alpha = gap.new_tensor(alpha).log()
    loss, pull = torch.logaddexp(log_alpha, gap), (gap.detach() - log_alpha).sigmoid() * steepness
    return loss.masked_fill(empty, 0.0), pull.masked_fill(empty, 0.0)


def _debiased(gap: Tensor, log_share: Tensor, tau_plus: float, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return log max((e^gap - e^log_share) / (1 - tau_plus), e^least), and minus its slope in z_ii, detached."""
    excess = torch.where(gap > log_share, gap - log_share, 1.0)
    kept = -(-excess).expm1()  # the share of N_i that remains
    debiased = gap + kept.log() - math.log1p(-tau_plus)
    free = (gap > log_share) & (debiased > least)
    return torch.where(free, debiased, least), torch.where(free, 1.0 / kept.detach(), 1.0)
