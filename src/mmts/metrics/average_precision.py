"""Average precision: the ordinary one, and on graded relevance the one of the EPIC-KITCHENS-100 challenge."""

import torch
from torch import Tensor

from mmts.metrics.rows import in_ranked_order, per_query, require_some


def average_precision(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return each query's average precision (docs/method.md, 6.5).

    AP = mean, over the positions r whose item has relevance exactly 1, of (sum of relevance at positions 1..r) / r

    Shapes: similarity (Q, C) floating point; relevance (Q, C) bool, or real and not negative; result (Q,) float64. On
    bool this is the ordinary AP. On graded relevance it is the number that the EPIC-KITCHENS-100 multi-instance
    retrieval challenge publishes, whose sum runs over graded values too; for the strictly binary one pass
    `relevance == 1`. Among equal scores the less relevant comes first. InputError for a NaN score, a negative, NaN or
    infinite relevance, or a query without any item of relevance 1, naming the row.
    Source: calculate_mAP in github.com/mwray/Joint-Part-of-Speech-Embeddings; Damen et al., arXiv 2006.13256.

    >>> similarity = torch.tensor([[0.9, 0.8, 0.7]])
    >>> average_precision(similarity, torch.tensor([[False, True, True]]))  # (1/2 + 2/3) / 2
    tensor([0.5833], dtype=torch.float64)
    >>> average_precision(similarity, torch.tensor([[0.5, 1.0, 0.0]]))  # 1.5 / 2
    tensor([0.7500], dtype=torch.float64)
    """

    def of_rows(start: int, scores: Tensor, grades: Tensor) -> Tensor:
        require_some(grades == 1, start, "relevance", "item of relevance 1")
        return precision_in_order(in_ranked_order(scores, grades))

    return per_query(similarity, relevance, "relevance", of_rows)


def precision_in_order(ordered: Tensor) -> Tensor:
    """Return the average precision (rows,) float64 of relevance (rows, C) in ranked order (docs/method.md, 6.5).

    >>> precision_in_order(torch.tensor([[0.5, 1.0, 0.0]]))
    tensor([0.7500], dtype=torch.float64)
    """
    hit = ordered == 1
    position = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
    precision = ordered.cumsum(dim=1, dtype=torch.float64) / position
    return (precision * hit).sum(dim=1) / hit.sum(dim=1)


def mean_average_precision(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Return the mean over the queries of `average_precision`, shape () float64 (docs/method.md, 6.6).

    Arguments and errors as there.

    >>> similarity = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    >>> mean_average_precision(similarity, torch.tensor([[True, False], [False, True]])).item()
    0.75
    """
    return average_precision(similarity, relevance).mean()
