"""The density around each caption, from its neighbors: there are no clusters whose number has to be chosen."""

import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.concepts.encoders import EncoderName, Rows, checked_captions, encode_distinct, open_encoder, unit_rows
from mmts.console import Bar, progress_bar
from mmts.errors import InputError

BLOCK_BYTES = 2**26  # of one block of similarities
ROUNDING = 1e-6  # the cosine of two equal rows of float32 may come out this much below 1


def neighbour_counts(
    captions: Sequence[str],
    k: int = 10,
    encoder: EncoderName = "minilm",
    *,
    threshold: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Count the captions within the usual distance of a neighbor: a density for each sample (docs/method.md, 2.5).

    n_i = number of captions j, i included, with s_ij >= t;   t = median over i of s_i,k

    s_i,k is the cosine of caption i and the k-th nearest of the N - 1 others, so half of the captions have k others or
    more. The counts are positive: `ConceptDistribution.from_counts` takes them as sizes of concepts, and
    `density_shift` as densities. The search is exact and in blocks: time grows with the square of the number of
    distinct captions, memory with N alone.

    Args:
        captions: (N,) non-empty strings. Repeated captions count as often as they occur.
        k: Number of neighbors of the median caption, 1 to N - 1.
        encoder: As in `ConceptDistribution.from_captions`.
        threshold: t itself, in [-1, 1], instead of `k`.
        seed: Of "tfidf".

    Returns:
        (N,) int64, from 1 to N.

    Raises:
        InputError: There are no captions, one is empty (names its row), `k` or `threshold` is out of range, or there is
            no such encoder.

    >>> at = {"red shoe": [1.0, 0.0], "blue shoe": [0.9, 0.1], "sun hat": [0.0, 1.0]}
    >>> neighbour_counts(["red shoe", "blue shoe", "red shoe", "sun hat"], 1, lambda texts: [at[t] for t in texts])
    tensor([2, 1, 2, 1])
    """
    captions = checked_captions(captions)
    if not captions:
        raise InputError("captions are empty: a density needs at least one")
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise InputError(f"threshold is {threshold}; it must be a cosine in [-1, 1]")
    is_whole = hasattr(k, "__index__") and not isinstance(k, bool)
    if threshold is None and not (is_whole and 1 <= operator.index(k) < len(captions)):
        raise InputError(
            f"k is {k!r}; it must be a whole number from 1 to {len(captions) - 1}, one less than the number of captions"
        )
    rows, occurrences, row_of = encode_distinct(captions, open_encoder(encoder, captions, seed=seed))
    rows = unit_rows(rows)
    passes = 1 if threshold is not None else 2
    with progress_bar("finding neighbors", passes * len(rows), "captions") as bar:
        if threshold is None:
            threshold = float(np.median(_kth_similarity(rows, occurrences, operator.index(k), bar)[row_of]))
        counts = _within(rows, occurrences, threshold - ROUNDING, bar)
    return torch.from_numpy(counts[row_of])


def _kth_similarity(rows: Rows, occurrences: npt.NDArray[np.int64], k: int, bar: Bar) -> Rows:
    """Return the cosine (U,) of each distinct caption and the k-th nearest of the others, its own repeats included."""
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    num_nearest = min(k + 1, len(rows))  # each finds itself first
    kth = np.empty(len(rows), np.float32)
    block = _block(len(rows))
    for start in range(0, len(rows), block):
        similarities, columns = index.search(rows[start : start + block], num_nearest)  # (block, num_nearest) each
        reached = occurrences[columns].cumsum(axis=1) >= k + 1
        kth[start : start + block] = similarities[np.arange(len(columns)), reached.argmax(axis=1)]
        bar.advance(len(columns))
    return kth


def _within(rows: Rows, occurrences: npt.NDArray[np.int64], threshold: float, bar: Bar) -> npt.NDArray[np.int64]:
    """Return how many captions (U,) have at least this cosine with each distinct one, itself and its repeats too."""
    counts = np.empty(len(rows), np.int64)
    block = _block(len(rows))
    for start in range(0, len(rows), block):
        near = rows[start : start + block] @ rows.T >= threshold  # (block, U)
        at = np.arange(len(near))
        near[at, start + at] = True  # a caption of unknown words alone is a zero row, of cosine 0 with itself
        counts[start : start + block] = [occurrences[row].sum() for row in near]
        bar.advance(len(near))
    return counts


def _block(num_rows: int) -> int:
    return max(1, min(1024, BLOCK_BYTES // (4 * num_rows)))
