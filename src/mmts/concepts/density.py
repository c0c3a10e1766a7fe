"""The density around each caption, from its neighbors instead of clusters; and from densities to shifts."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.concepts.encoders import EncoderName, checked_captions, encode_distinct, open_encoder
from mmts.concepts.kmeans import Rows, is_whole, unit_rows
from mmts.console import Bar, progress_bar
from mmts.errors import InputError
from mmts.options import Positive, check_table, checked

Scale = Literal["linear", "log", "rank", "power"]
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

    s_i,k is the cosine of caption i and the k-th nearest of the N - 1 others (a repeated caption counts each time), so
    half of the captions have k others or more. The search is exact: time grows with the square of the number of
    distinct captions, memory with N alone.

    captions: (N,) non-empty strings; k: from 1 to N - 1; encoder and seed: as in `ConceptDistribution.from_captions`;
    threshold: t itself, in [-1, 1], instead of k. Returns (N,) int64 from 1 to N, which
    `ConceptDistribution.from_counts` takes as sizes, and `density_shift` as densities. Raises InputError without
    captions, naming the row of an empty one, for a k or threshold out of range, or for an unknown encoder.

    >>> at = {"red shoe": [1.0, 0.0], "blue shoe": [0.9, 0.1], "sun hat": [0.0, 1.0]}
    >>> neighbour_counts(["red shoe", "blue shoe", "red shoe", "sun hat"], 1, lambda texts: [at[t] for t in texts])
    tensor([2, 1, 2, 1])
    """
    captions = checked_captions(captions)
    if not captions:
        raise InputError("captions are empty: a density needs at least one")
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise InputError(f"threshold is {threshold}; it must be a cosine in [-1, 1]")
    if threshold is None and not (is_whole(k) and 1 <= k < len(captions)):
        raise InputError(
            f"k is {k!r}; it must be a whole number from 1 to {len(captions) - 1}, one less than the number of captions"
        )
    rows, occurrences, row_of = encode_distinct(captions, open_encoder(encoder, captions, seed=seed))
    rows = unit_rows(rows)
    passes = 1 if threshold is not None else 2
    with progress_bar("finding neighbors", passes * len(rows), "captions") as bar:
        if threshold is None:
            threshold = float(np.median(_kth_similarity(rows, occurrences, k, bar)[row_of]))
        counts = _within(rows, occurrences, threshold - ROUNDING, bar)
    return torch.from_numpy(counts[row_of])


def _kth_similarity(rows: Rows, occurrences: npt.NDArray[np.int64], k: int, bar: Bar) -> Rows:
    """Return the cosine (U,) of each distinct caption and the k-th nearest of the others, its own repeats included."""
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    num_nearest = min(k + 1, len(rows))  # each finds itself first
    kth = np.empty(len(rows), np.float32)
    for block in _blocks(len(rows)):
        similarities, columns = index.search(rows[block], num_nearest)  # (block, num_nearest) each
        reached = occurrences[columns].cumsum(axis=1) >= k + 1
        kth[block] = similarities[np.arange(len(columns)), reached.argmax(axis=1)]
        bar.advance(len(columns))
    return kth


def _within(rows: Rows, occurrences: npt.NDArray[np.int64], threshold: float, bar: Bar) -> npt.NDArray[np.int64]:
    """Return how many captions (U,) have at least this cosine with each distinct one, itself and its repeats too."""
    counts = np.empty(len(rows), np.int64)
    for block in _blocks(len(rows)):
        near = rows[block] @ rows.T >= threshold  # (block, U)
        at = np.arange(len(near))
        near[at, block.start + at] = True  # a caption of unknown words alone is a zero row, of cosine 0 with itself
        counts[block] = [occurrences[row].sum() for row in near]
        bar.advance(len(near))
    return counts


def _blocks(num_rows: int) -> Iterator[slice]:
    step = max(1, min(1024, BLOCK_BYTES // (4 * num_rows)))
    return (slice(start, start + step) for start in range(0, num_rows, step))


@checked
def density_shift(
    density: Tensor, low: float, high: float, scale: Scale = "linear", exponent: float | None = None
) -> Tensor:
    """Map positive densities n, such as the sizes of concepts, to [low, high] (docs/method.md, 2.1 to 2.3 and 2.6).

        shift = low + (high - low) f(n)
        linear: f = (n - n_min) / (n_max - n_min)
        log:    f = (ln n - ln n_min) / (ln n_max - ln n_min)
        rank:   f = (r - 1) / (R - 1), r = rank of n among the R distinct densities
        power:  f = (n^q - n_min^q) / (n_max^q - n_min^q)

    and f = 1/2 if all are equal. "linear" leaves nearly all at `low` when one density dominates; "log" and "rank"
    spread them. With `low` above `high`, small densities get the larger value.

    density: (N,) finite and positive. exponent: q, finite and not 0, which "power" needs and no other scale takes.
    Returns (N,) float32, on the same device. Raises InputError naming the row of a density that is not finite and
    positive, or for a bound that is not finite, an unknown scale or a wrong exponent.

    >>> density_shift(torch.tensor([0.01, 0.1, 1.0]), 0.0, 1.0, scale="log")
    tensor([0.0000, 0.5000, 1.0000])

    Source: MM-TS, arXiv 2603.08202 (linear, over sizes of clusters).
    """
    if (exponent is None) == (scale == "power") or not (exponent is None or (exponent and math.isfinite(exponent))):
        wanted = "a finite number that is not 0" if scale == "power" else "left out"
        raise InputError(f"exponent is {exponent} and scale is {scale!r}, with which it must be {wanted}")
    check_table("density", density, Positive)
    distinct, rank = torch.unique(density, return_inverse=True)  # sorted, so the inverse is the rank - 1
    if len(distinct) == 1:
        fraction = torch.full(density.shape, 0.5, dtype=torch.float64, device=density.device)
    elif scale == "rank":
        fraction = rank.double() / (len(distinct) - 1)
    else:
        n = density.double() if scale == "linear" else density.double().log()
        if exponent is not None:  # relative to the density with the largest power, which can then not overflow
            relative = n - (n.max() if exponent > 0 else n.min())
            n = (exponent * relative).expm1() * math.copysign(1, exponent)
        fraction = (n - n.min()) / (n.max() - n.min())
    return (low + (high - low) * fraction).float()
