"""Judging a model on a split: both directions, head, mid and tail, and intervals."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES
from mmts.data.records import Split
from mmts.errors import DataError, InputError
from mmts.files import atomic_write
from mmts.metrics import bootstrap_interval, ranks

CUTOFFS = (1, 5, 10)
_TOP = 10
_CHUNK_ELEMENTS = 2**23  # of the similarity matrix at a time: 32 MB in float32

Relevance = Literal["text", "own"]


@dataclass(frozen=True)
class Judgement:
    """The rank of every query of a split (1 is best), and what stood first.

    text_ranks (M,), media_ranks (N,) int64; text_top (M, <= 10) media, media_top (N, <= 10) captions, best first;
    *_relevant the same shapes, bool.
    """

    text_ranks: Tensor
    media_ranks: Tensor
    text_top: Tensor
    text_top_relevant: Tensor
    media_top: Tensor
    media_top_relevant: Tensor


def relevance_matrix(split: Split, relevance: Relevance) -> csr_matrix:
    """Return the sparse (M, N) matrix of which medium is right for which caption.

    `own`: a caption's own medium. `text`: every medium that carries the same caption string.
    """
    M, N = split.num_captions, split.num_media
    owner = split.owner.numpy()
    if relevance == "own":
        return csr_matrix((np.ones(M, dtype=bool), (np.arange(M), owner)), shape=(M, N))
    text = split.text.numpy()
    carries = csr_matrix((np.ones(M, dtype=np.int32), (text, owner)), shape=(text.max() + 1, N)) > 0
    return csr_matrix(carries[text])


def judge(media: Tensor, text: Tensor, split: Split, relevance: Relevance = "text") -> Judgement:
    """Rank media (N, D) for every caption and captions (M, D) for every medium, in chunks of bounded memory.

    Ties count against the model (docs/method.md, ranks). Raises InputError where the rows do not fit the split.
    """
    if len(media) != split.num_media or len(text) != split.num_captions:
        raise InputError(
            f"{len(media)} media and {len(text)} caption embeddings for a split of "
            f"{split.num_media} media and {split.num_captions} captions"
        )
    right = relevance_matrix(split, relevance)
    text_ranks, text_top, text_hits = _rank_all(text, media, right)
    media_ranks, media_top, media_hits = _rank_all(media, text, csr_matrix(right.T))
    return Judgement(text_ranks, media_ranks, text_top, text_hits, media_top, media_hits)


def _rank_all(queries: Tensor, candidates: Tensor, right: csr_matrix) -> tuple[Tensor, Tensor, Tensor]:
    """Return ranks (Q,), the first candidates (Q, T) and which of them are right (Q, T)."""
    rows = max(1, _CHUNK_ELEMENTS // max(1, len(candidates)))
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for start in range(0, len(queries), rows):
        similarity = queries[start : start + rows] @ candidates.T
        relevant = torch.from_numpy(right[start : start + rows].toarray()).to(similarity.device)
        top = similarity.topk(min(_TOP, len(candidates)), dim=1).indices
        for into, value in zip(found, (ranks(similarity, relevant), top, relevant.gather(1, top)), strict=True):
            into.append(value.cpu())
    return torch.cat(found[0]), torch.cat(found[1]), torch.cat(found[2])


def recalls(query_ranks: Tensor) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent and the median rank."""
    figures = {f"R@{k}": 100 * (query_ranks <= k).double().mean().item() for k in CUTOFFS}
    return {**figures, "median_rank": float(np.median(query_ranks.numpy()))}


def direction_names(split: Split) -> tuple[str, str]:
    """Return what to call the two directions: (text_to_image, image_to_text), or video."""
    kind = split.media[0].kind
    return f"text_to_{kind}", f"{kind}_to_text"


def summarize(judgement: Judgement, split: Split, text_groups: Tensor) -> dict[str, Any]:
    """Return what metrics.json holds; text_groups (M,) is 0, 1, 2 = head, mid, tail of each caption's concept.

    A medium's group is that of its first caption.
    """
    to_media, to_text = direction_names(split)
    media_groups = text_groups[split.first]
    by_group: dict[str, Any] = {}
    for number, name in enumerate(GROUP_NAMES):
        texts, media = text_groups == number, media_groups == number
        by_group[name] = {
            "num_queries": int(texts.sum()),
            to_media: recalls(judgement.text_ranks[texts]) if texts.any() else None,
            to_text: recalls(judgement.media_ranks[media]) if media.any() else None,
        }
        if not texts.any() and not media.any():
            by_group[name] = None
    return {
        "split": split.name,
        "num_media": split.num_media,
        "num_captions": split.num_captions,
        to_text: recalls(judgement.media_ranks),
        to_media: recalls(judgement.text_ranks),
        "groups": by_group,
        "intervals": {
            to_text: _intervals(judgement.media_ranks, None),
            to_media: _intervals(judgement.text_ranks, split.owner),
        },
    }


def _intervals(query_ranks: Tensor, clusters: Tensor | None) -> dict[str, list[float]]:
    """Return 95 % bootstrap intervals in percent; the captions of one medium are drawn together."""
    return {
        f"R@{k}": [100 * bound for bound in bootstrap_interval((query_ranks <= k).double(), clusters=clusters)]
        for k in CUTOFFS
    }


def save_judgement(
    path: Path,
    judgement: Judgement,
    split: Split,
    root: Path,
    relevance: str,
    text_concepts: Tensor,
    text_groups: Tensor,
) -> None:
    """Keep the ranks behind the figures, so that runs can be compared query by query and results shown.

    text_concepts and text_groups (M,) are the concept (-1: unknown) and the group of every caption.
    """
    meta = {
        "split": split.name,
        "kind": split.media[0].kind,
        "relevance": relevance,
        "data": str(root),
        "media_ids": [medium.id for medium in split.media],
        "media_paths": [os.path.relpath(medium.path, root) for medium in split.media],
        "captions": list(split.captions),
    }
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            **{name: value.numpy() for name, value in vars(judgement).items()},
            text_concepts=text_concepts.numpy(),
            text_groups=text_groups.to(torch.int8).numpy(),
            media_groups=text_groups[split.first].to(torch.int8).numpy(),
            owner=split.owner.numpy(),
            meta=np.array(json.dumps(meta)),
        )


def load_judgement(path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read what `save_judgement` wrote: arrays by name, and the description."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return arrays, json.loads(str(arrays.pop("meta")))
    except FileNotFoundError:
        raise DataError(f"there is no {path}; `mmts evaluate` on the run writes it") from None
    except (ValueError, KeyError, OSError, EOFError, BadZipFile):
        raise DataError(f"{path} is damaged; `mmts evaluate` on the run writes it anew") from None


def save_embeddings(path: Path, media: Tensor, text: Tensor, owner: Tensor) -> None:
    """Write media (N, D), text (M, D) and owner (M,), rows in file order, as .npz."""
    with atomic_write(path) as file:
        np.savez(file, media=media.numpy(), text=text.numpy(), owner=owner.numpy())
