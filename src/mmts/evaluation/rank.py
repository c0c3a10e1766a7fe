"""Ranking the media of a split for every caption, and its captions for every medium."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from mmts.data.records import Split
from mmts.errors import InputError
from mmts.metrics import graded_scores, ranks

_TOP = 10
_CHUNK_ELEMENTS = 2**23  # of the similarity matrix at a time: 32 MB in float32

Relevance = Literal["text", "own", "graded"]


@dataclass(frozen=True)
class Judgement:
    """The rank of every query of a split (1 is best), and the first results.

    text_ranks (N,), media_ranks (M,) int64; text_top (N, <= 10) media, media_top (M, <= 10) captions, best first;
    *_relevant the same shapes, bool; with graded relevance also text_graded (N, 3), media_graded (M, 3) float64, in
    [0, 1]: average precision, nDCG and binary average precision of every query.
    """

    text_ranks: Tensor
    media_ranks: Tensor
    text_top: Tensor
    text_top_relevant: Tensor
    media_top: Tensor
    media_top_relevant: Tensor
    text_graded: Tensor | None = None
    media_graded: Tensor | None = None


def relevance_matrix(split: Split, relevance: Relevance) -> csr_matrix:
    """Return the sparse (N, M) matrix of which media are relevant to which caption.

    `own`: a caption's own medium. `text`: every medium that carries the same caption string.
    """
    N, M = split.num_captions, split.num_media
    rows = np.arange(N) if relevance == "own" else split.text.numpy()
    carries = csr_matrix((np.ones(N, dtype=bool), (rows, split.owner.numpy())), shape=(rows.max() + 1, M))
    return carries if relevance == "own" else csr_matrix(carries[rows])


def judge(media: Tensor, text: Tensor, split: Split, relevance: Relevance = "text") -> Judgement:
    """Rank media (M, D) for every caption and captions (N, D) for every medium, in chunks of bounded memory.

    Ties count against the model (docs/method.md, ranks). Raises InputError if the numbers of rows do not fit the split,
    or naming the medium whose embedding is not finite.
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
    relevant = relevance_matrix(split, relevance) if grades is None else csr_matrix((grades == 1).T.numpy())
    text_side = _rank_all(text, media, relevant, None if grades is None else grades.T)
    media_side = _rank_all(media, text, csr_matrix(relevant.T), grades)
    return Judgement(
        text_ranks=text_side.ranks,
        media_ranks=media_side.ranks,
        text_top=text_side.top,
        text_top_relevant=text_side.top_relevant,
        media_top=media_side.top,
        media_top_relevant=media_side.top_relevant,
        text_graded=text_side.graded,
        media_graded=media_side.graded,
    )


class _Ranked(NamedTuple):
    """Ranks (Q,), the first candidates (Q, T), whether they are relevant (Q, T), and graded scores (Q, 3)."""

    ranks: Tensor
    top: Tensor
    top_relevant: Tensor
    graded: Tensor | None = None


def _rank_all(queries: Tensor, candidates: Tensor, relevant: csr_matrix, grades: Tensor | None) -> _Ranked:
    rows = max(1, _CHUNK_ELEMENTS // max(1, len(candidates)))
    # A product in float32 may differ in its last bit between equal candidates, which would hide a tie.
    queries, candidates = queries.double(), candidates.double()
    parts = []
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        similarity = (queries[chunk] @ candidates.T).float()
        is_relevant = torch.from_numpy(relevant[chunk].toarray()).to(similarity.device)
        top = similarity.topk(min(_TOP, similarity.shape[1]), dim=1).indices
        part = [ranks(similarity, is_relevant), top, is_relevant.gather(1, top)]
        if grades is not None:
            scores = graded_scores(similarity, grades[chunk].to(similarity.device))
            columns = (scores.average_precision, scores.ndcg, scores.binary_average_precision)  # in the order of GRADED
            part.append(torch.stack(columns, dim=1))
        parts.append([tensor.cpu() for tensor in part])
    return _Ranked(*(torch.cat(column) for column in zip(*parts, strict=True)))
