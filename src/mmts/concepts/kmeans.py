"""k-means over caption embeddings, through faiss; of more rows than it takes at once, over a sample.

Then one pass assigns all rows to the centroids of the sample. Rows may lie in a .npy file, in float16 or float32:
memory is that of the sample and of a few thousand rows. Results are kept under `mmts.files.cache_root()`: the same call
resumes an interrupted one, and a finished one is read back.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.console import progress_bar
from mmts.errors import DataError, InputError, first_line
from mmts.feature_cache import stored_array
from mmts.files import cache_root, content_hash

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SAMPLE = 2**18
"""The most rows that k-means looks at; of more, it takes a random sample."""
_STARTS = 2**15  # rows, or 16 per centroid if that is more, among which k-means looks for its start
_TRIES = 16  # rows drawn for each centroid of the start
_CHUNK = 2**16  # rows between two writes of their labels
_AT_ONCE = 2**22  # numbers in a block of rows or similarities: 16 MB, about what a processor's cache holds


class Clusters(NamedTuple):
    """Centroids (K, W), the nearest centroid of each row (N,), and how many clusters ended empty and were dropped."""

    centroids: Rows
    labels: Labels
    num_dropped: int


def resolve_num_concepts(num_concepts: int | Literal["auto"], captions: Sequence[str]) -> int:
    """Return the number of concepts to look for: "auto" is min(200, distinct captions // 10), at least 2.

    Raises InputError unless the number is "auto" or positive and whole, and for fewer distinct captions.

    >>> resolve_num_concepts("auto", [f"caption {i}" for i in range(500)])
    50
    """
    distinct = len(set(captions))
    if num_concepts == "auto":
        if distinct < 2:
            raise InputError(f"all {len(captions)} captions are the same; concepts need at least 2 distinct ones")
        return max(2, min(200, distinct // 10))
    if not is_whole(num_concepts) or num_concepts < 1:
        raise InputError(f'num_concepts is {num_concepts!r}; it must be a positive whole number or "auto"')
    if num_concepts > distinct:
        raise InputError(f"num_concepts is {num_concepts}, but there are only {distinct} distinct captions")
    return operator.index(num_concepts)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of any type, but not a bool."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def kmeans(
    rows: Rows,
    num_clusters: int,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
    restarts: int = 5,
    iterations: int = 25,
) -> Clusters:
    """Cluster all rows (N, W): the best of several starts; a cluster that is nearest to no row is dropped."""
    if not 1 <= num_clusters <= len(rows):
        raise InputError(f"num_concepts is {num_clusters}; it must be 1 to {len(rows)}, the number of rows")
    best, lowest = None, np.inf
    for restart in range(restarts):
        start = distant_rows(rows, num_clusters, weights=weights, seed=(seed, restart))
        centroids = lloyd(rows, start, weights=weights, seed=seed, iterations=iterations)
        labels, distances = nearest(rows, centroids)
        total = np.average(distances, weights=weights)
        if best is None or total < lowest:
            best, lowest = without_empty(centroids, labels), total
    assert best is not None
    return best


def distant_rows(
    rows: Rows,
    num_clusters: int,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int | tuple[int, ...] = 0,
) -> Rows:
    """Return K of the rows (N, W) that lie far apart, for k-means to start from: k-means++ (docs/method.md, 2.7).

    weights: (N,) how often each row counts, by default once. Of more than 32,768 rows, or 16 K, it looks at a random
    sample of that many.

    >>> sorted(distant_rows(np.array([[0.0], [0.1], [5.0], [5.1]], np.float32), 2).ravel().round().tolist())
    [0.0, 5.0]

    Source: Arthur and Vassilvitskii, k-means++: The Advantages of Careful Seeding, 2007, with several tries.
    """
    random = np.random.default_rng(seed)
    weights = np.ones(len(rows), np.float32) if weights is None else weights
    if len(rows) > (most := max(_STARTS, 16 * num_clusters)):
        sample = np.sort(random.choice(len(rows), most, replace=False, shuffle=False))
        rows, weights = rows[sample], weights[sample]
    squares = np.einsum("nw,nw->n", rows, rows)

    def draw(shares: npt.NDArray[np.float32], number: int) -> Labels:
        ends = shares.cumsum(dtype=np.float64)
        found: Labels = ends.searchsorted(random.random(number) * ends[-1], side="right")
        return found.clip(max=len(rows) - 1)

    def distances(to: Labels) -> Rows:
        squared: Rows = squares + squares[to, None] - 2 * (rows @ rows[to].T).T
        return squared.clip(min=0)  # rounding

    chosen = draw(weights, 1)
    nearest_chosen = distances(chosen)[0]
    for _ in range(1, num_clusters):
        shares = weights * nearest_chosen
        tried = draw(shares if shares.any() else weights, _TRIES)
        with_tried = np.minimum(distances(tried), nearest_chosen)
        best = int(np.einsum("tn,n->t", with_tried, weights).argmin())
        chosen, nearest_chosen = np.append(chosen, tried[best]), with_tried[best]
    return rows[chosen]


def lloyd(
    rows: Rows,
    start: Rows,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
    iterations: int = 1,
) -> Rows:
    """Return centroids (K, W) with a smaller sum_i weight_i |row_i - centroid_{label_i}|^2 than the start, (K, W).

    rows: (N, W) float32, N >= K. weights: (N,) how often each row counts, by default once. A cluster that loses all its
    rows is refilled by splitting a large one. The same seed, rows and number of threads give the same centroids.

    >>> lloyd(np.array([[1.0], [2.0], [9.0]], np.float32), np.array([[0.0], [8.0]], np.float32))
    array([[1.5],
           [9. ]], dtype=float32)
    """
    import faiss

    search: Any = faiss.Kmeans(
        rows.shape[1],
        len(start),
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),  # faiss would otherwise train on a sample of 256 K rows
    )
    search.train(np.ascontiguousarray(rows, dtype=np.float32), weights=weights, init_centroids=start)
    centroids: Rows = search.centroids
    return centroids


def without_empty(centroids: Rows, labels: npt.NDArray[Any]) -> Clusters:
    """Drop the centroids (K, W) that no label (N,) names, and renumber the others."""
    used = np.bincount(labels, minlength=len(centroids)) > 0
    numbers: Labels = (np.cumsum(used) - 1)[labels]
    return Clusters(centroids[used], numbers, int((~used).sum()))


def nearest(rows: Rows, centroids: Rows, chunk: int = 16384) -> tuple[Labels, npt.NDArray[np.float64]]:
    """Return the nearest centroid of each row (N,), of equal ones the lowest, and its squared distance less |r|^2."""
    # |r - c|^2 = |r|^2 - 2 r.c + |c|^2, and |r|^2 is the same for every centroid.
    half = 0.5 * np.einsum("kw,kw->k", centroids, centroids)
    labels, distances = np.empty(len(rows), np.int64), np.empty(len(rows))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        similarity = rows[part] @ centroids.T - half
        labels[part], distances[part] = similarity.argmax(axis=1), -2 * similarity.max(axis=1)
    return labels, distances


def unit_rows(rows: Rows) -> Rows:
    """Divide each row by its norm; zero rows stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)


@dataclass(frozen=True)
class StoredRows:
    """Rows (N, W) in memory or mapped from a file; `file` names the contents of that file."""

    values: npt.NDArray[Any]
    file: str = ""

    @cached_property
    def identity(self) -> str:
        """A name of the contents."""
        parts = (np.array(self.values[at : at + _CHUNK]).tobytes() for at in range(0, len(self.values), _CHUNK))
        return self.file or content_hash(f"{self.values.dtype} {self.values.shape}", *parts)

    def read(self, at: slice | Labels) -> Rows:
        """Return some rows in float32, divided by their norms; raise InputError naming a row that is not finite."""
        rows = self.values[at]
        if rows.dtype != np.float32:
            rows = torch.from_numpy(np.array(rows)).float().numpy()  # numpy widens float16 six times slower
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            row = np.arange(len(self.values))[at][int(finite.argmin())]
            raise InputError(f"row {row} of the embeddings is NaN or infinite")
        return unit_rows(rows)


Embeddings = str | Path | npt.NDArray[Any] | Tensor | StoredRows
"""Rows (N, W) in float16 or float32: a .npy file, which is mapped and never read whole, or an array."""


def open_rows(embeddings: Embeddings) -> StoredRows:
    """Map a .npy file, or take an array as it is; the path, size and time of change name the contents of a file.

    Raises DataError for a missing file or one without such rows, InputError for an array without.
    """
    if isinstance(embeddings, StoredRows):
        return embeddings
    if isinstance(embeddings, str | Path):
        path = Path(embeddings)
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            state = path.stat()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
        except Exception as error:  # numpy raises nearly anything on a damaged file
            raise DataError(f"{path}: not a .npy file of numbers ({first_line(error)})") from None
        rows = StoredRows(values, content_hash(str(path.absolute()), str(state.st_size), str(state.st_mtime_ns)))
        start = f"{path}: holds"
    else:
        rows = StoredRows(embeddings.detach().float().cpu().numpy() if isinstance(embeddings, Tensor) else embeddings)
        start = "embeddings are"
    values = rows.values
    is_array = isinstance(values, np.ndarray)
    if is_array and values.ndim == 2 and values.size and values.dtype in (np.float16, np.float32):
        return rows
    what = f"{values.shape} of {values.dtype}" if is_array else type(values).__name__
    kind = DataError if rows.file else InputError
    raise kind(f"{start} {what}; they must be (N, W) of float16 or float32")


def sampled_centroids(
    embeddings: Embeddings,
    num_concepts: int,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
    sample: int = SAMPLE,
    iterations: int = 20,
) -> Rows:
    """Return the centroids (K, W) of k-means on a random sample of the rows, each divided by its norm.

    A centroid may be nearest to no row, see `ConceptDistribution.from_clusters`. weights: (N,) how often each row
    counts, by default once; seed: of the sample and of the start; iterations: Lloyd steps, from one start. Raises what
    `open_rows` raises, and InputError for a row that is not finite or fewer rows than num_concepts.

    >>> rows = np.array([[0, 1], [0.1, 1], [1, 0]], np.float16)
    >>> sampled_centroids(rows, 2).round(2)[:, 0].argsort().tolist() in ([0, 1], [1, 0])
    True
    """
    rows = open_rows(embeddings)
    N, W = rows.values.shape
    sample = min(sample, N)
    if not 1 <= num_concepts <= sample:
        raise InputError(f"num_concepts is {num_concepts}; it must be a number from 1 to {sample}, the rows looked at")

    def compute(_: range) -> Rows:
        drawn = np.sort(np.random.default_rng(seed).choice(N, sample, replace=False, shuffle=False))
        values = rows.read(drawn)
        drawn_weights = None if weights is None else weights[drawn]
        centroids = distant_rows(values, num_concepts, weights=drawn_weights, seed=seed)
        with progress_bar("k-means on a sample", iterations, "iterations") as bar:
            for _step in range(iterations):
                centroids = lloyd(values, centroids, weights=drawn_weights, seed=seed)
                bar.advance()
        return centroids

    counted = "" if weights is None else content_hash(weights.tobytes())
    key = content_hash("centroids 2", rows.identity, counted, f"{num_concepts} {seed} {sample} {iterations}")
    file, dtype = cache_root() / "concepts" / f"{key}.npy", np.dtype(np.float32)
    return stored_array(file, (num_concepts, W), dtype, compute, title=None, unit="centroids", chunk=num_concepts)


def assign_rows(embeddings: Embeddings, centroids: Rows, part: range | None = None) -> npt.NDArray[np.int32]:
    """Return the nearest centroid of each row, or of the rows in `part`: (N,) or (len(part),) int32.

    The rows (N, W) are divided by their norms; centroids are (K, W) float32. The pass resumes an interrupted one, at
    most 65,536 rows earlier. Several machines may each do a part; their results, concatenated, are those of the whole.
    Raises what `open_rows` raises, and InputError for centroids of another width, a part outside the rows, or a row
    that is not finite.

    >>> rows, centroids = np.array([[0, 1], [0.1, 1], [1, 0]], np.float16), np.eye(2, dtype=np.float32)
    >>> assign_rows(rows, centroids).tolist(), assign_rows(rows, centroids, range(1, 3)).tolist()
    ([1, 1, 0], [1, 0])
    """
    rows = open_rows(embeddings)
    N, W = rows.values.shape
    part = range(N) if part is None else part
    if centroids.ndim != 2 or centroids.shape[1] != W:
        raise InputError(f"centroids are {centroids.shape}; they must be (K, {W}), as wide as the embeddings")
    if part.step != 1 or not 0 <= part.start < part.stop <= N:
        raise InputError(f"part is {part}; it must be consecutive rows of the {N}, such as range(0, {N})")
    step = min(8192, max(256, _AT_ONCE // max(W, len(centroids))))

    def compute(chunk: range) -> Labels:
        first, end = part.start + chunk.start, part.start + chunk.stop
        pieces = (slice(start, min(start + step, end)) for start in range(first, end, step))
        return np.concatenate([nearest(rows.read(piece), centroids)[0] for piece in pieces])

    key = content_hash("labels 1", rows.identity, centroids.tobytes(), f"{part.start} {part.stop}")
    file, dtype, title = cache_root() / "concepts" / f"{key}.npy", np.dtype(np.int32), "assigning to concepts"
    return stored_array(file, (len(part),), dtype, compute, title=title, unit="rows", chunk=_CHUNK)


def clusters_of(
    embeddings: Embeddings, num_concepts: int, *, weights: npt.NDArray[np.float32] | None = None, seed: int = 0
) -> Clusters:
    """Return the clusters of all rows: by `kmeans`, or around the centroids of a sample if there are too many."""
    rows = open_rows(embeddings)
    if len(rows.values) <= SAMPLE:
        return kmeans(rows.read(slice(None)), num_concepts, weights=weights, seed=seed)
    centroids = sampled_centroids(rows, num_concepts, weights=weights, seed=seed)
    return without_empty(centroids, assign_rows(rows, centroids).astype(np.int64))
