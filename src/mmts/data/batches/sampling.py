"""Which pairs an epoch shows: drawn by the size of their concept (docs/method.md, 9)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How an epoch's pairs are drawn, in the epochs to which it applies.

    Attributes:
        weights: (N,) each pair is drawn in proportion to its weight, above 0.
        applies: (epoch, batches per epoch) -> whether it applies to that epoch; in others the data come as they are.
    """

    weights: Weights
    applies: Callable[[int, int], bool]


def size_weights(counts: Indices, power: float = 1.0, cap: int | None = None) -> Weights:
    """Return the weight of each pair: min(1, cap / n) n^(power - 1), n the size of its concept (docs/method.md, 9.1).

    counts (N,) are the sizes n, at least 1. A concept with n <= cap then has n^power of all weights: 1 is as the data
    are, .5 the square root, 0 alike for all concepts.

    >>> size_weights(np.array([100, 4]), power=0.5), size_weights(np.array([100, 4]), cap=10)
    (array([0.1, 0.5]), array([0.1, 1. ]))

    Source: the cap is that of MetaCLIP, arXiv 2309.16671; the square root that of Mahajan et al., arXiv 1805.00932.
    """
    weights: Weights = counts.astype(np.float64) ** (power - 1)
    return weights if cap is None else weights * np.minimum(1, cap / counts)


def repeat_factors(counts: Indices, threshold: float) -> Weights:
    """Return the weight of each pair: max(1, sqrt(threshold / f)), f the share of its concept (docs/method.md, 9.2).

    counts (N,) are the sizes of the pairs' concepts, and f = counts / N. Only concepts below the threshold, a share in
    (0, 1], are drawn more often than the others.

    >>> repeat_factors(np.array([9, 9, 9, 9, 9, 9, 9, 9, 9, 1]), threshold=0.4)[-2:]
    array([1., 2.])

    Source: LVIS, arXiv 1908.03195, appendix B.2.
    """
    factors: Weights = np.maximum(1, np.sqrt(threshold * len(counts) / counts))
    return factors


def draw_counts(weights: Weights, rng: np.random.Generator) -> Indices:
    """Return how often each of M media comes in an epoch of M draws (M,): M w / sum w, rounded up or down at random.

    Its mean is exactly that value, and the sum of all is M: systematic resampling (docs/method.md, 9.1), over an order
    by weight that is random among equal weights. So the sum of any one weight's media is off by less than 1 too, and
    with equal weights each medium comes once. weights (M,) are above 0.

    >>> draw_counts(np.array([1.0, 1.0, 6.0, 1.0, 3.0]), np.random.default_rng(0))
    array([0, 1, 3, 0, 1])
    """
    M = len(weights)
    order = rng.permutation(M)
    order = order[np.argsort(weights[order], kind="stable")]
    ends = np.cumsum(weights[order])
    counts = np.empty(M, dtype=np.int64)
    counts[order] = np.diff(np.floor(ends / ends[-1] * M + rng.random()).astype(np.int64), prepend=0)
    return counts


def repeated(order: Indices, counts: Indices) -> Indices:
    """Return the media in an order, each as often as it counts; its copies are an equal part of an epoch apart.

    order (M,) are all media, counts (M,) the number of copies of medium 0, 1, ...: sum M. The k-th copy of n of the
    medium at place p belongs at place p + k M / n, from the start again after the end. So media that come at most once
    keep their order, which for shards is that of the files.

    >>> repeated(np.array([3, 0, 2, 1]), np.array([1, 0, 1, 2])).tolist()
    [3, 0, 3, 2]
    """
    copies = counts[order]
    media, place = np.repeat(order, copies), np.repeat(np.arange(len(order)), copies)
    copy = np.arange(len(media)) - np.repeat(np.cumsum(copies) - copies, copies)
    time = (place / len(order) + copy / counts[media]) % 1
    result: Indices = media[np.argsort(time, kind="stable")]
    return result


def copy_numbers(media: Indices) -> Indices:
    """Return how often each medium (n,) comes before its place.

    >>> copy_numbers(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(media, kind="stable")
    numbers = np.empty(len(media), dtype=np.int64)
    numbers[order] = np.arange(len(media)) - np.searchsorted(media[order], media[order])
    return numbers
