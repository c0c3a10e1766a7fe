"""SupCon's loss in both directions: InfoNCE whose targets are the positive pair and the extra positives."""

from torch import Tensor

from mmts.losses.info_nce import cross_entropy
from mmts.losses.queries import Anchor, Direction, with_pull
from mmts.losses.softmax import softmax_loss
from mmts.options import ZeroToOne


@with_pull
def multi_positive_info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    label_smoothing: ZeroToOne = 0.0,
    scale_by_temperature: bool = False,
    margin: Tensor | float | None = None,
    candidate_bias: Tensor | None = None,
    bias_positives: bool = True,
    weights: Tensor | None = None,
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE whose targets are the positive pair and the extra positives T_i, evenly (docs/method.md, 4.12).

    CE_i = -1/|T_i| sum_{t in T_i} log p_it,   p_it = exp(z_it) / sum over all candidates of exp(z_ij)

    The rest is as in `info_nce`, which it equals without `positives`; with them it has no fused version.
    Source: Khosla et al., arXiv 2004.11362, equation 2.

    >>> import torch
    >>> round(multi_positive_info_nce(torch.eye(2), torch.eye(2), 1.0, positives=torch.ones(2, 2) > 0).item(), 4)
    0.8133
    """
    options = positives, anchor, label_smoothing, scale_by_temperature, queries
    adjustments = margin, candidate_bias, bias_positives, weights
    if positives is None:
        return softmax_loss("info_nce", cross_entropy, x, y, temperature, *options, None, *adjustments)
    return softmax_loss(
        "multi_positive_info_nce", _multi_positive_entropy, x, y, temperature, *options, False, *adjustments
    )


def _multi_positive_entropy(logits: Tensor, direction: Direction, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Return CE_i and q_ii - p_ii, (b, B) -> (b,) each."""
    targets = direction.is_positive
    log_p, number = logits.log_softmax(dim=1), targets.sum(dim=1)
    loss = -(1.0 - label_smoothing) * log_p.masked_fill(~targets, 0.0).sum(dim=1) / number
    loss = loss - label_smoothing * log_p.mean(dim=1)
    target = (1.0 - label_smoothing) / number + label_smoothing / log_p.shape[1]
    return loss, target - direction.of_pair(log_p).detach().exp()
