"""Concepts of more rows than k-means takes at once: centroids of a sample, then one pass over all rows.

Rows may lie in a .npy file, in float16 or float32; memory is that of the sample and of a few thousand rows. Results are
kept under `mmts.files.cache_root()`: the same call resumes an interrupted one, and a finished one is read back.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.concepts.encoders import Rows, unit_rows
from mmts.concepts.kmeans import SAMPLE, Clusters, Labels, improved, nearest, without_empty
from mmts.console import progress_bar
from mmts.errors import DataError, InputError, shortened
from mmts.feature_cache import stored_array
from mmts.files import cache_root, content_hash

_CHUNK = 2**16  # rows between two writes of their labels
_AT_ONCE = 2**22  # numbers in a block of rows or similarities: 16 MB, about what a processor's cache holds


class StoredRows(NamedTuple):
    """Rows (N, W) in a file or in memory, and a name of their contents."""

    values: npt.NDArray[Any]
    identity: str

    def read(self, at: slice | Labels) -> Rows:
        """Return some rows in float32, divided by their norms; raise InputError naming a row that is not finite."""
        rows = torch.from_numpy(np.array(self.values[at])).float().numpy()  # numpy widens float16 six times slower
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            row = np.arange(len(self.values))[at][int(finite.argmin())]
            raise InputError(f"row {row} of the embeddings is NaN or infinite")
        return unit_rows(rows)


Embeddings = str | Path | npt.NDArray[Any] | Tensor | StoredRows
"""Rows (N, W) in float16 or float32: a .npy file, which is mapped and never read whole, or an array."""


def open_rows(embeddings: Embeddings) -> StoredRows:
    """Map a .npy file, or take an array as it is; the path, size and time of change name the contents of a file.

    Raises:
        DataError: There is no such file, or it holds no rows of numbers.
        InputError: An array has another shape or type than (N, W) float16 or float32.

    >>> open_rows(np.eye(2, dtype=np.float16)).read(slice(1, 2))
    array([[0., 1.]], dtype=float32)
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
        except (ValueError, EOFError) as error:
            raise DataError(f"{path}: not a .npy file of numbers ({shortened(str(error))})") from None
        if wrong := _why_no_rows(values):
            raise DataError(f"{path}: holds {wrong}")
        return StoredRows(values, content_hash(str(path.absolute()), str(state.st_size), str(state.st_mtime_ns)))
    values = embeddings.detach().float().cpu().numpy() if isinstance(embeddings, Tensor) else embeddings
    if wrong := _why_no_rows(values):
        raise InputError(f"embeddings are {wrong}")
    parts = (np.array(values[start : start + _CHUNK]).tobytes() for start in range(0, len(values), _CHUNK))
    return StoredRows(values, content_hash(f"{values.dtype} {values.shape}", *parts))


def _why_no_rows(values: Any) -> str:
    """Describe what is not an array of embeddings, and what would be; empty if it is one."""
    is_array = isinstance(values, np.ndarray)
    if is_array and values.ndim == 2 and values.size and values.dtype in (np.float16, np.float32):
        return ""
    kind = f"{values.shape} of {values.dtype}" if is_array else type(values).__name__
    return f"{kind}; they must be (N, W) of float16 or float32"


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

    Args:
        embeddings: (N, W) rows, N >= num_concepts.
        num_concepts: K; a centroid may be nearest to no row, see `ConceptDistribution.from_clusters`.
        weights: (N,) how often each row counts; by default once.
        seed: Of the sample and of the start.
        sample: Number of different rows to draw, at most N.
        iterations: Lloyd steps, from one start.

    Raises:
        DataError: As `open_rows`.
        InputError: As `open_rows`, or a row of the sample is not finite, or it has fewer rows than num_concepts.

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
        centroids = None
        with progress_bar("k-means on a sample", iterations, "iterations") as bar:
            for _step in range(iterations):
                centroids = improved(values, num_concepts, centroids, weights=drawn_weights, seed=seed)
                bar.advance()
        assert centroids is not None
        return centroids

    counted = "" if weights is None else content_hash(weights.tobytes())
    key = content_hash("centroids 1", rows.identity, counted, f"{num_concepts} {seed} {sample} {iterations}")
    file = cache_root() / "concepts" / f"{key}.npy"
    shape, dtype = (num_concepts, W), np.dtype(np.float32)
    return stored_array(file, shape, dtype, compute, title=None, unit="centroids", chunk=num_concepts)


def assign_rows(embeddings: Embeddings, centroids: Rows, part: range | None = None) -> npt.NDArray[np.int32]:
    """Return the nearest centroid of each row, or of the rows in `part`: (N,) or (len(part),) int32.

    The pass resumes an interrupted one, at most 65,536 rows earlier. Several machines may each do a part; their
    results, concatenated, are those of the whole.

    Args:
        embeddings: (N, W) rows, each divided by its norm.
        centroids: (K, W) float32.
        part: Consecutive rows; by default all.

    Raises:
        DataError: As `open_rows`.
        InputError: As `open_rows`, or the width of the centroids differs, `part` is outside the rows, or a row is not
            finite.

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
        return np.concatenate([nearest(rows.read(piece), centroids) for piece in pieces])

    key = content_hash("labels 1", rows.identity, centroids.tobytes(), f"{part.start} {part.stop}")
    file = cache_root() / "concepts" / f"{key}.npy"
    shape, dtype = (len(part),), np.dtype(np.int32)
    return stored_array(file, shape, dtype, compute, title="assigning to concepts", unit="rows", chunk=_CHUNK)


def sampled_kmeans(
    embeddings: Embeddings, num_concepts: int, *, weights: npt.NDArray[np.float32] | None = None, seed: int = 0
) -> Clusters:
    """Return the clusters of all rows (N, W) around the centroids of a sample; arguments as in `sampled_centroids`.

    >>> sampled_kmeans(np.array([[0, 1], [0.1, 1], [1, 0]], np.float16), 2).labels.tolist() in ([0, 0, 1], [1, 1, 0])
    True
    """
    rows = open_rows(embeddings)
    centroids = sampled_centroids(rows, num_concepts, weights=weights, seed=seed)
    return without_empty(centroids, assign_rows(rows, centroids).astype(np.int64))
