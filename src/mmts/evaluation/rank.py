"""Ranking the media of a split for every caption, and its captions for every medium."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from mmts.data.records import Split
from mmts.distributed.processes import num_processes, shared
from mmts.errors import InputError
from mmts.evaluation.measures import CUTOFFS, GRADED, MEAN_RECALL, RECALLS
from mmts.metrics import bootstrap_interval, graded_scores, ranks
from mmts.metrics.ranks import hits

_TOP = 10
CHUNK_ELEMENTS = 2**23
"""Of a similarity matrix at a time: 32 MB in float32."""
_CHUNK_QUERIES = 64  # that processes do not divide

Relevance = Literal["text", "own", "graded"]


@dataclass(frozen=True)
class Side:
    """The queries of one direction: the rank of each (1 is best), and its first results, the best first.

    media (Q,) int64: the medium of each query; ranks (Q,) int64; top (Q, <= 10) int64, candidates; top_relevant, the
    same shape, bool; graded (Q, 3) float64 in [0, 1], the measures `GRADED`, or None.
    """

    direction: str
    media: Tensor
    ranks: Tensor
    top: Tensor
    top_relevant: Tensor
    graded: Tensor | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that queries have, those of graded relevance first."""
        return (*(() if self.graded is None else GRADED), *RECALLS)

    def scores(self, measure: str) -> Tensor:
        """Return a measure of every query, (Q,) float64 in [0, 1]: a hit for R@k; "mean recall" averages the three."""
        if measure in GRADED:
            assert self.graded is not None  # see `measures`
            return self.graded[:, GRADED.index(measure)]
        cutoffs = CUTOFFS if measure == MEAN_RECALL else (int(measure.removeprefix("R@")),)
        return torch.stack([hits(self.ranks, k) for k in cutoffs]).mean(dim=0)

    def has_interval(self, rows: Tensor) -> bool:
        """Whether the queries in `rows` (Q,) bool are of at least two media: a bootstrap of one medium says nothing."""
        media = self.media[rows]
        return bool((media != media[:1]).any())

    def interval(self, scores: Tensor, rows: Tensor) -> tuple[float, float] | None:
        """Return the 95 % interval over media, percent, of the mean score (Q,) of `rows`; None for a single medium."""
        if not self.has_interval(rows):
            return None
        low, high = bootstrap_interval(scores[rows], clusters=self.media[rows])
        return 100 * low, 100 * high


def relevant_media(split: Split, relevance: Relevance) -> csr_matrix:
    """Return (N, M) bool: for `own` the medium of each caption, for `text` all media that carry the same string."""
    N, M = split.num_captions, split.num_media
    rows = np.arange(N) if relevance == "own" else split.text.numpy()
    carries = csr_matrix((np.ones(N, dtype=bool), (rows, split.owner.numpy())), shape=(rows.max() + 1, M))
    return carries if relevance == "own" else csr_matrix(carries[rows])


def judge(media: Tensor, text: Tensor, split: Split, relevance: Relevance = "text") -> tuple[Side, Side]:
    """Rank media (M, D) for every caption, and captions (N, D) for every medium, in chunks of bounded memory.

    Ties count against the model. Several processes, which give the same arguments, rank a part of the queries each.

    Raises InputError if the numbers of rows do not fit the split, or naming the medium whose embedding is not finite.
    """
    if len(media) != split.num_media or len(text) != split.num_captions:
        raise InputError(
            f"{len(media)} media and {len(text)} caption embeddings for a split of "
            f"{split.num_media} media and {split.num_captions} captions"
        )
    for rows, owners in ((media, torch.arange(len(media))), (text, split.owner)):
        broken = owners[~rows.isfinite().all(dim=1)]
        if len(broken):
            medium = split.media[int(broken[0])]
            raise InputError(f"the embedding of medium {medium.id!r} or of its caption is NaN or infinite")
    grades = None  # (M, N)
    if relevance == "graded":
        assert split.graded is not None  # `Split.judged` checks that
        grades = split.graded.relevance()
    relevant = relevant_media(split, relevance) if grades is None else csr_matrix((grades == 1).T.numpy())
    of_text = _rank(text, media, relevant, None if grades is None else grades.T)
    of_media = _rank(media, text, relevant.T.tocsr(), grades)
    kind, every = split.media[0].kind, torch.arange(len(media))
    return Side(f"text_to_{kind}", split.owner, *of_text), Side(f"{kind}_to_text", every, *of_media)


def largest_norm(rows: Tensor) -> float:
    """Return the largest norm of rows (M, D); 1 if all are zeros."""
    return float(torch.linalg.vector_norm(rows, dim=1).max()) or 1.0


def exact(rows: Tensor, norm: float) -> Tensor:
    """Return rows (M, D) of norms up to `norm` in float64, rounded so that dot products are exact.

    x -> round(2^26 x / s) s / 2^26,   s: `norm`, rounded up to a power of two (docs/method.md, 6.15)

    The order of additions then does not matter: any number of threads and processes gives the same bits.

    >>> x, y = exact(torch.randn(2, 512), norm=40.0)
    >>> torch.equal(x @ y, (x * y).flip(0).cumsum(0)[-1])
    True
    """
    # With a margin, so that unit rows have the same s however their norms were rounded; 2^26.01 is small enough, too.
    scale = 2.0 ** (26 - math.ceil(math.log2(norm) - 0.01))
    return rows.double().mul_(scale).round_().div_(scale)


def _rank(queries: Tensor, candidates: Tensor, relevant: csr_matrix, grades: Tensor | None) -> list[Tensor]:
    """Return `ranks`, `top`, `top_relevant` and, with grades (Q, C), `graded` of a Side."""
    Q, C = relevant.shape
    # The chunks are those of one process: float sums of graded relevance may depend on the number of rows.
    rows = max(1, min(CHUNK_ELEMENTS // C, max(_CHUNK_QUERIES, Q // _CHUNK_QUERIES)))
    norm, candidates = largest_norm(queries), exact(candidates, largest_norm(candidates))

    def rank(start: int) -> list[Tensor]:
        chunk = slice(start, start + rows)
        similarity = (exact(queries[chunk], norm) @ candidates.T).float()
        is_relevant = torch.from_numpy(relevant[chunk].toarray())
        top = similarity.topk(min(_TOP, C), dim=1).indices
        columns = [ranks(similarity, is_relevant), top, is_relevant.gather(1, top)]
        if grades is not None:
            scores = graded_scores(similarity, grades[chunk])
            figures = (scores.average_precision, scores.ndcg, scores.binary_average_precision)  # in the order of GRADED
            columns.append(torch.stack(figures, dim=1))
        return columns

    def rank_all(starts: range) -> list[list[Tensor]]:
        parts = [rank(start) for start in starts]
        return [[torch.cat(column) for column in zip(*parts, strict=True)]] if parts else []

    starts, n = range(0, Q, rows), num_processes()
    shares = [starts[len(starts) * k // n : len(starts) * (k + 1) // n] for k in range(n)]
    parts = [columns for share in shared(shares, lambda own: map(rank_all, own)) for columns in share]
    return [torch.cat(column) for column in zip(*parts, strict=True)]
