"""CyCLIP's two terms: similarities are the same whichever modality either side is taken from."""

import torch
from torch import Tensor

from mmts.losses.checks import checked_value
from mmts.losses.normalize import cosine_similarity
from mmts.losses.queries import checked_queries, cosine_rows


def cyclic_consistency(
    x: Tensor, y: Tensor, *, in_modal: float = 0.25, cross_modal: float = 0.25, queries: slice | None = None
) -> Tensor:
    """Return CyCLIP's in-modal and cross-modal consistency of paired embeddings (docs/method.md, 4.27).

    L = 1/B sum_ij [ in_modal (cos(x_i, x_j) - cos(y_i, y_j))^2 + cross_modal (cos(x_i, y_j) - cos(x_j, y_i))^2 ]

    Shapes, dtypes, errors and `queries` are as in `info_nce`, to which the terms are added. Neither pulls on a positive
    pair: its own differences are 0.

    in_modal, cross_modal: weights of the terms, finite and not negative.

    Source: CyCLIP, Goel et al., arXiv 2205.14459 (both weights .25).

    >>> x, y = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> [cyclic_consistency(x, y, in_modal=a, cross_modal=b).item() for a, b in ((0.25, 0.0), (0.0, 0.25))]
    [0.25, 0.25]
    """
    queries = checked_queries(queries, len(x))
    for name, weight in (("in_modal", in_modal), ("cross_modal", cross_modal)):
        checked_value(name, weight, x, y, zero_allowed=True)
    with torch.autocast(x.device.type, enabled=False):
        xy, yx = cosine_rows(x, y, queries)
        xx, yy = cosine_similarity(x[queries], x), cosine_similarity(y[queries], y)
        return (in_modal * (xx - yy).square().sum() + cross_modal * (xy - yx).square().sum()) / len(x)
