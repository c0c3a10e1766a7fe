"""How badly a caption fits its picture by a run's embeddings, and which pictures are nearest (docs/method.md, 7.7)."""

from dataclasses import dataclass

import torch
from scipy.sparse import csr_matrix, identity
from torch import Tensor

from mmts.data.records import Split
from mmts.evaluation.rank import CHUNK_ELEMENTS, relevant_media

SUSPECTED = 3.5
"""Captions that score more are suspected: the usual cut for modified z-scores (Iglewicz and Hoaglin, 1993)."""
NEIGHBORS = 10
LEAST_MEDIA = 50
"""Fewer say too little about what is usual."""


@dataclass(frozen=True)
class Mismatches:
    """scores (N,), a modified z-score per caption; nearest (M,) int64, the most similar other medium; cosine (M,)."""

    scores: Tensor
    nearest: Tensor
    cosine: Tensor


def find_mismatches(media: Tensor, text: Tensor, split: Split) -> Mismatches | None:
    """Compare every caption with those of the pictures that look most like its own (docs/method.md, 7.7).

    media (M, D), text (N, D): unit embeddings. A medium's caption is expected to be what its ten most similar media are
    captioned with, on average; that holds where a run knows a wrong pair by heart, too. None for fewer than 50 media.
    Sources: CSLS (Conneau et al., arXiv 1710.04087), and LEMoN (Zhang et al., arXiv 2407.18941) for the neighbors.
    """
    M = len(media)
    if M < LEAST_MEDIA:
        return None
    media, text, owner = media.float(), text.float(), split.owner
    cosines, nearest = _best(media, media, identity(M, dtype=bool, format="csr"))
    mean = torch.zeros_like(media).index_add_(0, owner, text) / torch.bincount(owner, minlength=M)[:, None]
    expected = mean[nearest].mean(dim=1)  # (M, D)
    carries = relevant_media(split, "text")
    of_media, of_text = (
        values.masked_fill(values.isinf(), torch.nan).nanmean(dim=1)
        for values in (_best(expected, text, carries.T.tocsr())[0], _best(text, expected, carries)[0])
    )
    margin = (expected[owner] * text).sum(dim=1) - (of_media[owner] + of_text) / 2
    center = margin.nanmedian()
    scores = 0.6745 * (center - margin) / (margin - center).abs().nanmedian()
    return Mismatches(scores.nan_to_num(0.0, posinf=0.0, neginf=0.0), nearest[:, 0], cosines[:, 0])


def _best(queries: Tensor, candidates: Tensor, left_out: csr_matrix) -> tuple[Tensor, Tensor]:
    """Return the ten largest products of queries (Q, D), candidates (C, D), and whose; -inf for `left_out` (Q, C)."""
    rows, parts = max(1, CHUNK_ELEMENTS // len(candidates)), []
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        similarity = queries[chunk] @ candidates.T
        similarity[torch.from_numpy(left_out[chunk].toarray()).to(similarity.device)] = -torch.inf
        parts.append(similarity.topk(NEIGHBORS, dim=1))
    values, indices = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(indices)
