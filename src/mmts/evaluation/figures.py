"""From the ranks of queries to the figures in metrics.json: of all queries, by group, by label and over folds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES, ConceptDistribution
from mmts.data.records import Split
from mmts.evaluation.measures import CUTOFFS, GRADED, MEAN_RECALL, RECALLS
from mmts.evaluation.rank import Judgement, Relevance, judge
from mmts.metrics import bootstrap_interval
from mmts.metrics.ranks import hits, median

_FEWEST_QUERIES = 5  # for a label's value to be among the extremes
_EXTREMES = 5


def recalls(query_ranks: Tensor) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent, the median rank and the mean rank of ranks (Q,)."""
    figures = {f"R@{k}": 100 * hits(query_ranks, k).mean().item() for k in CUTOFFS}
    return {**figures, "median_rank": median(query_ranks).item(), "mean_rank": query_ranks.double().mean().item()}


@dataclass(frozen=True)
class Side:
    """The queries of one direction: their ranks (Q,), graded scores (Q, 3), and the medium of each (Q,).

    `clusters` is None if every query is a medium of its own.
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
            assert self.graded is not None  # see `measures`
            return self.graded[:, GRADED.index(measure)]
        cutoffs = CUTOFFS if measure == MEAN_RECALL else (int(measure.removeprefix("R@")),)
        return torch.stack([hits(self.ranks, k) for k in cutoffs]).mean(dim=0)

    def figures(self, rows: Tensor) -> dict[str, float] | None:
        """Return the figures of the queries in `rows` (Q,) bool, those of graded relevance first; None without any."""
        if not rows.any():
            return None
        graded = {name: 100 * self.scores(name)[rows].mean().item() for name in self.measures if name in GRADED}
        return graded | recalls(self.ranks[rows])

    def can_be_drawn(self, rows: Tensor) -> bool:
        """Whether the queries in `rows` belong to at least two media: a bootstrap of one medium says nothing."""
        clusters = rows.nonzero()[:, 0] if self.clusters is None else self.clusters[rows]
        return bool((clusters != clusters[:1]).any())

    def clusters_of(self, rows: Tensor) -> Tensor | None:
        """Return the media of the queries in `rows`; None if every query is a medium of its own."""
        return None if self.clusters is None else self.clusters[rows]

    def interval(self, scores: Tensor, rows: Tensor) -> list[float] | None:
        """Return the 95 % bootstrap interval, percent, of the mean of scores (Q,) over the queries in `rows`.

        All captions of a medium are drawn together. None if the queries cannot be drawn.
        """
        if not self.can_be_drawn(rows):
            return None
        return [100 * bound for bound in bootstrap_interval(scores[rows], clusters=self.clusters_of(rows))]


def sides_of(arrays: Mapping[str, Tensor | None], kind: str, owner: Tensor) -> tuple[Side, Side]:
    """Return both directions of a judgement's arrays, text to media first.

    kind: image or video; owner (N,): the medium of each caption.
    """

    def side(name: str, direction: str, clusters: Tensor | None) -> Side:
        ranks = arrays[f"{name}_ranks"]
        assert ranks is not None  # every judgement has them
        return Side(direction, ranks, arrays.get(f"{name}_graded"), clusters)

    return side("text", f"text_to_{kind}", owner), side("media", f"{kind}_to_text", None)


@dataclass(frozen=True)
class MediaLabel:
    """A label of judged media: the value of each (M,), None if it has none, and training samples by value."""

    values: Sequence[str | None]
    training: Mapping[str, int]

    def groups(self) -> Tensor:
        """Return (M,) int64: 0, 1, 2 = head, mid, tail by the training samples of the medium's value; -1 without one.

        A value that no training sample has is tail.

        >>> MediaLabel(["cup", "lamp", "vase", None], {"cup": 9, "lamp": 1}).groups()
        tensor([ 0,  2,  2, -1])
        """
        samples = [value for value, count in self.training.items() for _ in range(count)]
        distribution = ConceptDistribution.from_labels(samples)
        groups = distribution.groups_of(distribution.assign([str(value) for value in self.values]))
        return groups.masked_fill(torch.tensor([value is None for value in self.values]), -1)


def figures_by_group(sides: Sequence[Side], groups: Sequence[Tensor], with_intervals: bool = True) -> dict[str, Any]:
    """Return the figures of head, mid and tail, None if a part has no query.

    groups: one (Q,) per side, 0, 1, 2 = head, mid, tail of each query; a query with another number is in none.
    """
    return {
        name: _part_figures(sides, [group == number for group in groups], with_intervals)
        for number, name in enumerate(GROUP_NAMES)
    }


def figures_by_label(sides: Sequence[Side], owner: Tensor, label: MediaLabel) -> dict[str, Any]:
    """Return what metrics.json holds of a label: head, mid and tail, and every value that the judged media have."""
    groups = label.groups()
    classes = {}
    for value in sorted({value for value in label.values if value is not None}):
        member = torch.tensor([other == value for other in label.values])
        figures = _part_figures(sides, (member[owner], member), with_intervals=False)
        classes[value] = {"num_training": label.training.get(value, 0), **(figures or {})}
    return {
        "num_classes": len(label.training),
        "num_unlabeled": sum(value is None for value in label.values),
        "groups": figures_by_group(sides, (groups[owner], groups)),
        "classes": classes,
    }


def extreme_classes(label: Mapping[str, Any], figure: Callable[[str], float | None]) -> tuple[list[str], list[str]]:
    """Return the values of a label with the lowest figures, the lowest first, and with the highest, the highest first.

    label: what `figures_by_label` gave; figure: gives a value's figure, or None. Values with fewer than five text
    queries are left out.

    >>> label = {"classes": {"a": {"num_queries": 9}, "b": {"num_queries": 9}}}
    >>> extreme_classes(label, {"a": 40.0, "b": 90.0}.get)
    (['a'], ['b'])
    """
    enough = (value for value, figures in label["classes"].items() if figures.get("num_queries", 0) >= _FEWEST_QUERIES)
    known = {value: result for value in enough if (result := figure(value)) is not None}
    order = sorted(known, key=lambda value: known[value])
    number = min(_EXTREMES, len(order) // 2)
    return order[:number], order[::-1][:number]


def _part_figures(sides: Sequence[Side], rows: Sequence[Tensor], with_intervals: bool) -> dict[str, Any] | None:
    """Return how many queries a part has, and their figures; None if it is empty."""
    if not any(chosen.any() for chosen in rows):
        return None
    counts = {"num_queries": int(rows[0].sum()), "num_media": int(rows[1].sum())}
    return counts | _figures(sides, rows, with_intervals)


def _figures(sides: Sequence[Side], rows: Sequence[Tensor], with_intervals: bool) -> dict[str, Any]:
    pairs = list(zip(sides, rows, strict=True))
    figures: dict[str, Any] = {side.direction: side.figures(chosen) for side, chosen in pairs}
    if with_intervals:
        figures["intervals"] = {side.direction: _intervals(side, chosen) for side, chosen in pairs if chosen.any()}
    return figures


def _intervals(side: Side, rows: Tensor) -> dict[str, list[float]]:
    intervals = {name: side.interval(side.scores(name), rows) for name in side.measures}
    return {name: interval for name, interval in intervals.items() if interval is not None}


def figures_of(
    judgement: Judgement, split: Split, text_groups: Tensor, media_groups: Tensor, with_intervals: bool = False
) -> dict[str, Any]:
    """Return the figures of both directions, and by group.

    text_groups (N,), media_groups (M,): 0, 1, 2 = head, mid, tail of each query's concept.
    """
    sides = sides_of(vars(judgement), split.media[0].kind, split.owner)
    every = [torch.ones(len(side.ranks), dtype=torch.bool) for side in sides]
    groups = figures_by_group(sides, (text_groups, media_groups), with_intervals)
    return _figures(sides, every, with_intervals) | {"groups": groups}


def summarize(
    judgement: Judgement,
    split: Split,
    text_groups: Tensor,
    media_groups: Tensor,
    labels: Mapping[str, MediaLabel] | None = None,
) -> dict[str, Any]:
    """Return what metrics.json holds: the figures of all queries, by group and by label, with their intervals."""
    sides = sides_of(vars(judgement), split.media[0].kind, split.owner)
    metrics = {"split": split.name, "num_media": split.num_media, "num_captions": split.num_captions}
    metrics |= figures_of(judgement, split, text_groups, media_groups, with_intervals=True)
    if labels:
        metrics["labels"] = {name: figures_by_label(sides, split.owner, label) for name, label in labels.items()}
    return metrics


def judge_folds(media: Tensor, text: Tensor, split: Split, relevance: Relevance, folds: int) -> dict[str, Any]:
    """Judge `folds` equal parts of the media, each with its own captions, and return the mean figures.

    MSCOCO's "1K" figures: five times 1,000 images, in file order.
    """
    figures: dict[str, list[dict[str, float]]] = {}
    for part in torch.arange(split.num_media).tensor_split(folds):
        fold = Split(split.name, [split.media[at] for at in part.tolist()])
        judgement = judge(media[part], text[torch.isin(split.owner, part)], fold, relevance)
        for side in sides_of(vars(judgement), fold.media[0].kind, fold.owner):
            figures.setdefault(side.direction, []).append(recalls(side.ranks))
    means = {
        direction: {name: float(np.mean([fold[name] for fold in of_folds])) for name in of_folds[0]}
        for direction, of_folds in figures.items()
    }
    return {"num": folds, **means}
