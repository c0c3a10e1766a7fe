"""SupCon's loss in both directions: InfoNCE whose targets are the positive pair and the extra positives."""

from torch import Tensor

from mmts.losses.info_nce import info_nce
from mmts.losses.queries import Direction
from mmts.losses.softmax import like


@like(info_nce)
def multi_positive_info_nce(logits: Tensor, direction: Direction, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Return InfoNCE whose targets are the positive pair and the extra positives T_i, evenly (docs/method.md, 4.12).

    CE_i = -1/|T_i| sum_{t in T_i} log p_it,   p_it = exp(z_it) / sum over all candidates of exp(z_ij)

    The rest is as in `info_nce`, which it equals without `positives`; with them it has no fused version.
    Source: Khosla et al., arXiv 2004.11362, equation 2.

    >>> import torch
    >>> round(multi_positive_info_nce(torch.eye(2), torch.eye(2), 1.0, positives=torch.ones(2, 2) > 0).item(), 4)
    0.8133
    """
    targets = direction.is_positive
    log_p, number = logits.log_softmax(dim=1), targets.sum(dim=1)
    loss = -(1.0 - label_smoothing) * log_p.masked_fill(~targets, 0.0).sum(dim=1) / number
    loss = loss - label_smoothing * log_p.mean(dim=1)
    target = (1.0 - label_smoothing) / number + label_smoothing / log_p.shape[1]
    return loss, target - direction.of_pair(log_p).detach().exp()
