"""Judging a model on a split: both directions, head, mid and tail, and intervals."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES, ConceptDistribution
from mmts.data.records import Split
from mmts.errors import DataError, InputError
from mmts.evaluation.measures import CUTOFFS, GRADED, MEAN_RECALL, RECALLS
from mmts.files import atomic_write
from mmts.metrics import bootstrap_interval, graded_scores, ranks

_TOP = 10
_FEWEST_QUERIES = 5  # of a label's value that is listed
_EXTREMES = 5
_CHUNK_ELEMENTS = 2**23  # of the similarity matrix at a time: 32 MB in float32

Relevance = Literal["text", "own", "graded"]


@dataclass(frozen=True)
class Judgement:
    """The rank of every query of a split (1 is best), and what stood first.

    text_ranks (M,), media_ranks (N,) int64; text_top (M, <= 10) media, media_top (N, <= 10) captions, best first;
    *_relevant the same shapes, bool; text_graded (M, 3), media_graded (N, 3) float64, in [0, 1]: average precision,
    nDCG and binary average precision of every query, where relevance is graded.
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

    Ties count against the model (docs/method.md, ranks). Raises InputError where the rows do not fit the split,
    or are not numbers, naming the medium.
    """
    if len(media) != split.num_media or len(text) != split.num_captions:
        raise InputError(
            f"{len(media)} media and {len(text)} caption embeddings for a split of "
            f"{split.num_media} media and {split.num_captions} captions"
        )
    for rows, owners in ((media, range(len(media))), (text, split.owner.tolist())):
        broken = (~rows.isfinite().all(dim=1)).nonzero()
        if len(broken):
            medium = split.media[owners[int(broken[0])]]
            raise InputError(f"the embedding of medium {medium.id!r} or of its caption is NaN or infinite")
    grades = None  # (N, M)
    if relevance == "graded":
        assert split.graded is not None  # `Split.judged` saw to it
        grades = split.graded.relevance()
    right = relevance_matrix(split, relevance) if grades is None else csr_matrix((grades == 1).T.numpy())
    of_text = _rank_all(text, media, right, None if grades is None else grades.T)
    of_media = _rank_all(media, text, csr_matrix(right.T), grades)
    sides = {"text": of_text, "media": of_media}
    return Judgement(**{f"{side}_{name}": of for side in sides for name, of in sides[side]._asdict().items()})


class _Ranked(NamedTuple):
    """Queries judged: ranks (Q,), first candidates (Q, T), which of them are right (Q, T), graded scores (Q, 3)."""

    ranks: Tensor
    top: Tensor
    top_relevant: Tensor
    graded: Tensor | None = None


def _rank_all(queries: Tensor, candidates: Tensor, right: csr_matrix, grades: Tensor | None) -> _Ranked:
    rows = max(1, _CHUNK_ELEMENTS // max(1, len(candidates)))
    # A product in float32 may differ in its last bit between equal candidates, and a tie would not be one.
    queries, candidates = queries.double(), candidates.double()
    parts = []
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        similarity = (queries[chunk] @ candidates.T).float()
        relevant = torch.from_numpy(right[chunk].toarray()).to(similarity.device)
        parts.append(_rank(similarity, relevant, None if grades is None else grades[chunk].to(similarity.device)))
    columns = zip(*parts, strict=True)
    return _Ranked(*(torch.cat(column) for column in columns if column[0] is not None))


def _rank(similarity: Tensor, relevant: Tensor, grades: Tensor | None) -> _Ranked:
    top = similarity.topk(min(_TOP, similarity.shape[1]), dim=1).indices
    graded = None
    if grades is not None:
        scores = graded_scores(similarity, grades)
        columns = [scores.average_precision, scores.ndcg, scores.binary_average_precision]  # in the order of GRADED
        graded = torch.stack(columns, dim=1).cpu()
    return _Ranked(ranks(similarity, relevant).cpu(), top.cpu(), relevant.gather(1, top).cpu(), graded)


def recalls(query_ranks: Tensor) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent, the median rank and the mean rank."""
    figures = {f"R@{k}": 100 * (query_ranks <= k).double().mean().item() for k in CUTOFFS}
    median, mean = float(np.median(query_ranks.numpy())), query_ranks.double().mean().item()
    return {**figures, "median_rank": median, "mean_rank": mean}


def directions_of(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return (text_to_image, image_to_text), or the same of video."""
    kind = "video" if "text_to_video" in metrics else "image"
    return f"text_to_{kind}", f"{kind}_to_text"


def shown_measures(metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the three measures, in percent, that tables show of a judgement."""
    return ("mAP", "nDCG", "R@1") if "mAP" in metrics[directions_of(metrics)[0]] else ("R@1", "R@5", "R@10")


def in_tenths(value: float) -> str:
    """Write a figure in percent for a table.

    >>> in_tenths(51.46), in_tenths(100.0)
    ('51.5', '100')
    """
    return "100" if value == 100 else f"{value:.1f}"


def interval_in_words(interval: Sequence[float]) -> str:
    """Write an interval in percent for a table.

    >>> interval_in_words([51.46, 100.0])
    '(51.5, 100)'
    """
    return f"({', '.join(map(in_tenths, interval))})"


def coverage_in_words(metrics: Mapping[str, Any]) -> str:
    """Say how much of a published split was judged; empty where nothing is known of that.

    >>> coverage_in_words({"coverage": {"judged": 8, "annotated": 12, "published": 3350}})
    'covers 8 of the 12 clips annotated; papers judge on 3,350'
    """
    coverage = metrics.get("coverage")
    if coverage is None:
        return ""
    published = f"; papers judge on {coverage['published']:,}" if coverage.get("published") else ""
    return f"covers {coverage['judged']:,} of the {coverage['annotated']:,} clips annotated{published}"


@dataclass(frozen=True)
class Side:
    """The queries of one direction: their ranks (Q,), graded scores (Q, 3), and which media they belong to (Q,).

    `clusters` is None where every query is a medium of its own.
    """

    direction: str
    ranks: Tensor
    graded: Tensor | None
    clusters: Tensor | None

    @property
    def measures(self) -> tuple[str, ...]:
        """The measures that queries have, those of graded relevance first."""
        return (*(() if self.graded is None else GRADED), *RECALLS)

    def scores(self, measure: str) -> Tensor:
        """Return a measure of every query, (Q,) float64 in [0, 1]: a hit for R@k; "mean recall" averages the three."""
        if measure in GRADED:
            assert self.graded is not None  # `measures` tells
            return self.graded[:, GRADED.index(measure)]
        cutoffs = CUTOFFS if measure == MEAN_RECALL else (int(measure.removeprefix("R@")),)
        return torch.stack([(self.ranks <= k).double() for k in cutoffs]).mean(dim=0)

    def figures(self, rows: Tensor) -> dict[str, float] | None:
        """Return the figures of the queries in `rows` (Q,) bool, those of graded relevance first; None without any."""
        if not rows.any():
            return None
        graded = [name for name in self.measures if name in GRADED]
        return {name: 100 * self.scores(name)[rows].mean().item() for name in graded} | recalls(self.ranks[rows])

    def can_be_drawn(self, rows: Tensor) -> bool:
        """Whether the queries in `rows` belong to at least two media: a bootstrap of one medium says nothing."""
        clusters = rows.nonzero()[:, 0] if self.clusters is None else self.clusters[rows]
        return bool((clusters != clusters[:1]).any())

    def clusters_of(self, rows: Tensor) -> Tensor | None:
        """Return the media of the queries in `rows`; None where every query is a medium of its own."""
        return None if self.clusters is None else self.clusters[rows]

    def interval(self, scores: Tensor, rows: Tensor) -> list[float] | None:
        """Return the 95 % bootstrap interval, percent, of the mean of scores (Q,) over the queries in `rows`.

        All captions of a medium are drawn together. None where the queries cannot be drawn.
        """
        if not self.can_be_drawn(rows):
            return None
        return [100 * bound for bound in bootstrap_interval(scores[rows], clusters=self.clusters_of(rows))]

    def intervals(self, rows: Tensor) -> dict[str, list[float]]:
        """Return the interval of every measure over the queries in `rows`; empty where they cannot be drawn."""
        found = {name: self.interval(self.scores(name), rows) for name in self.measures}
        return {name: interval for name, interval in found.items() if interval is not None}


def sides_of(arrays: Mapping[str, Tensor | None], kind: str, owner: Tensor) -> tuple[Side, Side]:
    """Return both directions of a judgement's arrays, text to media first.

    kind: image or video; owner (M,): the medium of each caption.
    """

    def side(name: str, direction: str, clusters: Tensor | None) -> Side:
        ranks = arrays[f"{name}_ranks"]
        assert ranks is not None  # every judgement has them
        return Side(direction, ranks, arrays.get(f"{name}_graded"), clusters)

    return side("text", f"text_to_{kind}", owner), side("media", f"{kind}_to_text", None)


@dataclass(frozen=True)
class MediaLabel:
    """A label of judged media: each one's value (N,), None where it has none, and training samples by value."""

    values: Sequence[str | None]
    training: Mapping[str, int]

    def groups(self) -> Tensor:
        """Return (N,) int64: 0, 1, 2 = head, mid, tail by the training samples of the medium's value; -1 without one.

        A value that no training sample has is tail.

        >>> MediaLabel(["cup", "lamp", "vase", None], {"cup": 9, "lamp": 1}).groups()
        tensor([ 0,  2,  2, -1])
        """
        samples = [value for value, count in self.training.items() for _ in range(count)]
        distribution = ConceptDistribution.from_labels(samples)
        groups = distribution.groups_of(distribution.assign([str(value) for value in self.values]))
        return groups.masked_fill(torch.tensor([value is None for value in self.values]), -1)


def figures_by_group(sides: Sequence[Side], groups: Sequence[Tensor], with_intervals: bool = True) -> dict[str, Any]:
    """Return the figures of head, mid and tail, None where a part has no query.

    groups: one (Q,) per side, 0, 1, 2 = head, mid, tail of each query; a query with another number is in none.
    """
    return {
        name: _figures_of_part(sides, [each == number for each in groups], with_intervals)
        for number, name in enumerate(GROUP_NAMES)
    }


def figures_by_label(sides: Sequence[Side], owner: Tensor, label: MediaLabel) -> dict[str, Any]:
    """Return what metrics.json holds of a label: head, mid and tail, and every value that the judged media have."""
    groups = label.groups()
    classes = {}
    for value in sorted({each for each in label.values if each is not None}):
        member = torch.tensor([each == value for each in label.values])
        figures = _figures_of_part(sides, (member[owner], member), with_intervals=False)
        classes[value] = {"num_training": label.training.get(value, 0), **(figures or {})}
    return {
        "num_classes": len(label.training),
        "num_unlabeled": sum(value is None for value in label.values),
        "groups": figures_by_group(sides, (groups[owner], groups)),
        "classes": classes,
    }


def extreme_classes(label: Mapping[str, Any], figure: Callable[[str], float | None]) -> tuple[list[str], list[str]]:
    """Return the values of a label with the lowest figures, the lowest first, and with the highest, the highest first.

    label: what `figures_by_label` gave; figure: of a value, None without one. Values with fewer than five text queries
    tell little and are left out.

    >>> label = {"classes": {"a": {"num_queries": 9}, "b": {"num_queries": 9}}}
    >>> extreme_classes(label, {"a": 40.0, "b": 90.0}.get)
    (['a'], ['b'])
    """
    enough = (value for value, figures in label["classes"].items() if figures.get("num_queries", 0) >= _FEWEST_QUERIES)
    known = {value: found for value in enough if (found := figure(value)) is not None}
    order = sorted(known, key=lambda value: known[value])
    listed = min(_EXTREMES, len(order) // 2)
    return order[:listed], order[::-1][:listed]


def _figures_of_part(sides: Sequence[Side], rows: Sequence[Tensor], with_intervals: bool) -> dict[str, Any] | None:
    """Return how many queries a part holds, and their figures; None if it is empty."""
    if not any(each.any() for each in rows):
        return None
    counts = {"num_queries": int(rows[0].sum()), "num_media": int(rows[1].sum())}
    return counts | _figures_of_rows(sides, rows, with_intervals)


def _figures_of_rows(sides: Sequence[Side], rows: Sequence[Tensor], with_intervals: bool) -> dict[str, Any]:
    inside = list(zip(sides, rows, strict=True))
    found: dict[str, Any] = {side.direction: side.figures(own) for side, own in inside}
    if with_intervals:
        found["intervals"] = {side.direction: side.intervals(own) for side, own in inside if own.any()}
    return found


def figures_of(
    judgement: Judgement, split: Split, text_groups: Tensor, media_groups: Tensor, with_intervals: bool = False
) -> dict[str, Any]:
    """Return the figures of both directions, and by group.

    text_groups (M,), media_groups (N,): 0, 1, 2 = head, mid, tail of each query's concept.
    """
    sides = sides_of(vars(judgement), split.media[0].kind, split.owner)
    every = [torch.ones(len(side.ranks), dtype=torch.bool) for side in sides]
    groups = figures_by_group(sides, (text_groups, media_groups), with_intervals)
    return _figures_of_rows(sides, every, with_intervals) | {"groups": groups}


def summarize(
    judgement: Judgement,
    split: Split,
    text_groups: Tensor,
    media_groups: Tensor,
    labels: Mapping[str, MediaLabel] | None = None,
) -> dict[str, Any]:
    """Return what metrics.json holds: the figures of all queries, by group and by label, with their intervals."""
    sides = sides_of(vars(judgement), split.media[0].kind, split.owner)
    counts = {"split": split.name, "num_media": split.num_media, "num_captions": split.num_captions}
    metrics = counts | figures_of(judgement, split, text_groups, media_groups, with_intervals=True)
    if labels:
        metrics["labels"] = {name: figures_by_label(sides, split.owner, label) for name, label in labels.items()}
    return metrics


def judge_folds(media: Tensor, text: Tensor, split: Split, relevance: Relevance, folds: int) -> dict[str, Any]:
    """Judge `folds` equal parts of the media, each with its own captions, and return the mean figures.

    MSCOCO's "1K" figures: five times 1,000 images, in file order.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for part in torch.arange(split.num_media).tensor_split(folds):
        own = Split(split.name, [split.media[at] for at in part.tolist()])
        judgement = judge(media[part], text[torch.isin(split.owner, part)], own, relevance)
        for side in sides_of(vars(judgement), own.media[0].kind, own.owner):
            found.setdefault(side.direction, []).append(recalls(side.ranks))
    means = {
        direction: {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
        for direction, figures in found.items()
    }
    return {"num": folds, **means}


def save_judgement(
    path: Path,
    judgement: Judgement,
    split: Split,
    root: Path,
    relevance: str,
    text_concepts: Tensor,
    text_groups: Tensor,
    media_groups: Tensor,
    labels: Mapping[str, MediaLabel] | None = None,
) -> None:
    """Keep the ranks behind the figures, so that runs can be compared query by query and results shown.

    text_concepts and text_groups (M,) are the concept (-1: unknown) and the group of every caption, media_groups (N,)
    that of every medium. The description says where each medium lies: a path; in tar files offset and length; of a
    clip start and end in seconds, first and last frame; and the labels that the run was judged by.
    """
    meta: dict[str, Any] = {
        "split": split.name,
        "kind": split.media[0].kind,
        "relevance": relevance,
        "data": str(root),
        "media_ids": [medium.id for medium in split.media],
        "media_paths": [os.path.relpath(medium.path, root) for medium in split.media],
        "captions": list(split.captions),
    }
    members = [medium.member for medium in split.media]
    if any(members):
        meta["media_members"] = members
    segments = [(medium.start, medium.end, *(medium.frames or (None, None))) for medium in split.media]
    if any(part is not None for segment in segments for part in segment):
        meta["media_segments"] = segments
    if labels:
        meta["labels"] = {name: {"values": label.values, "training": label.training} for name, label in labels.items()}
    with atomic_write(path) as file:
        np.savez_compressed(
            file,
            **{name: value.numpy() for name, value in vars(judgement).items() if value is not None},
            text_concepts=text_concepts.numpy(),
            text_groups=text_groups.to(torch.int8).numpy(),
            media_groups=media_groups.to(torch.int8).numpy(),
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
        raise DataError(f"{path} is damaged; `mmts evaluate` on the run rewrites it") from None


def save_embeddings(path: Path, media: Tensor, text: Tensor, split: Split, about: Mapping[str, str]) -> None:
    """Write media (N, D) and text (M, D), rows in file order, with ids and captions, as .npz without pickles.

    Also owner (M,), media_id (N,), caption (M,) and text_id (M,), which is ID#K for caption K (from 0) of a medium; the
    split's name and every entry of `about` are strings.
    """
    ids = np.array([medium.id for medium in split.media])
    owner = split.owner.numpy()
    number = np.arange(len(owner)) - split.first.numpy()[owner]
    arrays: dict[str, Any] = {
        "media": media.numpy(),
        "text": text.numpy(),
        "owner": owner,
        "media_id": ids,
        "text_id": np.array([f"{ids[at]}#{k}" for at, k in zip(owner, number, strict=True)]),
        "caption": np.array(split.captions),
        "split": np.array(split.name),
        **{name: np.array(value) for name, value in about.items()},
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)
