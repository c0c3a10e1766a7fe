"""Accuracy of a classifier that compares a medium with every class: within the k best classes, and per class."""

import torch
from torch import Tensor

from mmts.errors import InputError, check_rows
from mmts.metrics.rows import per_query


def top_classes(similarity: Tensor, target: Tensor, k: int) -> Tensor:
    """Return the k classes with the highest scores of each medium, best first: (M, min(k, K)) (docs/method.md, 6.13).

    Shapes: similarity (M, K) floating point; target (M,) int64, the true class of each medium. Among equal scores the
    true class comes last, and the others in their order. Raises InputError, naming the row, for a NaN score or a target
    that is no class.

    >>> similarity = torch.tensor([[0.9, 0.5, 0.1], [0.3, 0.3, 0.2]])
    >>> top_classes(similarity, torch.tensor([0, 0]), k=2)
    tensor([[0, 1],
            [1, 0]])
    """
    if k < 1:
        raise InputError(f"k is {k}; it must be 1 or more")
    if similarity.ndim != 2 or target.shape != similarity.shape[:1] or target.dtype != torch.int64:
        raise InputError(
            f"target is {tuple(target.shape)} {target.dtype} and similarity is {tuple(similarity.shape)}; they must be "
            "(M,) int64 and (M, K)"
        )
    K = similarity.shape[1]
    is_class = (target >= 0) & (target < K)
    check_rows(is_class, f"target[{{row}}] is {{value}}; it must be a class from 0 to {K - 1}", target)

    def best(start: int, scores: Tensor, is_true: Tensor) -> Tensor:
        true_last = is_true.to(torch.uint8).argsort(dim=1, stable=True)
        order = scores.gather(1, true_last).argsort(dim=1, descending=True, stable=True)
        return true_last.gather(1, order)[:, :k]

    return per_query(similarity, target[:, None] == torch.arange(K, device=target.device), "target", best)


def top_k_accuracy(similarity: Tensor, target: Tensor, k: int) -> Tensor:
    """Return the share of media whose true class is among the k best, in [0, 1], () float64 (docs/method.md, 6.13).

    Arguments and errors as in `top_classes`: a tie with another class counts against the model.

    >>> top_k_accuracy(torch.tensor([[0.9, 0.5], [0.3, 0.4]]), torch.tensor([0, 0]), k=1).item()
    0.5
    """
    best = top_classes(similarity, target, k)
    return (best == target.to(best.device)[:, None]).any(dim=1).double().mean()


def mean_per_class(values: Tensor, target: Tensor) -> Tensor:
    """Return the mean over classes of the mean of their media's values, () float64 (docs/method.md, 6.14).

    values (M,), such as 1 where the best class is the true one; target (M,) int64, the class of each medium. Classes
    without a medium are left out. Raises InputError for other shapes, or no medium.

    >>> mean_per_class(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0, 0, 1])).item()
    0.25
    """
    if values.shape != target.shape or values.ndim != 1 or not len(values):
        raise InputError(f"values is {tuple(values.shape)} and target {tuple(target.shape)}; both must be (M,), M >= 1")
    _, member = torch.unique(target, return_inverse=True)
    sums = torch.zeros(int(member.max()) + 1, dtype=torch.float64, device=values.device)
    return (sums.index_add_(0, member, values.double()) / torch.bincount(member)).mean()
