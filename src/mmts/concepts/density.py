"""How dense it is around each caption, from its neighbours: no clusters, so no number of them to choose."""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.concepts.encoders import EncoderFunction, Rows, checked_captions, encode_distinct, open_encoder
from mmts.console import Bar, progress_bar
from mmts.errors import InputError

BLOCK_BYTES = 2**26  # of one block of similarities
ROUNDING = 1e-6  # two rows of float32 that are the same may come out this much below 1


def neighbour_counts(
    captions: Sequence[str],
    k: int = 10,
    encoder: str | Path | EncoderFunction = "minilm",
    *,
    threshold: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Count the captions about as near as a neighbour usually is: a density for each sample (docs/method.md, 2.5).

    n_i = number of captions j, i included, with s_ij >= t;   t = median over i of s_i,k

    with s_i,k the cosine of caption i and the k-th nearest of the N - 1 others. So half of the captions have k others
    or more. The counts are whole and positive: `ConceptDistribution.from_counts` takes them as sizes of concepts (for
    shift, groups, saving), and `density_shift` as densities.

    Args:
        captions: (N,) non-empty strings. Repeated ones count as often as they stand there.
        k: Number of neighbours of the median caption, 1 to N - 1.
        encoder: As in `mmts.concepts.encoders.encode_captions`.
        threshold: t itself, in [-1, 1], instead of `k`'s.
        seed: Of "tfidf".

    Returns:
        (N,) int64, from 1 to N.

    The search is exact (faiss) and in blocks: time grows with the square of the number of distinct captions, memory
    with N alone.

    Raises:
        InputError: no captions, an empty one (with its row), a `k` or `threshold` out of range, or no such encoder.

    >>> at = {"red shoe": [1.0, 0.0], "blue shoe": [0.9, 0.1], "sun hat": [0.0, 1.0]}
    >>> neighbour_counts(["red shoe", "blue shoe", "red shoe", "sun hat"], 1, lambda texts: [at[t] for t in texts])
    tensor([2, 1, 2, 1])
    """
    captions = checked_captions(captions)
    if not captions:
        raise InputError("captions are empty: a density needs at least one")
    if threshold is None:
        k = _checked_k(k, len(captions))
    elif not -1.0 <= threshold <= 1.0:
        raise InputError(f"threshold is {threshold}; a cosine in [-1, 1] is right")
    rows, occurrences, row_of = encode_distinct(captions, open_encoder(encoder, captions, seed=seed))
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    passes = 1 if threshold is not None else 2
    with progress_bar("finding neighbours", passes * len(rows), "captions") as bar:
        if threshold is None:
            threshold = float(np.median(_kth_similarity(rows, occurrences, k, bar)[row_of]))
        counts = _within(rows, occurrences, threshold - ROUNDING, bar)
    return torch.from_numpy(counts[row_of])


def _checked_k(k: Any, num_captions: int) -> int:
    whole = hasattr(k, "__index__") and not isinstance(k, bool)
    if not whole or not 1 <= operator.index(k) < num_captions:
        raise InputError(
            f"k is {k!r}; a whole number from 1 to {num_captions - 1}, one less than the captions, is right"
        )
    return operator.index(k)


def _kth_similarity(rows: Rows, occurrences: npt.NDArray[np.int64], k: int, bar: Bar) -> Rows:
    """Return the cosine (M,) of each distinct caption with the k-th nearest of the others, its own repeats included."""
    import faiss

    index: Any = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    wanted = min(k + 1, len(rows))  # it finds itself first
    kth = np.empty(len(rows), np.float32)
    block = _block(len(rows))
    for start in range(0, len(rows), block):
        similarities, found = index.search(rows[start : start + block], wanted)  # each (block, wanted), nearest first
        reached = occurrences[found].cumsum(axis=1) >= k + 1
        kth[start : start + block] = similarities[np.arange(len(found)), reached.argmax(axis=1)]
        bar.advance(len(found))
    return kth


def _within(rows: Rows, occurrences: npt.NDArray[np.int64], threshold: float, bar: Bar) -> npt.NDArray[np.int64]:
    """Return how many captions (M,) have at least this cosine with each distinct one, itself and its repeats too."""
    counts = np.empty(len(rows), np.int64)
    block = _block(len(rows))
    for start in range(0, len(rows), block):
        near = rows[start : start + block] @ rows.T >= threshold  # (block, M)
        at = np.arange(len(near))
        near[at, start + at] = True  # a caption of which the encoder knows no word has cosine 0 with itself
        counts[start : start + block] = [occurrences[row].sum() for row in near]
        bar.advance(len(near))
    return counts


def _block(num_rows: int) -> int:
    return max(1, min(1024, BLOCK_BYTES // (4 * num_rows)))
