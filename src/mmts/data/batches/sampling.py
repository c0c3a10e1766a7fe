"""Which pairs an epoch shows: drawn by the size of their concept, and chosen for a batch (docs/method.md, 9)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmts.errors import InputError

Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConceptAware:
    """How batches are chosen from super-batches of pairs by concept: CABS (docs/method.md, 9.3).

    Attributes:
        filter: share of a super-batch that is left out, in [0, 1).
        offsets, ids: (N + 1,) and (sum,): the concepts of pair i are ids[offsets[i] : offsets[i + 1]], at least one.
        most: see `choose_diverse`.
    """

    filter: float
    offsets: Indices
    ids: Indices
    most: int | None = None

    def choose(self, index: Indices, size: int, batch_size: int) -> Indices:
        """Return the places in `index`, (batches x size,) pairs, of the pairs of each batch, one after the other."""
        places = []
        for at in range(0, len(index), size):
            pairs = index[at : at + size]
            first, number = self.offsets[pairs], self.offsets[pairs + 1] - self.offsets[pairs]
            column = np.arange(number.max())
            table = self.ids[np.minimum(first[:, None] + column, len(self.ids) - 1)]
            table = np.where(column < number[:, None], table, -1)
            places.append(at + choose_diverse(table, batch_size, self.most))
        return np.concatenate(places)


@dataclass(frozen=True)
class Sampling:
    """How an epoch's pairs are drawn, in the epochs to which it applies.

    Attributes:
        weights: (N,) each pair is drawn in proportion to its weight, above 0.
        applies: (epoch, batches per epoch) -> whether it applies to that epoch; in others the data come as they are.
        cabs: how batches are chosen from what is drawn; None for batches as drawn.
    """

    weights: Weights
    applies: Callable[[int, int], bool]
    cabs: ConceptAware | None = None


def super_batch_size(batch_size: int, filter: float, num_media: int) -> int:
    """Return the pairs of a super-batch: B / (1 - filter); raises InputError if they are more than the media.

    >>> super_batch_size(256, 0.8, num_media=29_000)
    1280
    """
    size = round(batch_size / (1 - filter))
    if size > num_media:
        raise InputError(
            f"filter {filter:g} chooses a batch of {batch_size:,} among {size:,} pairs, and there are {num_media:,} "
            "media; lower the batch size or the filter"
        )
    return size


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
    by weight that is random among equal weights. weights (M,) are above 0.

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
    medium at place p belongs at place p + k M / n, from the start again after the end.

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
    """Return how often each number of `media`, (n,), comes before its place.

    >>> copy_numbers(np.array([7, 3, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(media, kind="stable")
    numbers = np.empty(len(media), dtype=np.int64)
    numbers[order] = np.arange(len(media)) - np.searchsorted(media[order], media[order])
    return numbers


def choose_diverse(concepts: Indices, batch_size: int, most: int | None = None) -> Indices:
    """Return the places of the B pairs, of S, that CABS chooses for diversity, in rising order (docs/method.md, 9.3).

    One after the other it takes the pair whose concepts gain most; among equal gains the first.

    Args:
        concepts: (S, L), the concepts of each pair, at least one; -1 fills up the rows of pairs with fewer than L.
        batch_size: B, at most S.
        most: pairs of a concept after which more of it are taken only if no others are left; None for no limit.

    >>> choose_diverse(np.array([[0, -1], [0, -1], [1, -1], [0, -1], [0, 2]]), 3).tolist()
    [0, 2, 4]

    Source: CABS-DM, arXiv 2511.20643.
    """
    number = (concepts >= 0).sum(axis=1)
    by_concept = np.bincount(concepts.ravel() + 1)  # -1 first
    rows = np.argsort(concepts.ravel(), kind="stable") // concepts.shape[1]
    rows_of = np.split(rows, np.cumsum(by_concept)[:-1])[1:]
    available = by_concept[1:]
    target = max(1.0, min(batch_size / np.count_nonzero(available), math.inf if most is None else most))
    taken = [0] * len(available)
    gain = np.append(1 + 1 / np.maximum(available, 1), 0.0)  # of a concept; -1 is the last
    score, is_chosen = gain[concepts].sum(axis=1) / number, np.zeros(len(concepts))
    chosen = np.empty(batch_size, dtype=np.int64)
    for place in range(batch_size):
        chosen[place] = at = int(score.argmax())
        score[at] = is_chosen[at] = -np.inf
        for concept in concepts[at, : number[at]].tolist():
            taken[concept] += 1
            n, before = taken[concept], gain[concept]
            gain[concept] = (target - n) / target + 1 / available[concept] if n < target else -0.5
            if most is not None and n >= most:
                gain[concept] = -np.inf
            if gain[concept] != before:
                rows = rows_of[concept]
                gains = gain[concepts[rows]].sum(axis=1) / number[rows]
                score[rows] = np.maximum(gains, -1) + is_chosen[rows]  # a full concept comes after all others
    return np.sort(chosen)
