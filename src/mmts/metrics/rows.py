"""Going through a similarity matrix a few rows at a time, and what every metric demands of it."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmts.errors import InputError

CHUNK = 2**20  # entries at a time: some tens of MB of temporaries, however large the matrix


def row_chunks(similarity: Tensor, relevance: Tensor, name: str) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (first row, similarity rows, relevance rows) of two (Q, C) matrices, both on similarity's device.

    (On the CPU where that device has no float64, which is what sums are kept in.)

    InputError for wrong shapes, a similarity that is not floating point, and (naming the query and the item) a NaN
    similarity or a relevance that is negative, NaN or infinite. `name` is what the caller calls its relevance.
    """
    if similarity.ndim != 2 or not similarity.numel() or not similarity.is_floating_point():
        raise InputError(
            f"similarity is {tuple(similarity.shape)} {similarity.dtype}; it must be (Q, C), not empty, floating point"
        )
    if relevance.shape != similarity.shape:
        raise InputError(
            f"{name} is {tuple(relevance.shape)} and similarity is {tuple(similarity.shape)}; both must be (Q, C) alike"
        )
    if relevance.is_complex():
        raise InputError(f"{name} is {relevance.dtype}; it must be bool or real")
    rows = max(1, CHUNK // similarity.shape[1])
    device = torch.device("cpu") if similarity.device.type == "mps" else similarity.device
    for start in range(0, len(similarity), rows):
        scores = similarity[start : start + rows].detach().to(device)
        relevant = relevance[start : start + rows].detach().to(device)
        wrong = scores.isnan()
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise InputError(f"similarity[{start + row}, {column}] is nan; scores must be numbers")
        if relevant.dtype != torch.bool:
            wrong = ~(relevant >= 0) | relevant.isinf()
            if bool(wrong.any()):
                row, column = wrong.nonzero()[0].tolist()
                value = relevant[row, column].item()
                raise InputError(f"{name}[{start + row}, {column}] is {value}; it must be finite and not negative")
        yield start, scores, relevant


def require_some(counts: Tensor, start: int, name: str, wanted: str) -> None:
    """Raise InputError naming the first query whose count of `wanted` items is 0; counts (rows,)."""
    if not bool((counts > 0).all()):
        row = start + int((counts == 0).nonzero()[0])
        raise InputError(f"{name}[{row}] has no {wanted}; every query needs one (leave such queries out)")


def in_ranked_order(scores: Tensor, relevance: Tensor) -> Tensor:
    """Sort each row's relevance by falling score, the less relevant first among equal scores (docs/method.md, 6.1).

    >>> in_ranked_order(torch.tensor([[0.1, 0.9, 0.9]]), torch.tensor([[0.2, 1.0, 0.5]]))
    tensor([[0.5000, 1.0000, 0.2000]])
    """
    if relevance.dtype == torch.bool:
        relevance = relevance.to(torch.uint8)  # not every device sorts bool
    relevance, order = relevance.sort(dim=1)
    scores = scores.gather(1, order) + 0.0  # makes -0.0 a plain 0.0, its equal
    return relevance.gather(1, scores.sort(dim=1, descending=True, stable=True).indices)
