"""Nearest neighbours by cosine: every item is looked at, or above 100,000 those of the nearest cells."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.errors import RunError

Rows = npt.NDArray[np.float32]

EXACT_UNDER = 100_000  # items
CELLS = 4.0  # times the square root of the number of items
LOOKED_AT = 0.125  # of the cells; docs/searching.md has the recall that was measured
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
    """Return what `from_bytes` reads: the rows, and of cells their centres and the cell of each row, as safetensors.

    faiss's own format is not for files that others may have changed: sizes in it are believed, up to terabytes.
    """
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[Any]] = {"rows": rows_of(vectors)}
    if not is_exact(vectors):
        arrays |= {"centres": vectors.quantizer.reconstruct_n(0, vectors.nlist), "cells": _cells_of(vectors)}
    content: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return content


def from_bytes(content: bytes, count: int, width: int) -> Any:
    """Return the faiss index of (count, width) unit rows. Raises RunError, saying what else the bytes are."""
    import faiss
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: numbers of a type that numpy has not
        raise RunError(f"is no safetensors file ({' '.join(str(error).split())[:80]})") from None
    if set(arrays) not in ({"rows"}, {"rows", "centres", "cells"}):
        raise RunError(f"holds {' '.join(', '.join(sorted(arrays)).split())[:80] or 'nothing'}")
    rows = arrays["rows"]
    if rows.shape != (count, width) or rows.dtype != np.float32:
        raise RunError(f"holds rows {rows.shape} of {rows.dtype}, not ({count}, {width}) of float32")
    if not np.all(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) < UNIT):  # so that NaN fails too
        raise RunError("holds rows whose length is not 1")
    if "cells" not in arrays:
        flat = faiss.IndexFlatIP(width)
        flat.add(rows)
        return flat
    centres, cells = arrays["centres"], arrays["cells"]
    if centres.ndim != 2 or centres.shape[1] != width or not 1 <= len(centres) <= count:
        raise RunError(f"holds centres {centres.shape} for rows of width {width}")
    if centres.dtype != np.float32 or not np.isfinite(centres).all():
        raise RunError("holds centres that are no finite float32 numbers")
    if cells.shape != (count,) or cells.dtype != np.int64 or cells.min() < 0 or cells.max() >= len(centres):
        raise RunError("holds rows in cells that are not there")
    return _in_cells(rows, centres, cells)


def _cells_of(vectors: Any) -> npt.NDArray[np.int64]:
    """Return the cell of each row, (N,)."""
    import faiss

    cells = np.empty(vectors.ntotal, np.int64)
    for cell in range(vectors.nlist):
        if size := vectors.invlists.list_size(cell):
            cells[faiss.rev_swig_ptr(vectors.invlists.get_ids(cell), size)] = cell
    return cells


def _in_cells(rows: Rows, centres: Rows, cells: npt.NDArray[np.int64]) -> Any:
    """Return the faiss index of rows (N, D) that lie in cells (N,) around centres (K, D)."""
    import faiss

    quantizer = faiss.IndexFlatIP(centres.shape[1])
    quantizer.add(centres)
    vectors = faiss.IndexIVFFlat(quantizer, centres.shape[1], len(centres), faiss.METRIC_INNER_PRODUCT)
    vectors.is_trained = True
    vectors.add_core(len(rows), faiss.swig_ptr(rows), None, faiss.swig_ptr(cells))
    vectors.nprobe = _looked_at(vectors)
    return vectors
