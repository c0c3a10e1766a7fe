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
from mmts.evaluation.figures import extremes
from mmts.evaluation.judgement_file import SIDES
from mmts.evaluation.results import Gap, query_scores
from mmts.metrics import bootstrap_interval, seeded_bootstrap_interval
from mmts.report.charts import Line, change_panel, size_panel, wide_and_narrow
from mmts.report.contents import Contents, Finding
from mmts.report.wording import clean, in_title

_BINS = 6
_LEAST_IN_BIN = 30
_LEAST_QUERIES = (10, 5)  # of a concept that is compared; 5 if hardly any concept has 10
_FEW = 6
_DEALS = 500
_SEEDS_TO_DEAL = 3  # of each rule: fewer can hardly be dealt in another way


@dataclass(frozen=True)
class Queries:
    """The queries of one direction whose concept is known, as the first run groups them; `num_unknown` are left out.

    concepts, clusters (Q,): each query's concept, and the medium that it belongs to. scores: (S, Q) per rule, its
    leading measure in [0, 1], one row per seed.
    """

    distribution: ConceptDistribution
    concepts: Tensor
    clusters: Tensor
    scores: tuple[Tensor, ...]
    num_unknown: int


def concept_section(contents: Contents, finding: Finding) -> dict[str, Any]:
    """Draw recall by concept size in both directions, and compare the rules concept by concept."""
    charts: list[tuple[str, Markup, Markup]] = []
    absent: dict[str, list[str]] = {}
    changes, changes_absent, num_unknown = [], "", 0
    for side, title in zip(SIDES, map(in_title, contents.directions), strict=True):
        queries = find_queries(contents, side)
        if isinstance(queries, str):
            absent.setdefault(queries, []).append(title)
            changes_absent = queries if side == "text" else changes_absent
            continue
        num_unknown += queries.num_unknown
        if side == "text":
            changes = [find_changes(contents, queries, verdict.number) for verdict in finding.verdicts]
        lines, places = lines_by_size(contents, queries)
        if len(places) < 2:
            absent.setdefault("there are too few queries to divide by concept size", []).append(title)
            continue
        draw = partial(size_panel, title, f"{contents.measure}, %", lines, places)
        charts.append((title, *wide_and_narrow(draw, f"size{len(charts)}")))
    of_changes = {"concept_changes": changes, "changes_absent": changes_absent}
    return {"size_charts": charts, "num_unknown": num_unknown, "size_absent": absent, **of_changes}


def find_queries(contents: Contents, side: str) -> Queries | str:
    """Return the "text" or "media" queries of all runs, or the reason why they cannot be shown by concept."""
    judged, distribution = [group.judged for group in contents.groups], contents.distributions[0]
    first = judged[0][0]
    if not all(run.has(contents.measure) for runs in judged for run in runs):
        return f"some runs were evaluated without {contents.measure}"
    if distribution is None:
        return "the first run does not say to which concepts its queries belong"
    concepts = first.concepts[SIDES.index(side)]
    if concepts is None:
        return f"with graded relevance, captions belong to no single {contents.kind}"
    if int(concepts.max()) >= distribution.num_concepts:
        return "the first run was evaluated with another concepts.npz than the one in its folder"
    known = concepts >= 0
    if not known.any():
        return "no query belongs to a concept of the training data"
    owner = first.owner if side == "text" else torch.arange(len(concepts))
    scores = tuple(query_scores(runs, side, contents.measure)[:, known] for runs in judged)
    return Queries(distribution, concepts[known], owner[known], scores, int((~known).sum()))


def size_bins(sizes: Tensor) -> list[Tensor]:
    """Cut queries by the sizes (Q,) of their concepts into at most six bins of about equal counts; return their rows.

    Queries of one size share a bin, and a bin has at least 30 queries.

    >>> [len(rows) for rows in size_bins(torch.tensor([1] * 40 + [2] * 10 + [3] * 25))]
    [40, 35]
    """
    least = max(_LEAST_IN_BIN, len(sizes) // _BINS)
    ordered, order = sizes.sort(stable=True)
    starts = [0]
    for end in torch.unique(ordered, return_counts=True)[1].cumsum(0).tolist():
        if end - starts[-1] >= least:
            starts.append(end)
    if len(starts) > 1 and len(sizes) - starts[-1] < _LEAST_IN_BIN:
        starts.pop()  # too few remain for a bin of their own
    return list(order.tensor_split(starts[1:]))


def lines_by_size(contents: Contents, queries: Queries) -> tuple[list[Line], list[str]]:
    """Return a line per rule, in percent with its 95 % interval over queries, and each point's bin in words."""
    sizes = queries.distribution.sizes[queries.concepts]
    bins = size_bins(sizes)
    x = [float(sizes[rows].double().log().mean().exp()) for rows in bins]
    lines = []
    for number, scores in enumerate(queries.scores):
        mean = scores.mean(dim=0)
        bands = [bootstrap_interval(mean[rows], clusters=queries.clusters[rows]) for rows in bins]
        y = [100 * float(mean[rows].mean()) for rows in bins]
        low, high = ([100 * end for end in ends] for ends in zip(*bands, strict=True))
        lines.append(Line(contents.groups[number].name, number, x, y, low, high))
    places = []
    for rows in bins:
        span = " to ".join(dict.fromkeys(f"{size:,}" for size in (int(sizes[rows].min()), int(sizes[rows].max()))))
        places.append(f"concepts of {span} training samples, {counted(len(rows), 'query', 'queries')}")
    return lines, places


def find_changes(contents: Contents, queries: Queries, number: int) -> dict[str, Any]:
    """Compare a rule with the first in every concept with at least `least` queries, the largest gain first.

    by_chance: the largest gain, in points, if the two rules were equal; are_dealt: whether seeds are a part of it.
    """
    distribution, groups = queries.distribution, queries.distribution.concept_groups()
    counts = torch.bincount(queries.concepts, minlength=distribution.num_concepts)
    least = next((least for least in _LEAST_QUERIES if (counts >= least).sum() >= _FEW), _LEAST_QUERIES[-1])
    concepts = (counts >= least).nonzero()[:, 0]
    first, other = queries.scores[0], queries.scores[number]
    changes: list[dict[str, Any]] = []
    for concept in concepts.tolist():
        rows = queries.concepts == concept
        low, high = seeded_bootstrap_interval(first[:, rows], other[:, rows], clusters=queries.clusters[rows])
        means = [100 * float(scores[:, rows].mean()) for scores in (first, other)]
        changes.append(
            {
                "name": clean(distribution.names[concept], 60),
                "size": int(distribution.sizes[concept]),
                "group": int(groups[concept]),
                "num_queries": int(counts[concept]),
                "first": means[0],
                "other": means[1],
                "gap": Gap(means[1] - means[0], 100 * low, 100 * high),
            }
        )
    changes.sort(key=lambda change: -change["gap"].mean)
    result: dict[str, Any] = {"number": number, "least": least, "concepts": changes}
    if changes:
        result["are_dealt"] = min(len(first), len(other)) >= _SEEDS_TO_DEAL
        rows = torch.isin(queries.concepts, concepts)
        by_chance = largest_by_chance(first[:, rows], other[:, rows], queries.concepts[rows], queries.clusters[rows])
        draw = partial(change_panel, changes, f"difference in {contents.measure}, points")
        result |= {"by_chance": 100 * by_chance, "charts": wide_and_narrow(draw, f"change{number}", 1056)}
    return result


def largest_by_chance(first: Tensor, other: Tensor, concepts: Tensor, clusters: Tensor) -> float:
    """Return the median of the largest mean gain of any concept that chance alone gives (docs/method.md, 7.5).

    first (S, Q), other (T, Q): scores of two rules, one row per seed; concepts (Q,), clusters (Q,). The runs are dealt
    to the two rules at random, 500 times, and the largest gain is kept each time; if a rule has fewer than three runs,
    the scores of each cluster are dealt instead, which leaves out the effect of a seed on a whole concept.
    Source: Nichols and Holmes, Nonparametric permutation tests for functional neuroimaging, 2002.

    >>> largest_by_chance(torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([0, 0, 1, 1]), torch.arange(4))
    0.0
    """
    member = torch.nn.functional.one_hot(torch.unique(concepts, return_inverse=True)[1]).double()
    average = member / member.sum(dim=0)  # (Q, K): scores to the means of concepts
    generator = torch.Generator().manual_seed(0)
    if min(len(first), len(other)) >= _SEEDS_TO_DEAL:
        means = torch.cat([first, other]) @ average  # (S + T, K)
        orders = [torch.randperm(len(means), generator=generator) for _ in range(_DEALS)]
        gains = torch.stack(
            [means[order[len(first) :]].mean(0) - means[order[: len(first)]].mean(0) for order in orders]
        )
    else:
        ids, cluster = torch.unique(clusters, return_inverse=True)
        signs = 2.0 * torch.randint(2, (_DEALS, len(ids)), generator=generator).double() - 1
        differences = other.mean(dim=0) - first.mean(dim=0)
        by_cluster = torch.zeros(len(ids), average.shape[1], dtype=torch.float64)
        by_cluster.index_add_(0, cluster, differences[:, None] * average)
        gains = signs @ by_cluster
    return float(np.median(gains.amax(dim=1)))


def class_tables(contents: Contents) -> list[dict[str, Any]]:
    """Return for every label the values that the first rule answers worst and best."""
    tables, place = [], (contents.directions[0], contents.measure)
    for label in contents.labels:
        classes = contents.metrics["labels"][label]["classes"]
        figures = {value: contents.groups[0].class_figure(label, value, *place) for value in classes}
        means = {value: figure.mean for value, figure in figures.items() if figure is not None}
        lowest, highest = extremes(means, {value: classes[value]["num_queries"] for value in means})
        if lowest:
            parts = (("lowest", lowest), ("highest", highest))
            tables.append({"label": label, "classes": classes, "parts": parts})
    return tables
