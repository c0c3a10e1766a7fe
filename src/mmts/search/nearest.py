"""Nearest neighbours by cosine: every item is looked at, or above 100,000 those of the nearest cells."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.errors import RunError

Rows = npt.NDArray[np.float32]

EXACT_UNDER = 100_000  # items
CELLS = 4.0  # times the square root of the number of items
LOOKED_AT = 0.125  # of the cells; docs/search.md has the recall that was measured
_LONGEST_TRAINING = 64  # items a cell, in k-means
UNIT = 1e-3  # how far from 1 the length of a row may be


def make_vectors(rows: Rows, exact_under: int = EXACT_UNDER) -> Any:
    """Return a faiss index of unit rows (N, D): all of them in a row, or N >= `exact_under` in cells found by k-means.

    >>> number, score = nearest(make_vectors(np.eye(3, dtype=np.float32)), np.array([0, 0.6, 0.8], np.float32), 2)
    >>> number.tolist(), score.tolist()
    ([2, 1], [0.800..., 0.600...])
    """
    import faiss

    count, width = rows.shape
    flat = faiss.IndexFlatIP(width)
    if count < exact_under:
        flat.add(rows)
        return flat
    cells = faiss.IndexIVFFlat(flat, width, round(CELLS * count**0.5), faiss.METRIC_INNER_PRODUCT)
    cells.cp.max_points_per_centroid = _LONGEST_TRAINING
    cells.cp.niter = 10
    cells.train(rows)
    cells.add(rows)
    cells.nprobe = _looked_at(cells)
    return cells


def _looked_at(cells: Any) -> int:
    return max(1, round(LOOKED_AT * int(cells.nlist)))


def is_exact(vectors: Any) -> bool:
    """Return whether every item is looked at."""
    return not hasattr(vectors, "nprobe")


def nearest(vectors: Any, query: Rows, k: int) -> tuple[npt.NDArray[np.int64], Rows]:
    """Return the numbers of the k items nearest to a unit row (D,), and their cosines, the nearest first."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # for one query, threads that wait for each other cost more than they bring
    try:
        scores, numbers = vectors.search(query[None], min(k, vectors.ntotal))
    finally:
        faiss.omp_set_num_threads(threads)
    found = (numbers[0] >= 0) & (numbers[0] < vectors.ntotal)  # cells may hold fewer than k
    return numbers[0][found], scores[0][found]


def rows_of(vectors: Any, start: int = 0, count: int | None = None) -> Rows:
    """Return rows (N, D) in the items' order: all, or `count` from `start` on."""
    rows: Rows = vectors.reconstruct_n(start, vectors.ntotal if count is None else count)
    return rows


def to_bytes(vectors: Any) -> bytes:
    """Return what `from_bytes` reads."""
    import faiss

    content: bytes = faiss.serialize_index(vectors).tobytes()
    return content


def from_bytes(content: bytes, count: int, width: int) -> Any:
    """Return the faiss index of (count, width) unit rows. Raises RunError, saying what else the bytes are."""
    import faiss

    try:
        vectors: Any = faiss.deserialize_index(np.frombuffer(content, np.uint8))
    except (RuntimeError, MemoryError) as error:
        raise RunError(f"is no faiss index ({' '.join(str(error).split())[:80]})") from None
    if type(vectors) not in (faiss.IndexFlatIP, faiss.IndexIVFFlat):
        raise RunError(f"is a faiss {type(vectors).__name__}; IndexFlatIP and IndexIVFFlat are read")
    if (vectors.ntotal, vectors.d) != (count, width) or vectors.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise RunError(f"holds {vectors.ntotal:,} rows of width {vectors.d}, not {count:,} of {width} by inner product")
    if not is_exact(vectors):
        flat = faiss.downcast_index(vectors.quantizer)
        if not isinstance(flat, faiss.IndexFlatIP) or (flat.ntotal, flat.d) != (vectors.nlist, width):
            raise RunError("has cells without centres")
        vectors.nprobe = _looked_at(vectors)
    lengths = np.linalg.norm(rows_of(vectors), axis=1)
    if not np.all(np.abs(lengths - 1) < UNIT):  # so that NaN fails too
        raise RunError("holds rows whose length is not 1")
    return vectors
