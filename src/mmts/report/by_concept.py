"""Recall by the size of a query's concept, and the concepts whose queries one rule answers better than the first."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmts.errors import counted
from mmts.evaluation.compare import Gap
from mmts.evaluation.results import SIDES, query_scores
from mmts.metrics import bootstrap_interval, seeded_bootstrap_interval
from mmts.report.charts import Line
from mmts.report.contents import Contents
from mmts.report.wording import clean

_BINS = 6
_LEAST_IN_BIN = 30
_LEAST_QUERIES = (10, 5)  # of a concept that is compared; 5 where hardly any has 10
_FEW = 6
_LISTED = 6
_DEALS = 500
_SEEDS_TO_DEAL = 3  # of each rule: with fewer there are hardly any other ways to deal them


@dataclass(frozen=True)
class Queries:
    """The queries of one direction whose concept is known, as the first run groups them.

    concepts, sizes, clusters (Q,): the concept, how many training samples it has, and the medium that a query belongs
    to; scores: (S, Q) per rule, its leading measure in [0, 1], one row per seed. num_unknown: queries left out.
    """

    concepts: Tensor
    sizes: Tensor
    clusters: Tensor
    scores: tuple[Tensor, ...]
    num_unknown: int


@dataclass(frozen=True)
class ConceptChange:
    """How a rule answers the queries of one concept, beside the first rule; percent and points."""

    name: str
    size: int
    group: int
    num_queries: int
    first: float
    own: float
    gap: Gap


@dataclass(frozen=True)
class Changes:
    """A rule's change against the first in every concept with enough queries, the largest gain first.

    least: how many queries are enough. by_chance: the largest gain of any of them, in points, that would still be found
    in the median if the rules were equal, and `are_dealt` whether that knows of the spread over seeds.
    """

    number: int
    least: int
    are_dealt: bool
    concepts: tuple[ConceptChange, ...]
    by_chance: float

    @property
    def gained(self) -> tuple[ConceptChange, ...]:
        """The concepts that gained most, the most first."""
        return tuple(each for each in self.concepts[:_LISTED] if each.gap.mean > 0)

    @property
    def lost(self) -> tuple[ConceptChange, ...]:
        """The concepts that lost most, the most first."""
        return tuple(each for each in self.concepts[::-1][:_LISTED] if each.gap.mean < 0)


def find_queries(contents: Contents, side: str) -> Queries | str:
    """Return the "text" or "media" queries of all runs, or why there are none; a medium's concept is that of its first
    caption."""
    paired, distribution = contents.results.paired, contents.distributions[0]
    first = paired[0][0]
    if not all(run.has(contents.measure.name) for runs in paired for run in runs):
        return f"some runs were judged without {contents.measure.name}"
    if distribution is None or "text_concepts" not in first.arrays:
        return "the first run does not say to which concepts its queries belong"
    concepts = first.concepts[SIDES.index(side)]
    if concepts is None:
        return f"with graded relevance the captions are not the {contents.kind}s' own"
    owner = first.owner if side == "text" else torch.arange(len(concepts))
    if int(concepts.max()) >= distribution.num_concepts:
        return "the first run's concepts.npz is not the one it was judged with"
    known = concepts >= 0
    if not known.any():
        return "no query belongs to a concept of the training data"
    scores = tuple(query_scores(runs, side, contents.measure.name)[:, known] for runs in paired)
    concepts = concepts[known]
    return Queries(concepts, distribution.sizes[concepts], owner[known], scores, int((~known).sum()))


def size_bins(sizes: Tensor) -> list[Tensor]:
    """Cut queries by the sizes (Q,) of their concepts into at most six bins of about as many; return each one's rows.

    One size stays in one bin, and none has fewer than 30 queries.

    >>> [len(rows) for rows in size_bins(torch.tensor([1] * 40 + [2] * 10 + [3] * 25))]
    [40, 35]
    """
    least = max(_LEAST_IN_BIN, len(sizes) // _BINS)
    bins: list[Tensor] = []
    rows = torch.zeros(0, dtype=torch.int64)
    for size in sorted(set(sizes.tolist())):
        rows = torch.cat([rows, (sizes == size).nonzero()[:, 0]])
        if len(rows) >= least:
            bins.append(rows)
            rows = rows[:0]
    if len(rows) >= _LEAST_IN_BIN or not bins:
        return [*bins, rows]
    return [*bins[:-1], torch.cat([bins[-1], rows])]


def lines_by_size(contents: Contents, queries: Queries) -> tuple[list[Line], list[str]]:
    """Return a line per rule, in percent with its 95 % interval over queries, and each point's bin in words."""
    bins = size_bins(queries.sizes)
    at = [float(queries.sizes[rows].double().log().mean().exp()) for rows in bins]
    lines = []
    for number, scores in enumerate(each.mean(dim=0) for each in queries.scores):
        bands = [bootstrap_interval(scores[rows], clusters=queries.clusters[rows]) for rows in bins]
        lines.append(
            Line(
                contents.names[number],
                number,
                at,
                [100 * float(scores[rows].mean()) for rows in bins],
                [100 * low for low, _ in bands],
                [100 * high for _, high in bands],
            )
        )
    return lines, [_bin_in_words(queries.sizes[rows]) for rows in bins]


def find_changes(contents: Contents, queries: Queries, number: int) -> Changes:
    """Compare a rule with the first, concept by concept, where there are enough queries."""
    distribution = contents.distributions[0]
    assert distribution is not None  # `find_queries` saw to it
    groups = distribution.concept_groups()
    counts = torch.bincount(queries.concepts, minlength=distribution.num_concepts)
    least = next((least for least in _LEAST_QUERIES if (counts >= least).sum() >= _FEW), _LEAST_QUERIES[-1])
    shown = (counts >= least).nonzero()[:, 0].tolist()
    first, own = queries.scores[0], queries.scores[number]
    found = []
    for concept in shown:
        rows = queries.concepts == concept
        low, high = seeded_bootstrap_interval(first[:, rows], own[:, rows], clusters=queries.clusters[rows])
        means = 100 * float(first[:, rows].mean()), 100 * float(own[:, rows].mean())
        found.append(
            ConceptChange(
                clean(distribution.names[concept], 60),
                int(distribution.sizes[concept]),
                int(groups[concept]),
                int(counts[concept]),
                *means,
                Gap(means[1] - means[0], 100 * low, 100 * high),
            )
        )
    found.sort(key=lambda change: -change.gap.mean)
    rows = torch.isin(queries.concepts, torch.tensor(shown, dtype=queries.concepts.dtype))
    chance = 0.0
    if shown:
        chance = largest_by_chance(first[:, rows], own[:, rows], queries.concepts[rows], queries.clusters[rows])
    return Changes(number, least, are_dealt(first, own), tuple(found), 100 * chance)


def are_dealt(first: Tensor, own: Tensor) -> bool:
    """Whether two rules' scores (S, Q) have seeds enough for their runs to be dealt anew."""
    return min(len(first), len(own)) >= _SEEDS_TO_DEAL


def largest_by_chance(first: Tensor, own: Tensor, concepts: Tensor, clusters: Tensor) -> float:
    """Return the largest mean gain of any concept that chance alone gives, in the median (docs/method.md, 7.5).

    first (S, Q), own (T, Q): scores of two rules, one row per seed; concepts (Q,), clusters (Q,). If the rules are
    equal, any run could have been of either. So they are dealt to the two at random, 500 times, and the largest gain
    is kept. Where one has fewer than three runs it is dealt for each cluster apart which score is whose; that knows
    nothing of what seeds do to all queries of a concept together.
    Source: Nichols and Holmes, Nonparametric permutation tests for functional neuroimaging, 2002 (the maximum as the
    statistic).

    >>> largest_by_chance(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0, 0, 1, 1]), torch.arange(4))
    0.0
    """
    _, concept = np.unique(concepts.numpy(), return_inverse=True)
    member = torch.nn.functional.one_hot(torch.from_numpy(concept)).double()
    average = member / member.sum(dim=0)  # (Q, K): scores to the means of concepts
    generator = torch.Generator().manual_seed(0)
    if are_dealt(first, own):
        means = torch.cat([first, own]) @ average  # (S + T, K)
        orders = [torch.randperm(len(means), generator=generator) for _ in range(_DEALS)]
        gains = torch.stack(
            [means[order[len(first) :]].mean(0) - means[order[: len(first)]].mean(0) for order in orders]
        )
    else:
        ids, cluster = np.unique(clusters.numpy(), return_inverse=True)
        signs = 2.0 * torch.randint(2, (_DEALS, len(ids)), generator=generator).double() - 1
        differences = own.mean(dim=0) - first.mean(dim=0)
        by_cluster = torch.zeros(len(ids), average.shape[1], dtype=torch.float64)
        by_cluster.index_add_(0, torch.from_numpy(cluster), differences[:, None] * average)
        gains = signs @ by_cluster
    return float(np.median(gains.amax(dim=1)))


def _bin_in_words(sizes: Tensor) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    between = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"concepts of {between} training samples, {counted(len(sizes), 'query', 'queries')}"
