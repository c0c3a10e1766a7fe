"""The long tail of the training data, in numbers, words and a curve."""

from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import counted
from mmts.report import charts
from mmts.report.wording import clean

_LISTED = 6


@dataclass(frozen=True)
class Part:
    """Head, mid or tail: how many concepts and samples, and their shares."""

    number: int
    name: str
    counts: tuple[int, int]
    shares: tuple[float, float]

    @property
    def text(self) -> str:
        """Concepts and samples in words."""
        return f"{counted(self.counts[0], 'concept')}, {counted(self.counts[1], 'sample')}"


@dataclass(frozen=True)
class Concept:
    """A concept's readable name, size and group."""

    name: str
    size: int
    group: int


@dataclass(frozen=True)
class LongTail:
    """What the page says of a ConceptDistribution."""

    sentence: str
    shares_label: str
    origin: str
    parts: tuple[Part, ...]
    largest: tuple[Concept, ...]
    smallest: tuple[Concept, ...]
    wide: Markup
    narrow: Markup

    @classmethod
    def of(cls, distribution: ConceptDistribution) -> "LongTail":
        """Sort the concepts by size, cut them into head, mid and tail, and draw the curve."""
        order = torch.argsort(distribution.sizes, descending=True, stable=True)
        groups = distribution.concept_groups()[order].tolist()
        sizes = distribution.sizes[order].tolist()
        concepts = [
            Concept(clean(distribution.names[at], 60), size, group)
            for at, size, group in zip(order.tolist(), sizes, groups, strict=True)
        ]
        parts = tuple(_part(number, distribution) for number in range(len(GROUP_NAMES)))
        number = min(_LISTED, len(concepts))
        names = [concept.name for concept in concepts]
        return cls(
            _sentence(sizes, len(distribution)),
            "; ".join(
                f"{part.name}: {part.shares[0]:.0f} % of concepts, {part.shares[1]:.0f} % of samples" for part in parts
            ),
            _origin(distribution),
            parts,
            tuple(concepts[:number]),
            tuple(concepts[-number:]),
            charts.long_tail(sizes, groups, names, "tail-wide", 1056),
            charts.long_tail(sizes, groups, names, "tail-narrow", 350, 240),
        )


def _part(number: int, distribution: ConceptDistribution) -> Part:
    concepts = int((distribution.concept_groups() == number).sum())
    samples = int((distribution.groups() == number).sum())
    shares = (100 * concepts / distribution.num_concepts, 100 * samples / len(distribution))
    return Part(number, GROUP_NAMES[number], (concepts, samples), shares)


def _sentence(sizes: list[int], num_samples: int) -> str:
    tenth = max(1, round(len(sizes) / 10))
    share = 100 * sum(sizes[:tenth]) / sum(sizes)
    return (
        f"{counted(num_samples, 'training sample')} in {counted(len(sizes), 'concept')}: the largest has {sizes[0]:,}, "
        f"the median is {np.median(sizes):,g}, the smallest {sizes[-1]:,}. The largest tenth of the concepts "
        f"{'holds' if tenth == 1 else 'hold'} {share:.0f} % of the samples."
    )


def _origin(distribution: ConceptDistribution) -> str:
    made = distribution.provenance
    if made.get("kind") == "captions":
        return (
            f"Concepts are k-means clusters of the training captions (encoder {clean(made['encoder'], 60)}, "
            f"seed {made['seed']}), each named by its most distinctive words."
        )
    if made.get("kind") == "labels":
        return "Concepts are labels that came with the data."
    return "Concepts are the distinct sizes that were given."
