"""MACL's loss: InfoNCE with row i weighted by 1 / (1 - P_i), P_i the softmax probability of its positive pair."""

from torch import Tensor
from torch.nn.functional import softplus

from mmts.losses.decoupled_info_nce import decoupled_info_nce
from mmts.losses.queries import Anchor, Direction, with_pull
from mmts.losses.softmax import softmax_loss


@with_pull
def reweighted_info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE with row i of each direction multiplied by 1/(1 - P_i), without gradient (docs/method.md, 4.16).

    L = 1/2B sum_i [ CE_i / (1 - P_i) + CE'_i / (1 - P'_i) ],   P_i = exp(-CE_i)

    The rest is as in `info_nce`. P runs over the candidates of its direction, while the paper has one list of both
    views' negatives. The gradient is that of `decoupled_info_nce`, since the weight cancels the 1 - P_i in it.
    Source: Huang et al., arXiv 2207.07874 (its gradient reweighting).

    >>> import torch
    >>> x = torch.eye(2)
    >>> round(reweighted_info_nce(x, x, 1.0).item(), 4)  # ln(1 + 1/e) (1 + e)
    1.1648
    """
    options = positives, anchor
    return softmax_loss("reweighted_info_nce", _reweighted_entropy, x, y, temperature, *options, queries=queries)


def _reweighted_entropy(logits: Tensor, direction: Direction, label_smoothing: float) -> tuple[Tensor, Tensor]:
    gap, target = decoupled_info_nce.rows(logits, direction, 0.0)  # CE_i = softplus(gap), 1 - P_i = sigmoid(gap)
    return reweighted(gap).masked_fill(target == 0, 0.0), target


def reweighted(gap: Tensor) -> Tensor:
    """Return softplus(d) / sigmoid(d) with the gradient of d."""
    d = gap.detach().clamp(min=-40.0)  # below, the quotient is 1 to the last digit, but would be 0/0
    return softplus(d) / d.sigmoid() + (gap - gap.detach())
