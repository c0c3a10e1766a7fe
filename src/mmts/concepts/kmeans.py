"""k-means over caption embeddings, through faiss."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SAMPLE = 2**18
"""Of more rows than these, concepts are found on a sample of so many (`mmts.concepts.stored_rows`)."""


class Clusters(NamedTuple):
    """Centroids (K, W), the nearest centroid of each row (M,), and how many clusters ended empty and were dropped."""

    centroids: Rows
    labels: Labels
    num_dropped: int


def kmeans(
    rows: Rows,
    num_clusters: int,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
    restarts: int = 5,
    iterations: int = 25,
) -> Clusters:
    """Minimise sum_i weight_i |row_i - centroid_{label_i}|^2; the best of several seeded starts.

    All rows are used, no sample of them. A cluster that loses all its rows on the way is refilled by splitting a large
    one; one that is nearest to no row at the end is dropped and the others are numbered anew.

    Args:
        rows: (M, W) float32, M >= num_clusters.
        num_clusters: K wanted; fewer come back where rows coincide.
        weights: (M,) how often each row counts; once where not given.
        seed: Same seed, rows and number of threads: same clusters.
        restarts: Starts from different random rows.
        iterations: Lloyd steps of each.

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
    """Return the centroids (K, W) after some Lloyd steps from `start` (K, W), or from random rows; else as `kmeans`.

    >>> improved(np.array([[1.0], [2.0], [9.0]], np.float32), 2, np.array([[0.0], [8.0]], np.float32))
    array([[1.5],
           [9. ]], dtype=float32)
    """
    import faiss

    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if weights is not None:
        weights = np.ascontiguousarray(weights, dtype=np.float32)
    search: Any = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        spherical=False,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # faiss would otherwise train on a sample of 256 K rows
        verbose=False,
    )
    search.train(rows, weights=weights, init_centroids=start)
    centroids: Rows = search.centroids
    return centroids


def without_empty(centroids: Rows, labels: Labels) -> Clusters:
    """Drop the centroids (K, W) that no label (M,) names, and number the others anew.

    >>> without_empty(np.eye(3, dtype=np.float32), np.array([2, 0, 2])).labels
    array([1, 0, 1])
    """
    used = np.bincount(labels, minlength=len(centroids)) > 0
    numbers = np.cumsum(used) - 1
    return Clusters(centroids[used], numbers[labels].astype(np.int64), int((~used).sum()))


def nearest(rows: Rows, centroids: Rows, chunk: int = 16384) -> Labels:
    """Return the index (M,) of the centroid with the least Euclidean distance; the lowest index of equal ones.

    >>> nearest(np.array([[0.9, 0.1]], np.float32), np.eye(2, dtype=np.float32))
    array([0])
    """
    # |r - c|^2 = |r|^2 - 2 r.c + |c|^2, and |r|^2 is the same for every centroid.
    half = 0.5 * np.einsum("kw,kw->k", centroids, centroids)
    parts = [(rows[i : i + chunk] @ centroids.T - half).argmax(axis=1) for i in range(0, len(rows), chunk)]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
