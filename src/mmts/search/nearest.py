"""Nearest neighbors by cosine: every item is compared, or from 100,000 items on, those of the nearest cells."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.errors import RunError

Rows = npt.NDArray[np.float32]

EXACT_UNDER = 100_000  # items
_CELLS = 4.0  # times the square root of the number of items
_SEARCHED = 0.125  # share of the cells; docs/searching.md has the measured recall
_MAX_TRAINING = 64  # items per cell, in k-means
UNIT = 1e-3  # how far the length of a row may be from 1


def make_vectors(rows: Rows, exact_under: int = EXACT_UNDER) -> Any:
    """Return a faiss index of unit rows (M, D): a plain list, or for M >= `exact_under` cells made by k-means.

    >>> number, score = nearest(make_vectors(np.eye(3, dtype=np.float32)), np.array([0, 0.6, 0.8], np.float32), 2)
    >>> number.tolist(), score.tolist()
    ([2, 1], [0.800..., 0.600...])
    """
    import faiss

    count, width = rows.shape
    if count < exact_under:
        return _flat(rows)
    cells = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, round(_CELLS * count**0.5), faiss.METRIC_INNER_PRODUCT)
    cells.cp.max_points_per_centroid = _MAX_TRAINING
    cells.cp.niter = 10
    cells.train(rows)
    cells.add(rows)
    return _searched_in_part(cells)


def is_exact(vectors: Any) -> bool:
    """Return whether a search compares every item."""
    return not hasattr(vectors, "nprobe")


def nearest(vectors: Any, query: Rows, k: int) -> tuple[npt.NDArray[np.int64], Rows]:
    """Return the numbers of the k items nearest to a unit row (D,), and their cosines, the nearest first."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # for one query, threads cost more than they save
    try:
        scores, numbers = vectors.search(query[None], min(k, vectors.ntotal))
    finally:
        faiss.omp_set_num_threads(threads)
    valid = (numbers[0] >= 0) & (numbers[0] < vectors.ntotal)  # the searched cells may hold fewer than k
    return numbers[0][valid], scores[0][valid]


def rows_of(vectors: Any, start: int = 0, count: int | None = None) -> Rows:
    """Return the rows in the order of the items, (M, D): all, or `count` from `start` on."""
    rows: Rows = vectors.reconstruct_n(start, vectors.ntotal if count is None else count)
    return rows


def to_bytes(vectors: Any) -> bytes:
    """Return a safetensors file for `from_bytes`: the rows, and for cells their centers and the cell of each row.

    faiss's own format is unsafe for files that others may have changed: it trusts the sizes in it, up to terabytes.
    """
    import faiss
    from safetensors.numpy import save

    arrays: dict[str, npt.NDArray[Any]] = {"rows": rows_of(vectors)}
    if not is_exact(vectors):
        arrays["centres"] = vectors.quantizer.reconstruct_n(0, vectors.nlist)
        arrays["cells"] = np.empty(vectors.ntotal, np.int64)
        for cell in range(vectors.nlist):
            if size := vectors.invlists.list_size(cell):
                arrays["cells"][faiss.rev_swig_ptr(vectors.invlists.get_ids(cell), size)] = cell
    content: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return content


def from_bytes(content: bytes, count: int, width: int) -> Any:
    """Return the faiss index of (count, width) unit rows. Raises RunError, saying what the bytes are instead."""
    import faiss
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type that numpy does not have
        raise RunError(f"it is not a safetensors file: {' '.join(str(error).split())[:80]}") from None
    if set(arrays) not in ({"rows"}, {"rows", "centres", "cells"}):
        raise RunError(f"it holds {' '.join(', '.join(sorted(arrays)).split())[:80] or 'nothing'}")
    rows = arrays["rows"]
    if rows.shape != (count, width) or rows.dtype != np.float32:
        raise RunError(f"it holds rows {rows.shape} of {rows.dtype}, not ({count}, {width}) of float32")
    if not np.all(np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) < UNIT):  # so that NaN fails too
        raise RunError("it holds rows whose length is not 1")
    if "cells" not in arrays:
        return _flat(rows)
    centers, cells = arrays["centres"], arrays["cells"]
    if centers.ndim != 2 or centers.shape[1] != width or not 1 <= len(centers) <= count:
        raise RunError(f"it holds centers {centers.shape} for rows of width {width}")
    if centers.dtype != np.float32 or not np.isfinite(centers).all():
        raise RunError("it holds centers that are not finite float32 numbers")
    if cells.shape != (count,) or cells.dtype != np.int64 or cells.min() < 0 or cells.max() >= len(centers):
        raise RunError("it holds rows in cells that do not exist")
    vectors = faiss.IndexIVFFlat(_flat(centers), width, len(centers), faiss.METRIC_INNER_PRODUCT)
    vectors.is_trained = True
    vectors.add_core(count, faiss.swig_ptr(rows), None, faiss.swig_ptr(cells))
    return _searched_in_part(vectors)


def _flat(rows: Rows) -> Any:
    import faiss

    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    return flat


def _searched_in_part(cells: Any) -> Any:
    cells.nprobe = max(1, round(_SEARCHED * int(cells.nlist)))
    return cells
