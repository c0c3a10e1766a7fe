"""Concepts of more rows than k-means takes at once: centroids of a sample, then one pass over all rows.

Rows may lie in a .npy file, in float16 or float32; memory is that of the sample and of a few thousand rows. What has
been computed is kept under `mmts.files.cache_root()` by all that it depends on: the same call goes on where an
interrupted one stopped, and is quick once it is whole.
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
_AT_ONCE = 2**22  # numbers of rows, or of their similarities to centroids: 16 MB, about what a processor's cache holds


class StoredRows(NamedTuple):
    """Rows (N, W) as they lie in a file or in memory, and a name for their contents."""

    values: npt.NDArray[Any]
    identity: str

    def read(self, at: slice | Labels) -> Rows:
        """Return some rows, of norm 1 (or 0), in float32; InputError names a row with NaN or infinite numbers."""
        rows = torch.from_numpy(np.array(self.values[at])).float().numpy()  # numpy widens float16 six times slower
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            row = np.arange(len(self.values))[at][int(finite.argmin())]
            raise InputError(f"row {row} of the embeddings is NaN or infinite")
        return unit_rows(rows)


Embeddings = str | Path | npt.NDArray[Any] | Tensor | StoredRows
"""Rows (N, W) in float16 or float32: a .npy file, which is mapped and never read whole, or an array."""


def open_rows(embeddings: Embeddings) -> StoredRows:
    """Map a .npy file without reading it, or take an array as it is.

    A file's contents are known by its path, size and time of change, an array's by a hash.

    Raises:
        DataError: there is no such file, or it holds no rows of numbers.
        InputError: an array of another shape or type than (N, W) float16 or float32.

    >>> open_rows(np.eye(2, dtype=np.float16)).read(slice(1, 2))
    array([[0., 1.]], dtype=float32)
    """
    if isinstance(embeddings, StoredRows):
        return embeddings
    if isinstance(embeddings, str | Path):
        return _mapped(Path(embeddings))
    values = embeddings.detach().float().cpu().numpy() if isinstance(embeddings, Tensor) else embeddings
    if (wrong := _why_no_rows(values)) is not None:
        raise InputError(f"embeddings are {wrong}")
    parts = (np.array(values[start : start + _CHUNK]).tobytes() for start in range(0, len(values), _CHUNK))
    return StoredRows(values, content_hash(f"{values.dtype} {values.shape}", *parts))


def _mapped(path: Path) -> StoredRows:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not a .npy file of numbers ({shortened(str(error))})") from None
    if (wrong := _why_no_rows(values)) is not None:
        raise DataError(f"{path}: holds {wrong}")
    return StoredRows(values, content_hash(str(path.absolute()), str(state.st_size), str(state.st_mtime_ns)))


def _why_no_rows(values: Any) -> str | None:
    """Say what is there in place of embeddings; None where all is right."""
    right = "(N, W) of float16 or float32 is right"
    if not isinstance(values, np.ndarray):
        return f"{type(values).__name__}; {right}"
    if values.ndim != 2 or not values.size or values.dtype not in (np.float16, np.float32):
        return f"{values.shape} of {values.dtype}; {right}"
    return None


def sampled_centroids(
    embeddings: Embeddings,
    num_concepts: int,
    *,
    weights: npt.NDArray[np.float32] | None = None,
    seed: int = 0,
    sample: int = SAMPLE,
    iterations: int = 20,
) -> Rows:
    """Return the centroids (K, W) of k-means on a random sample of the rows, each made a unit row.

    Args:
        embeddings: (N, W) rows, N >= num_concepts.
        num_concepts: K; some centroids may be nearest to no row, see `ConceptDistribution.from_clusters`.
        weights: (N,) how often each row counts; once where not given.
        seed: Of the sample and of the start.
        sample: Rows drawn, without repeats; all where there are no more.
        iterations: Lloyd steps, from one start.

    Raises:
        DataError, InputError: as `open_rows`; a row drawn that is not finite; a num_concepts that cannot be.

    >>> rows = np.array([[0, 1], [0.1, 1], [1, 0]], np.float16)
    >>> sampled_centroids(rows, 2).round(2)[:, 0].argsort().tolist() in ([0, 1], [1, 0])
    True
    """
    rows = open_rows(embeddings)
    N, W = rows.values.shape
    sample = min(sample, N)
    if not 1 <= num_concepts <= sample:
        raise InputError(f"num_concepts is {num_concepts}; a number from 1 to {sample}, the rows looked at, is right")
    counted = "" if weights is None else content_hash(weights.tobytes())

    def compute(_: range) -> Rows:
        drawn = np.sort(np.random.default_rng(seed).choice(N, sample, replace=False, shuffle=False))
        values = rows.read(drawn)
        weighed = None if weights is None else weights[drawn]
        centroids = None
        with progress_bar("k-means on a sample", iterations, "iterations") as bar:
            for _step in range(iterations):
                centroids = improved(values, num_concepts, centroids, weights=weighed, seed=seed)
                bar.advance()
        assert centroids is not None
        return centroids

    key = content_hash("centroids 1", rows.identity, counted, f"{num_concepts} {seed} {sample} {iterations}")
    return stored_array(
        cache_root() / "concepts" / f"{key}.npy",
        (num_concepts, W),
        np.dtype(np.float32),
        compute,
        title=None,
        unit="centroids",
        chunk=num_concepts,
    )


def assign_rows(embeddings: Embeddings, centroids: Rows, part: range | None = None) -> npt.NDArray[np.int32]:
    """Return the nearest centroid of each row, or of those in `part`: (N,) or (len(part),) int32.

    The pass goes on where an interrupted one stopped, at most 65,536 rows earlier. Parts may be done on several
    machines; their results, one after the other, are those of the whole.

    Args:
        embeddings: (N, W) rows, each made a unit row.
        centroids: (K, W) float32.
        part: Consecutive rows; all where not given.

    Raises:
        DataError, InputError: as `open_rows`; centroids of another width, a part outside the rows, a row that is not
            finite.

    >>> rows, centroids = np.array([[0, 1], [0.1, 1], [1, 0]], np.float16), np.eye(2, dtype=np.float32)
    >>> assign_rows(rows, centroids).tolist(), assign_rows(rows, centroids, range(1, 3)).tolist()
    ([1, 1, 0], [1, 0])
    """
    rows = open_rows(embeddings)
    N, W = rows.values.shape
    part = range(N) if part is None else part
    if centroids.ndim != 2 or centroids.shape[1] != W:
        raise InputError(f"centroids are {centroids.shape}; (K, {W}), the width of the embeddings, is right")
    if part.step != 1 or not 0 <= part.start < part.stop <= N:
        raise InputError(f"part is {part}; consecutive rows of the {N}, such as range(0, {N}), are right")
    step = min(8192, max(256, _AT_ONCE // max(W, len(centroids))))

    def compute(at: range) -> Labels:
        first, end = part.start + at.start, part.start + at.stop
        pieces = (slice(start, min(start + step, end)) for start in range(first, end, step))
        return np.concatenate([nearest(rows.read(piece), centroids) for piece in pieces])

    key = content_hash("labels 1", rows.identity, centroids.tobytes(), f"{part.start} {part.stop}")
    return stored_array(
        cache_root() / "concepts" / f"{key}.npy",
        (len(part),),
        np.dtype(np.int32),
        compute,
        title="assigning to concepts",
        unit="rows",
        chunk=_CHUNK,
    )


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
