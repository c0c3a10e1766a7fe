"""The measure a page leads with, and how it speaks of it: R@1, or mAP where relevance is graded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmts.evaluation.measures import shown_measures


@dataclass(frozen=True)
class Measure:
    """A measure of text queries in words, with {kind} (image or video), {figure} and {number} left open."""

    name: str
    outcome: str  # of text queries, after "beats fixed:"
    other_way: str  # of media queries, after "The other way round,"
    meaning: str  # after "The numbers are R@1 of text queries:"
    definitions: str  # of everything in the tables
    averaged: str  # what intervals average over seeds


_RECALL = Measure(
    "R@1",
    outcome="the right {kind} comes first for {figure} % of the captions",
    other_way="a right caption comes first for {figure} of the {kind}s",
    meaning="the share of captions for which a right {kind} comes first of {number}",
    definitions="R@k is the share of queries with something right among the first k.",
    averaged="hits",
)
_PRECISION = Measure(
    "mAP",
    outcome="text queries reach a mean average precision (mAP) of {figure} %",
    other_way="from {kind} to text, mAP is {figure}",
    meaning="100 % where all {kind}s of relevance 1 stand before all others of {number}",
    definitions=(
        "Relevance is graded, from 0 to 1. mAP averages over queries the average precision: the mean relevance of what "
        "stands at a place and above it, averaged over the places that hold something of relevance 1; binary_mAP "
        "takes all other relevance for 0. nDCG sums relevance, divided by the logarithm of the place plus 1, as a "
        "share of the best order's sum. R@k is the share of queries with something of relevance 1 among the first k."
    ),
    averaged="average precisions",
)
_MEASURES = {measure.name: measure for measure in (_RECALL, _PRECISION)}


def leading_measure(metrics: Mapping[str, Any]) -> Measure:
    """Return the measure that stands first in the tables of a judgement."""
    return _MEASURES[shown_measures(metrics)[0]]
