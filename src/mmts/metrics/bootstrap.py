"""Percentile bootstrap intervals of a mean, resampling whole clusters of queries, and seeds."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.options import check_table

CHUNK = 2**20  # draws at a time
Statistic = Callable[[Tensor, torch.Generator], Tensor]


def bootstrap_interval(
    values: Tensor,
    *,
    clusters: Tensor | None = None,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval (low, high) of the mean of `values` (docs/method.md, 7.1).

    A resample draws as many clusters as there are, with replacement, and takes the mean of all their values; the
    interval runs between the (1 - confidence)/2 and (1 + confidence)/2 quantiles of these means. The captions of one
    medium are not independent: give the medium as their cluster, or the interval comes out too narrow.

    values: (Q,) one number per query, such as `ranks(...) <= k`. clusters: (Q,) integers; by default each query is one.
    The same seed gives the same interval. Raises InputError for wrong shapes or settings, and for NaN, naming the row.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.

    >>> low, high = bootstrap_interval(torch.tensor([0.0, 1.0] * 50))
    >>> 0.38 < low < 0.42 and 0.58 < high < 0.62
    True
    """
    sums, sizes = _by_cluster(_checked("values", values)[None], clusters)
    return _interval(_mean_of(sums[0], sizes), len(sizes), confidence, num_resamples, seed)


def paired_bootstrap_interval(first: Tensor, second: Tensor, **options: Any) -> tuple[float, float]:
    """Return the interval (low, high) of mean(second) - mean(first) over the same queries (docs/method.md, 7.2).

    Both are (Q,), one row per query. Their difference is resampled, so whatever makes a query easy or hard for both
    cancels out. Options and errors are those of `bootstrap_interval`.

    >>> paired_bootstrap_interval(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.6, 1.0]), num_resamples=10)
    (0.1..., 0.1...)
    """
    first, second = _checked("first", first), _checked("second", second)
    if first.shape != second.shape:
        raise InputError(f"first has {len(first)} rows and second {len(second)}; both must hold the same queries")
    return bootstrap_interval(second - first, **options)


def seeded_bootstrap_interval(
    first: Tensor, second: Tensor, *, clusters: Tensor | None = None, **options: Any
) -> tuple[float, float]:
    """Return the interval (low, high) of mean(second) - mean(first) over queries and seeds (docs/method.md, 7.3).

    first (S, Q), second (T, Q): one row per seed, one column per query, the same queries in both. A resample draws
    clusters of queries, the same for both, and for each of the two as many of its seeds as there are, all with
    replacement: would the difference be found again with other queries and other seeds? With a single seed only the
    queries vary, as in `paired_bootstrap_interval`. Options and errors are those of `bootstrap_interval`.

    >>> first = torch.tensor([[0.0, 0.5, 1.0], [0.2, 0.7, 1.2]])
    >>> low, high = seeded_bootstrap_interval(first, first[:1] + 0.3)
    >>> round(low, 6), round(high, 6)  # the queries' differences are equal; the seeds of `first` are not
    (0.1, 0.3)
    """
    for name, values in (("first", first), ("second", second)):
        if values.ndim != 2 or not len(values):
            raise InputError(f"{name} is {tuple(values.shape)}; it must be (S, Q), one row per seed")
    if first.shape[1] != second.shape[1]:
        raise InputError(f"first has {first.shape[1]} columns and second {second.shape[1]}; queries must be the same")
    both = torch.cat([_checked("first", first.flatten()), _checked("second", second.flatten())])
    sums, sizes = _by_cluster(both.reshape(-1, first.shape[1]), clusters)

    def difference(drawn: Tensor, generator: torch.Generator) -> Tensor:
        times = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        means = (times @ sums.T) / (times @ sizes)[:, None]  # of each row of `both`
        mean_first, mean_second = (
            part.gather(1, torch.randint(part.shape[1], part.shape, generator=generator)).mean(1)
            for part in (means[:, : len(first)], means[:, len(first) :])
        )
        return mean_second - mean_first

    return _interval(difference, len(sizes), **options)


def per_class_bootstrap_interval(values: Tensor, classes: Tensor, **options: Any) -> tuple[float, float]:
    """Return the interval (low, high) of the mean over classes of the mean of their values (docs/method.md, 7.6).

    values (Q,); classes (Q,) integers. A query of a class with n queries counts 1 / n, and a resample draws as many
    queries as there are from all classes together, with replacement. (Drawing within each class would give a class with
    a single query no spread at all, and such classes are most of a long tail; averaging over the classes that were
    drawn would leave them out too often.) Options and errors are those of `bootstrap_interval`, without `clusters`.

    >>> low, high = per_class_bootstrap_interval(torch.tensor([0.0, 1.0] * 50), torch.arange(100) // 2)
    >>> 0.38 < low < 0.42 and 0.58 < high < 0.62
    True
    """
    values = _checked("values", values)
    if classes.shape != values.shape or classes.is_floating_point():
        raise InputError(f"classes is {tuple(classes.shape)} {classes.dtype}; it must be ({len(values)},) of integers")
    _, member = torch.unique(classes.cpu(), return_inverse=True)
    weights = 1 / torch.bincount(member).double()[member]
    return _interval(_mean_of(weights * values, weights), len(values), **options)


def _by_cluster(values: Tensor, clusters: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sums (S, G) of values (S, Q) over each of G clusters, and the clusters' sizes (G,)."""
    Q = values.shape[1]
    if clusters is None:
        return values, torch.ones(Q, dtype=torch.float64)
    if clusters.shape != (Q,) or clusters.is_floating_point():
        raise InputError(f"clusters is {tuple(clusters.shape)} {clusters.dtype}; it must be ({Q},) of integers")
    _, member = torch.unique(clusters.cpu(), return_inverse=True)
    sums = torch.zeros(len(values), int(member.max()) + 1, dtype=torch.float64).index_add_(1, member, values)
    return sums, torch.bincount(member).double()


def _mean_of(sums: Tensor, sizes: Tensor) -> Statistic:
    return lambda drawn, _: sums[drawn].sum(dim=1) / sizes[drawn].sum(dim=1)


def _interval(
    statistic: Statistic,
    G: int,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval of `statistic`, a number per resample (rows,), of the clusters (rows, G) that each draws."""
    if num_resamples < 1:
        raise InputError(f"num_resamples is {num_resamples}; it must be 1 or more")
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}; it must lie strictly between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    rows, values = max(1, CHUNK // G), []
    for start in range(0, num_resamples, rows):
        drawn = torch.randint(G, (min(rows, num_resamples - start), G), generator=generator)
        values.append(statistic(drawn, generator))
    tail = (1.0 - confidence) / 2.0
    low, high = torch.cat(values).quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64)).tolist()
    return low, high


def _checked(name: str, values: Tensor) -> Tensor:
    values = values.detach().to("cpu", torch.float64)
    check_table(name, values, float)
    return values
