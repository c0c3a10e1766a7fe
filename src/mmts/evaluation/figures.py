"""From the ranks of queries to the figures in metrics.json: of all queries, by group, by label and over folds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES
from mmts.concepts.members import size_groups
from mmts.data.records import Label, Split, values_of
from mmts.distributed.processes import shared
from mmts.evaluation.measures import CUTOFFS, GRADED
from mmts.evaluation.rank import Relevance, Side, judge
from mmts.metrics.ranks import hits

_FEWEST_QUERIES = 5  # of a label's value among the extremes
_EXTREMES = 5


def recalls(query_ranks: Tensor) -> dict[str, float]:
    """Return R@1, R@5, R@10 in percent, the median rank and the mean rank of ranks (Q,)."""
    figures = {f"R@{k}": 100 * hits(query_ranks, k).mean().item() for k in CUTOFFS}
    every = query_ranks.double()
    return {**figures, "median_rank": every.quantile(0.5).item(), "mean_rank": every.mean().item()}


@dataclass(frozen=True)
class MediaLabel:
    """A label of judged media: the value or values of each (M,), None if it has none, and training samples by value.

    rarest: training samples by the rarest of their values; None if each has one value.
    """

    values: Sequence[Label | None]
    training: Mapping[str, int]
    rarest: Mapping[str, int] | None = None

    @classmethod
    def of_media(cls, values: Sequence[Label | None], training: Sequence[Label | None]) -> "MediaLabel":
        """Return a label of judged media (M,), given that of the training samples (N,).

        >>> MediaLabel.of_media(["dog"], [["cup", "dog"], ["cup"], ["cup"]]).rarest
        {'cup': 2, 'dog': 1}
        """
        each = [known for label in training if (known := values_of(label))]
        counts = dict(Counter(value for known in each for value in known).most_common())
        if all(len(known) == 1 for known in each):
            return cls(values, counts)
        rarest = Counter(min(known, key=lambda value: counts[value]) for known in each)
        return cls(values, counts, dict(rarest.most_common()))

    def groups(self) -> Tensor:
        """Return (M,) int64: 0, 1, 2 = head, mid, tail by the training samples of the medium's value; -1 without one.

        Of several values the rarest counts. A value that no training sample has is tail.

        >>> MediaLabel(["cup", ["cup", "lamp"], "vase", None], {"cup": 9, "lamp": 1}).groups()
        tensor([ 0,  2,  2, -1])
        """
        deciding = self.training if self.rarest is None else self.rarest
        of_samples = [self.training[value] for value, count in deciding.items() for _ in range(count)]
        sizes = [min((self.training.get(value, 0) for value in values_of(label)), default=-1) for label in self.values]
        own = torch.tensor(sizes)
        return size_groups(own, torch.tensor(of_samples)).masked_fill(own < 0, -1)


def figures_by_group(sides: Sequence[Side], groups: Sequence[Tensor], with_intervals: bool = True) -> dict[str, Any]:
    """Return the figures of head, mid and tail (None if empty) by `groups`, (Q,) per side: 0, 1, 2, or another."""
    return {
        name: _part_figures(sides, [group == number for group in groups], with_intervals)
        for number, name in enumerate(GROUP_NAMES)
    }


def figures_by_label(sides: Sequence[Side], owner: Tensor, label: MediaLabel) -> dict[str, Any]:
    """Return what metrics.json holds of a label: head, mid and tail, and every value that the judged media have."""
    groups = label.groups()
    classes = {}
    values = [values_of(own) for own in label.values]
    for value in sorted({value for own in values for value in own}):
        member = torch.tensor([value in own for own in values])
        figures = _part_figures(sides, (member[owner], member), with_intervals=False)
        classes[value] = {"num_training": label.training.get(value, 0), **(figures or {})}
    return {
        "num_classes": len(label.training),
        "num_unlabeled": values.count([]),
        "groups": figures_by_group(sides, (groups[owner], groups)),
        "classes": classes,
    }


def extremes(figures: Mapping[str, float], num_queries: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Return the values of a label with the lowest figures, the lowest first, and with the highest, the highest first.

    Values with fewer than five queries are left out.
    """
    enough = (value for value in figures if num_queries[value] >= _FEWEST_QUERIES)
    order = sorted(enough, key=lambda value: figures[value])
    number = min(_EXTREMES, len(order) // 2)
    return order[:number], order[::-1][:number]


def _part_figures(sides: Sequence[Side], rows: Sequence[Tensor], with_intervals: bool) -> dict[str, Any] | None:
    """Return how many queries a part has, and their figures; None if it is empty."""
    if not any(chosen.any() for chosen in rows):
        return None
    counts = {"num_queries": int(rows[0].sum()), "num_media": int(rows[1].sum())}
    return counts | _figures(sides, rows, with_intervals)


def _figures(sides: Sequence[Side], rows: Sequence[Tensor], with_intervals: bool) -> dict[str, Any]:
    """Return the figures of the queries in `rows`, (Q,) bool per side; None for a side that has none there."""
    figures: dict[str, Any] = dict.fromkeys(side.direction for side in sides)
    intervals: dict[str, Any] = {}
    wanted: list[tuple[Side, Tensor, str]] = []  # intervals, which processes share
    for side, chosen in zip(sides, rows, strict=True):
        if chosen.any():
            # numpy's sum, unlike torch's, does not depend on the number of threads.
            graded = {name: side.scores(name)[chosen].numpy() for name in side.measures if name in GRADED}
            means = {name: 100 * float(values.mean()) for name, values in graded.items()}
            figures[side.direction], intervals[side.direction] = means | recalls(side.ranks[chosen]), {}
            wanted += [(side, chosen, name) for name in side.measures]
    if not with_intervals:
        return figures
    ends = shared(wanted, lambda own: [side.interval(side.scores(name), chosen) for side, chosen, name in own])
    for (side, _, name), pair in zip(wanted, ends, strict=True):
        if pair is not None:
            intervals[side.direction][name] = [*pair]
    return figures | {"intervals": intervals}


def figures_of(
    sides: Sequence[Side], groups: Sequence[Tensor] | None = None, with_intervals: bool = False
) -> dict[str, Any]:
    """Return the figures of both directions, and by group if there are any; arguments as in `figures_by_group`."""
    every = [torch.ones(len(side.ranks), dtype=torch.bool) for side in sides]
    figures = _figures(sides, every, with_intervals)
    return figures if groups is None else figures | {"groups": figures_by_group(sides, groups, with_intervals)}


def summarize(
    sides: Sequence[Side], split: Split, groups: Sequence[Tensor], labels: Mapping[str, MediaLabel] = {}
) -> dict[str, Any]:
    """Return what metrics.json holds: the figures of all queries, by group and by label, with their intervals."""
    metrics = {"split": split.name, "num_media": split.num_media, "num_captions": split.num_captions}
    metrics |= figures_of(sides, groups, with_intervals=True)
    if labels:
        metrics["labels"] = {name: figures_by_label(sides, split.owner, label) for name, label in labels.items()}
    return metrics


def judge_folds(media: Tensor, text: Tensor, split: Split, relevance: Relevance, folds: int) -> dict[str, Any]:
    """Return the mean figures over equal parts of the media with their captions: MSCOCO's five times 1,000 images."""
    figures: dict[str, list[dict[str, float]]] = {}
    for part in torch.arange(split.num_media).tensor_split(folds):
        fold = Split(split.name, [split.media[at] for at in part.tolist()])
        for side in judge(media[part], text[torch.isin(split.owner, part)], fold, relevance):
            figures.setdefault(side.direction, []).append(recalls(side.ranks))
    means = {
        direction: {name: float(np.mean([fold[name] for fold in of_folds])) for name in of_folds[0]}
        for direction, of_folds in figures.items()
    }
    return {"num": folds, **means}
