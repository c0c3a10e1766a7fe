"""RINCE: a robust InfoNCE, between InfoNCE (q near 0) and a linear loss on the exponentials (q = 1)."""

import math
from functools import partial

from torch import Tensor

from mmts.errors import InputError
from mmts.losses.queries import Anchor, Direction, with_pull
from mmts.losses.softmax import softmax_loss
from mmts.options import AboveZeroToOne

LARGEST = 64.0
"""Bound on q / temperature: the loss of a batch is then below e^88, the largest number of float32."""


@with_pull
def rince(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    q: AboveZeroToOne = 0.1,
    lam: AboveZeroToOne = 0.01,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    scale_by_temperature: bool = False,
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the robust InfoNCE loss, RINCE, over both directions (docs/method.md, 4.26).

    L_i = -e^(q z_ii) / q + (lam sum_j e^z_ij)^q / q,   the positive pair included in the sum

    The rest is as in `info_nce`. The positive pair pulls in a row without a negative too, so a batch of one has a loss.

    q: in (0, 1]; near 0 the gradient is that of `info_nce`; with a larger q, hard positive pairs pull less.
        q divided by the smallest temperature is at most 64.
    lam: weight of the sum, in (0, 1].

    Source: Chuang et al., arXiv 2201.04309; q .1 (also .6) and lam .01 as in the commands of its code.

    >>> import torch
    >>> x = torch.eye(2)
    >>> round(rince(x, x, 1.0, q=1.0, lam=0.5).item(), 4)  # -e + (e + 1)/2
    -0.8591
    """
    row_loss = partial(_rince_row, q=q, lam=lam)
    options = positives, anchor, 0.0, scale_by_temperature
    return softmax_loss("rince", row_loss, x, y, temperature, *options, queries=queries)


def _rince_row(
    logits: Tensor, direction: Direction, label_smoothing: float, q: float, lam: float
) -> tuple[Tensor, Tensor]:
    if q / (tau := direction.value.min().item()) > LARGEST:
        raise InputError(f"q is {q:g} and a temperature is {tau:g}; q / temperature must be at most {LARGEST:g}")
    if direction.extra is not None:
        logits = logits.masked_fill(direction.extra, float("-inf"))
    own, log_sum = direction.of_pair(logits), logits.logsumexp(dim=1)
    robust = q * (log_sum + math.log(lam))
    pull = (q * own).exp() - (robust + own - log_sum).exp()
    return (robust.expm1() - (q * own).expm1()) / q, pull.detach()
