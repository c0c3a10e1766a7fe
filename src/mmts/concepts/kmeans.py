"""k-means over caption embeddings, through faiss."""

import operator
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mmts.errors import InputError

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SAMPLE = 2**18
"""The most rows that k-means looks at; of more, it takes a random sample (`mmts.concepts.stored_rows`)."""


class Clusters(NamedTuple):
    """Centroids (K, W), the nearest centroid of each row (N,), and how many clusters ended empty and were dropped."""

    centroids: Rows
    labels: Labels
    num_dropped: int


def resolve_num_concepts(num_concepts: int | Literal["auto"], captions: Sequence[str]) -> int:
    """Return the number of concepts to look for: "auto" is min(200, distinct captions // 10), at least 2.

    Raises:
        InputError: The number is not positive and whole or "auto", or there are fewer distinct captions.

    >>> resolve_num_concepts("auto", [f"caption {i}" for i in range(500)])
    50
    """
    distinct = len(set(captions))
    if num_concepts == "auto":
        if distinct < 2:
            raise InputError(f"all {len(captions)} captions are the same; concepts need at least 2 distinct ones")
        return max(2, min(200, distinct // 10))
    is_whole = hasattr(num_concepts, "__index__") and not isinstance(num_concepts, bool)
    if not is_whole or operator.index(num_concepts) < 1:
        raise InputError(f'num_concepts is {num_concepts!r}; it must be a positive whole number or "auto"')
    if num_concepts > distinct:
        raise InputError(f"num_concepts is {num_concepts}, but there are only {distinct} distinct captions")
    return operator.index(num_concepts)


def kmeans(
    rows: Rows,
    num_clusters: int,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
    restarts: int = 5,
    iterations: int = 25,
) -> Clusters:
    """Minimize sum_i weight_i |row_i - centroid_{label_i}|^2, and keep the best of several seeded starts.

    All rows are used. A cluster that loses all its rows on the way is refilled by splitting a large one; one that is
    nearest to no row at the end is dropped.

    Args:
        rows: (N, W) float32, N >= num_clusters.
        num_clusters: K; fewer come back if rows coincide.
        weights: (N,) how often each row counts; by default once.
        seed: The same seed, rows and number of threads give the same clusters.
        restarts: Number of starts from different random rows.
        iterations: Lloyd steps per start.

    >>> rows = np.array([[0, 1], [0, 0.9], [1, 0]], dtype=np.float32)
    >>> clusters = kmeans(rows, 2)
    >>> bool(clusters.labels[0] == clusters.labels[1] != clusters.labels[2])
    True
    """
    centroids = improved(rows, num_clusters, weights=weights, seed=seed, restarts=restarts, iterations=iterations)
    return without_empty(centroids, nearest(rows, centroids))


def improved(
    rows: Rows,
    num_clusters: int,
    start: Rows | None = None,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
    restarts: int = 1,
    iterations: int = 1,
) -> Rows:
    """Return the centroids (K, W) after some Lloyd steps from `start` (K, W), by default random rows; else as `kmeans`.

    >>> improved(np.array([[1.0], [2.0], [9.0]], np.float32), 2, np.array([[0.0], [8.0]], np.float32))
    array([[1.5],
           [9. ]], dtype=float32)
    """
    import faiss

    search: Any = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # faiss would otherwise train on a sample of 256 K rows
    )
    search.train(np.ascontiguousarray(rows, dtype=np.float32), weights=weights, init_centroids=start)
    centroids: Rows = search.centroids
    return centroids


def without_empty(centroids: Rows, labels: Labels) -> Clusters:
    """Drop the centroids (K, W) that no label (N,) names, and renumber the others.

    >>> without_empty(np.eye(3, dtype=np.float32), np.array([2, 0, 2])).labels
    array([1, 0, 1])
    """
    used = np.bincount(labels, minlength=len(centroids)) > 0
    numbers = np.cumsum(used) - 1
    return Clusters(centroids[used], numbers[labels].astype(np.int64), int((~used).sum()))


def nearest(rows: Rows, centroids: Rows, chunk: int = 16384) -> Labels:
    """Return the index (N,) of the centroid at the least Euclidean distance; the lowest index of equal ones.

    >>> nearest(np.array([[0.9, 0.1]], np.float32), np.eye(2, dtype=np.float32))
    array([0])
    """
    # |r - c|^2 = |r|^2 - 2 r.c + |c|^2, and |r|^2 is the same for every centroid.
    half = 0.5 * np.einsum("kw,kw->k", centroids, centroids)
    parts = [(rows[i : i + chunk] @ centroids.T - half).argmax(axis=1) for i in range(0, len(rows), chunk)]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
