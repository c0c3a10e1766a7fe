"""Going through a similarity matrix a few rows at a time, the checks of all metrics, and sorting rows."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmts.errors import InputError

CHUNK = 2**20  # entries at a time: some tens of MB of temporaries, however large the matrix


def per_query(
    similarity: Tensor, relevance: Tensor, name: str, score: Callable[[int, Tensor, Tensor], Tensor]
) -> Tensor:
    """Return score(first row, similarity rows, relevance rows) for all rows of two (Q, C) matrices: (Q, ...).

    It takes a few rows at a time, on similarity's device (on the CPU for mps, which has no float64). `name` is what the
    caller calls its relevance. Raises InputError for wrong shapes, a similarity that is not floating point, and (naming
    the query and the item) a NaN similarity or a relevance that is negative, NaN or infinite.
    """
    for argument, matrix in (("similarity", similarity), (name, relevance)):
        if not isinstance(matrix, Tensor):
            raise InputError(f"{argument} is a {type(matrix).__name__}; it must be a torch tensor")
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
    Q, C = similarity.shape
    device = torch.device("cpu") if similarity.device.type == "mps" else similarity.device
    rows = max(1, CHUNK // C)
    result = torch.empty(0)
    for start in range(0, Q, rows):
        # Of a transposed matrix only these rows are copied.
        scores = similarity[start : start + rows].detach().to(device).contiguous()
        relevant = relevance[start : start + rows].detach().to(device).contiguous()
        if bool(scores.amax().isnan()):
            row, column = scores.isnan().nonzero()[0].tolist()
            raise InputError(f"similarity[{start + row}, {column}] is nan; scores must be numbers")
        if relevant.dtype != torch.bool:
            least, most = torch.aminmax(relevant)  # both are NaN if anything is
            if not bool((least >= 0) & (most < float("inf"))):
                row, column = (~(relevant >= 0) | relevant.isinf()).nonzero()[0].tolist()
                value = relevant[row, column].item()
                raise InputError(f"{name}[{start + row}, {column}] is {value}; it must be finite and not negative")
        part = score(start, scores, relevant)
        if start == 0:  # small results kept between large temporaries would keep the allocator from reusing memory
            result = part.new_empty((Q, *part.shape[1:]))
        result[start : start + rows] = part
    return result


def require_some(relevant: Tensor, start: int, name: str, wanted: str) -> None:
    """Raise InputError naming the first query without any `wanted` item; relevant (rows, C) bool from row `start`."""
    some = relevant.any(dim=1)
    if not bool(some.all()):
        row = start + int((~some).nonzero()[0])
        raise InputError(f"{name}[{row}] has no {wanted}; every query needs one (leave such queries out)")


def in_ranked_order(scores: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each row's relevance by falling score, the less relevant first among equal scores (docs/method.md, 6.1).

    Returns it (rows, C), and whether positions r and r + 1 tie, (rows, C - 1) bool.
    """
    if relevance.dtype == torch.bool:
        relevance = relevance.to(torch.uint8)  # not every device sorts bool
    if scores.device.type == "cpu":
        # numpy's vectorized sort takes a third of torch's time on a CPU, but does not know bfloat16.
        order = torch.from_numpy(np.argsort(-scores.to(torch.promote_types(scores.dtype, torch.float32)).numpy()))
    else:
        order = scores.argsort(dim=1, descending=True)
    scores, ordered = scores.gather(1, order), relevance.gather(1, order)
    # Rows with equal scores in the wrong order are sorted again, by relevance and then by score.
    is_tied = scores[:, 1:] == scores[:, :-1]
    wrong = (is_tied & (ordered[:, 1:] < ordered[:, :-1])).any(dim=1)
    if bool(wrong.any()):
        rising, order = ordered[wrong].sort(dim=1)
        again = scores[wrong].gather(1, order) + 0.0  # makes -0.0 a plain 0.0, its equal
        ordered[wrong] = rising.gather(1, again.sort(dim=1, descending=True, stable=True).indices)
    return ordered, is_tied


def falling(values: Tensor) -> Tensor:
    """Return each row's values in falling order: (rows, C) -> (rows, C)."""
    if values.device.type != "cpu" or values.dtype == torch.bfloat16:
        return values.sort(dim=1, descending=True).values
    return torch.from_numpy(np.sort(values.numpy(), axis=1)).flip(1)
