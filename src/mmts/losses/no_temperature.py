"""InfoNCE without a temperature: the logit of a pair is 2 artanh of its cosine."""

from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from mmts.losses.info_nce import cross_entropy
from mmts.losses.queries import Direction, with_pull
from mmts.losses.softmax import softmax_loss
from mmts.options import ZeroToOne

Eps = Annotated[float, Ge(1e-7), Lt(1)]
"""In float32, 1 - eps with a much smaller eps is 1, and its artanh infinite."""


@with_pull
def no_temperature(
    x: Tensor,
    y: Tensor,
    *,
    eps: Eps = 1e-6,
    positives: Tensor | None = None,
    label_smoothing: ZeroToOne = 0.0,
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE of the logits z_ij = 2 artanh(s_ij) = ln (1 + s_ij)/(1 - s_ij) (docs/method.md, 4.24).

    The rest is as in `info_nce`.

    eps: s is clamped to [-1 + eps, 1 - eps], since artanh(1) is infinite, so |z| is at most ln (2 - eps)/eps, which is
        14.5 for 1e-6. A cosine beyond these bounds has gradient 0. At least 1e-7, below 1.

    Source: Kim and Kim, arXiv 2501.17683. No code of theirs was found, so eps is our choice: the rounding errors of
    cosines in float32 are smaller.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    >>> round(no_temperature(x, y).item(), 4)  # logits ln 4 and ln 9, ln 9 and -ln 4: the wrong pairs are nearer
    2.3948
    """
    row_loss = partial(_artanh_entropy, eps=eps)
    return softmax_loss("no_temperature", row_loss, x, y, 1.0, positives, "row", label_smoothing, queries=queries)


def _artanh_entropy(s: Tensor, direction: Direction, label_smoothing: float, eps: float) -> tuple[Tensor, Tensor]:
    inside = s.clamp(-1.0 + eps, 1.0 - eps)
    loss, pull = cross_entropy(2.0 * inside.atanh(), direction, label_smoothing)
    bounded, given = direction.of_pair(inside).detach(), direction.of_pair(s).detach()
    return loss, torch.where(bounded == given, pull * 2.0 / (1.0 - bounded.square()), 0.0)
