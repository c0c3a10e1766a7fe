"""Percentile bootstrap intervals of a mean, resampling whole clusters of queries."""

import torch
from torch import Tensor

from mmts.errors import InputError

CHUNK = 2**20  # draws at a time


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

    values: (Q,) one number a query, such as `ranks(...) <= k`. clusters: (Q,) integers, or None for each query by
    itself. The same seed gives the same interval. InputError for wrong shapes or settings, and for a NaN, naming the
    row.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.

    >>> low, high = bootstrap_interval(torch.tensor([0.0, 1.0] * 50))
    >>> 0.38 < low < 0.42 and 0.58 < high < 0.62
    True
    """
    values = _checked("values", values)
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}; it must lie strictly between 0 and 1")
    if num_resamples < 1:
        raise InputError(f"num_resamples is {num_resamples}; it must be 1 or more")
    if clusters is None:
        sums, sizes = values, torch.ones_like(values)
    else:
        if clusters.shape != values.shape or clusters.is_floating_point():
            raise InputError(
                f"clusters is {tuple(clusters.shape)} {clusters.dtype}; it must be ({len(values)},) of integers"
            )
        _, member = torch.unique(clusters.cpu(), return_inverse=True)
        sums = torch.zeros(int(member.max()) + 1, dtype=torch.float64).index_add_(0, member, values)
        sizes = torch.bincount(member).double()
    generator = torch.Generator().manual_seed(seed)
    means = []
    rows = max(1, CHUNK // len(sums))
    for start in range(0, num_resamples, rows):
        drawn = torch.randint(len(sums), (min(rows, num_resamples - start), len(sums)), generator=generator)
        means.append(sums[drawn].sum(dim=1) / sizes[drawn].sum(dim=1))
    tail = (1.0 - confidence) / 2.0
    low, high = torch.cat(means).quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64)).tolist()
    return low, high


def paired_bootstrap_interval(
    first: Tensor,
    second: Tensor,
    *,
    clusters: Tensor | None = None,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval (low, high) of mean(second) - mean(first) over the same queries (docs/method.md, 7.2).

    Both (Q,), row i of both the same query: their difference is resampled, so what makes a query easy or hard for both
    cancels out. The rest as in `bootstrap_interval`.

    >>> paired_bootstrap_interval(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.6, 1.0]), num_resamples=10)
    (0.1..., 0.1...)
    """
    first, second = _checked("first", first), _checked("second", second)
    if first.shape != second.shape:
        raise InputError(f"first has {len(first)} rows and second {len(second)}; both must hold the same queries")
    return bootstrap_interval(
        second - first, clusters=clusters, confidence=confidence, num_resamples=num_resamples, seed=seed
    )


def _checked(name: str, values: Tensor) -> Tensor:
    if values.ndim != 1 or not len(values):
        raise InputError(f"{name} is {tuple(values.shape)}; it must be (Q,), Q >= 1")
    values = values.detach().to("cpu", torch.float64)
    if not bool(values.isfinite().all()):
        row = int((~values.isfinite()).nonzero()[0])
        raise InputError(f"{name}[{row}] is {values[row].item()}; every value must be finite")
    return values
