"""Dual temperature: InfoNCE whose rows count as much as they would at a second, higher temperature."""

from functools import partial

from torch import Tensor

from mmts.losses.decoupled_info_nce import decoupled_info_nce
from mmts.losses.queries import Anchor, Direction, with_pull
from mmts.losses.reweighted_info_nce import reweighted
from mmts.losses.softmax import softmax_loss
from mmts.options import Positive


@with_pull
def dual_temperature(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    ratio: Positive = 10.0,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE with row i multiplied by (1 - P_i(ratio tau)) / (1 - P_i(tau)) (docs/method.md, 4.23).

    L = 1/2B sum_i [ V_i CE_i + V'_i CE'_i ],   P_i(t) the softmax probability of the positive pair at temperature t

    The factor V has no gradient. The rest is as in `info_nce`. With ratio 1 this is `info_nce`.

    ratio: of the second temperature to the first; finite and positive.

    Source: Zhang et al., arXiv 2203.17248, with the settings of its code (tau .1, ratio 10).

    >>> import torch
    >>> x = torch.eye(2)
    >>> round(dual_temperature(x, x, 0.5).item(), 4)  # 1 - P is .4502 at 5 and .1192 at .5; CE is .1269
    0.4793
    """
    row_loss = partial(_dual_entropy, ratio=ratio)
    return softmax_loss("dual_temperature", row_loss, x, y, temperature, positives, anchor, queries=queries)


def _dual_entropy(logits: Tensor, direction: Direction, label_smoothing: float, ratio: float) -> tuple[Tensor, Tensor]:
    gap, target = decoupled_info_nce.rows(logits, direction, 0.0)  # CE_i = softplus(gap), 1 - P_i = sigmoid(gap)
    wide_gap, _ = decoupled_info_nce.rows(logits.detach() / ratio, direction, 0.0)
    weight = wide_gap.sigmoid() * target
    return weight * reweighted(gap), weight
