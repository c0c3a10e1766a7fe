"""Results by concept: recall by concept size, the concepts that gained and lost most, and the values of labels."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.errors import counted
from mmts.evaluation.figures import extreme_classes
from mmts.evaluation.judgement_file import SIDES
from mmts.evaluation.results import Gap, query_scores
from mmts.metrics import bootstrap_interval, seeded_bootstrap_interval
from mmts.report.charts import ConceptChange, Line, change_panel, size_panel, wide_and_narrow
from mmts.report.contents import Contents
from mmts.report.finding import Finding
from mmts.report.wording import clean, in_title

_BINS = 6
_LEAST_IN_BIN = 30
_LEAST_QUERIES = (10, 5)  # of a concept that is compared; 5 if hardly any concept has 10
_FEW = 6
_DEALS = 500
_SEEDS_TO_DEAL = 3  # of each rule: fewer can hardly be dealt in another way


@dataclass(frozen=True)
class Queries:
    """The queries of one direction whose concept is known, as the first run groups them.

    distribution: the concepts. concepts, sizes, clusters (Q,): each query's concept, its number of training samples,
    and the medium that the query belongs to. scores: (S, Q) per rule, its leading measure in [0, 1], one row per seed.
    num_unknown: the number of queries left out.
    """

    distribution: ConceptDistribution
    concepts: Tensor
    sizes: Tensor
    clusters: Tensor
    scores: tuple[Tensor, ...]
    num_unknown: int


@dataclass(frozen=True)
class Changes:
    """A rule's change against the first in every concept with at least `least` queries, the largest gain first.

    by_chance: the median over draws of the largest gain, in points, if the two rules were equal. are_dealt: whether
    that includes the spread over seeds. charts: wide and narrow; none without concepts.
    """

    number: int
    least: int
    are_dealt: bool
    concepts: tuple[ConceptChange, ...]
    by_chance: float
    charts: tuple[Markup, Markup] | None


def concept_section(contents: Contents, finding: Finding) -> dict[str, Any]:
    """Draw recall by concept size in both directions, and compare the rules concept by concept."""
    num_unknown = 0
    charts: list[tuple[str, Markup, Markup]] = []
    absent: dict[str, list[str]] = {}
    by_side = [find_queries(contents, side) for side in SIDES]
    for direction, queries in zip(contents.directions, by_side, strict=True):
        title = in_title(direction)
        if isinstance(queries, str):
            absent.setdefault(queries, []).append(title)
            continue
        num_unknown += queries.num_unknown
        lines, places = lines_by_size(contents, queries)
        if len(places) < 2:
            absent.setdefault("there are too few queries to divide by concept size", []).append(title)
            continue
        draw = partial(size_panel, title, f"{contents.measure}, %", lines, places)
        charts.append((title, *wide_and_narrow(draw, f"size{len(charts)}")))
    queries = by_side[0]
    changes = []
    if not isinstance(queries, str):
        changes = [find_changes(contents, queries, verdict.number) for verdict in finding.verdicts]
    return {
        "size_charts": charts,
        "num_unknown": num_unknown,
        "size_absent": absent,
        "changes_absent": queries if isinstance(queries, str) else "",
        "concept_changes": changes,
    }


def find_queries(contents: Contents, side: str) -> Queries | str:
    """Return the "text" or "media" queries of all runs, or the reason why they cannot be shown by concept.

    The concept of a medium is that of its first caption.
    """
    paired, distribution = contents.results.paired, contents.distributions[0]
    first = paired[0][0]
    if not all(run.has(contents.measure) for runs in paired for run in runs):
        return f"some runs were evaluated without {contents.measure}"
    if distribution is None or "text_concepts" not in first.arrays:
        return "the first run does not say to which concepts its queries belong"
    concepts = first.concepts[SIDES.index(side)]
    if concepts is None:
        return f"with graded relevance, captions belong to no single {contents.kind}"
    owner = first.owner if side == "text" else torch.arange(len(concepts))
    if int(concepts.max()) >= distribution.num_concepts:
        return "the first run was evaluated with another concepts.npz than the one in its folder"
    known = concepts >= 0
    if not known.any():
        return "no query belongs to a concept of the training data"
    scores = tuple(query_scores(runs, side, contents.measure)[:, known] for runs in paired)
    concepts = concepts[known]
    return Queries(distribution, concepts, distribution.sizes[concepts], owner[known], scores, int((~known).sum()))


def size_bins(sizes: Tensor) -> list[Tensor]:
    """Cut queries by the sizes (Q,) of their concepts into at most six bins of about equal counts; return their rows.

    Queries of one size share a bin, and a bin has at least 30 queries.

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
    x = [float(queries.sizes[rows].double().log().mean().exp()) for rows in bins]
    lines = []
    for number, scores in enumerate(queries.scores):
        means = [scores.mean(dim=0)[rows] for rows in bins]
        bands = [
            bootstrap_interval(mean, clusters=queries.clusters[rows]) for mean, rows in zip(means, bins, strict=True)
        ]
        y = [100 * float(mean.mean()) for mean in means]
        low, high = ([100 * end for end in ends] for ends in zip(*bands, strict=True))
        lines.append(Line(contents.names[number], number, x, y, low, high))
    return lines, [_bin_in_words(queries.sizes[rows]) for rows in bins]


def _bin_in_words(sizes: Tensor) -> str:
    low, high = int(sizes.min()), int(sizes.max())
    span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"concepts of {span} training samples, {counted(len(sizes), 'query', 'queries')}"


def find_changes(contents: Contents, queries: Queries, number: int) -> Changes:
    """Compare a rule with the first in every concept that has enough queries."""
    distribution, groups = queries.distribution, queries.distribution.concept_groups()
    counts = torch.bincount(queries.concepts, minlength=distribution.num_concepts)
    least = next((least for least in _LEAST_QUERIES if (counts >= least).sum() >= _FEW), _LEAST_QUERIES[-1])
    concepts = (counts >= least).nonzero()[:, 0]
    first, other = queries.scores[0], queries.scores[number]
    changes = []
    for concept in concepts.tolist():
        rows = queries.concepts == concept
        low, high = seeded_bootstrap_interval(first[:, rows], other[:, rows], clusters=queries.clusters[rows])
        means = 100 * float(first[:, rows].mean()), 100 * float(other[:, rows].mean())
        gap = Gap(means[1] - means[0], 100 * low, 100 * high)
        name, size = clean(distribution.names[concept], 60), int(distribution.sizes[concept])
        changes.append(ConceptChange(name, size, int(groups[concept]), int(counts[concept]), *means, gap))
    changes.sort(key=lambda change: -change.gap.mean)
    rows = torch.isin(queries.concepts, concepts)
    chance, charts = 0.0, None
    if changes:
        chance = largest_by_chance(first[:, rows], other[:, rows], queries.concepts[rows], queries.clusters[rows])
        draw = partial(change_panel, changes, f"difference in {contents.measure}, points")
        charts = wide_and_narrow(draw, f"change{number}", 1056)
    return Changes(number, least, are_dealt(first, other), tuple(changes), 100 * chance, charts)


def are_dealt(first: Tensor, other: Tensor) -> bool:
    """Whether two rules' scores (S, Q) and (T, Q) have enough seeds to deal their runs again."""
    return min(len(first), len(other)) >= _SEEDS_TO_DEAL


def largest_by_chance(first: Tensor, other: Tensor, concepts: Tensor, clusters: Tensor) -> float:
    """Return the median of the largest mean gain of any concept that chance alone gives (docs/method.md, 7.5).

    first (S, Q), other (T, Q): scores of two rules, one row per seed; concepts (Q,), clusters (Q,). If the rules are
    equal, each run could belong to either. So the runs are dealt to the two rules at random, 500 times, and the largest
    gain is kept each time. If a rule has fewer than three runs, the scores of each cluster are dealt instead, which
    leaves out the effect of a seed on all queries of a concept together.
    Source: Nichols and Holmes, Nonparametric permutation tests for functional neuroimaging, 2002 (the maximum as the
    statistic).

    >>> largest_by_chance(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0, 0, 1, 1]), torch.arange(4))
    0.0
    """
    _, concept = np.unique(concepts.numpy(), return_inverse=True)
    member = torch.nn.functional.one_hot(torch.from_numpy(concept)).double()
    average = member / member.sum(dim=0)  # (Q, K): scores to the means of concepts
    generator = torch.Generator().manual_seed(0)
    if are_dealt(first, other):
        means = torch.cat([first, other]) @ average  # (S + T, K)
        orders = [torch.randperm(len(means), generator=generator) for _ in range(_DEALS)]
        gains = torch.stack(
            [means[order[len(first) :]].mean(0) - means[order[: len(first)]].mean(0) for order in orders]
        )
    else:
        ids, cluster = np.unique(clusters.numpy(), return_inverse=True)
        signs = 2.0 * torch.randint(2, (_DEALS, len(ids)), generator=generator).double() - 1
        differences = other.mean(dim=0) - first.mean(dim=0)
        by_cluster = torch.zeros(len(ids), average.shape[1], dtype=torch.float64)
        by_cluster.index_add_(0, torch.from_numpy(cluster), differences[:, None] * average)
        gains = signs @ by_cluster
    return float(np.median(gains.amax(dim=1)))


def class_tables(contents: Contents) -> list[dict[str, Any]]:
    """Return for every label the values that the first rule answers worst and best."""
    tables = []
    for label in contents.results.labels:
        metrics = contents.groups[0].metrics[0]["labels"][label]

        def mean(value: str, label: str = label) -> float | None:
            figure = contents.groups[0].class_figure(label, value, contents.directions[0], contents.measure)
            return None if figure is None else figure.mean

        lowest, highest = extreme_classes(metrics, mean)
        if lowest:
            parts = (("lowest", lowest), ("highest", highest))
            tables.append({"label": label, "classes": metrics["classes"], "parts": parts})
    return tables
