"""Decoupled InfoNCE (DCL): the positive pair is not in the denominator."""

from torch import Tensor

from mmts.losses.info_nce import info_nce
from mmts.losses.queries import Direction
from mmts.losses.softmax import like


@like(info_nce)
def decoupled_info_nce(logits: Tensor, direction: Direction, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Return InfoNCE with the negatives alone in the denominator (docs/method.md, 4.11).

    CE_i = -z_ii + log sum_{j != i} exp(z_ij),   z_ij = x_i . y_j / tau_i and y_i . x_j / tau_i

    The rest is as in `info_nce`. Label smoothing spreads over the positive pair and the negatives. The loss has no
    lower bound as tau falls.
    Source: Yeh et al., arXiv 2110.06848, equation 6.

    >>> import torch
    >>> decoupled_info_nce(torch.eye(2), torch.eye(2), 0.5)
    tensor(-2.)
    """
    positive = direction.is_positive
    empty = positive.all(dim=1)
    # An empty row keeps its logits until the end: the log of an empty sum has a NaN for a gradient.
    log_sum = logits.masked_fill(positive & ~empty[:, None], float("-inf")).logsumexp(dim=1)
    mean, remaining = direction.mean_over_candidates(logits)
    loss = log_sum - (1.0 - label_smoothing) * direction.of_pair(logits) - label_smoothing * mean
    target = (~empty).to(loss.dtype) * ((1.0 - label_smoothing) + label_smoothing / remaining)  # q_ii
    return loss.masked_fill(empty, 0.0), target
