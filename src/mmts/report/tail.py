"""The long tail of a data set, in numbers and as a chart: for the page and for `mmts analyze`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from markupsafe import Markup

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import counted
from mmts.report.charts import GROUPS, INK, drawing, hover_points, inline_svg, logarithmic_ticks, thinned
from mmts.report.wording import clean, isolated

_MOST_BARS = 200  # drawn one by one; more make one shape per group
_MOST_POINTS = 400  # with a tooltip


class GroupSize(NamedTuple):
    """How many concepts and samples a group has, and its range of concept sizes (0, 0 for an empty group)."""

    concepts: int
    samples: int
    largest: int
    smallest: int


class LongTail:
    """The K concepts of a distribution, the largest first, and the head, mid and tail that they make up.

    names, sizes, concept_groups (0, 1, 2 = head, mid, tail): K of each. top_tenth_share: the share of the samples, in
    [0, 1], in the largest tenth of the concepts (rounded up).

    >>> tail = LongTail(ConceptDistribution.from_labels(["lamp", "cup", "cup"]))
    >>> tail.names, tail.groups["tail"]
    (('cup', 'lamp'), GroupSize(concepts=1, samples=1, largest=1, smallest=1))
    """

    def __init__(self, distribution: ConceptDistribution) -> None:
        sizes, order = distribution.sizes.sort(descending=True, stable=True)
        concept_groups, sample_groups = distribution.concept_groups()[order], distribution.groups()
        self.names = tuple(distribution.names[at] for at in order.tolist())
        self.sizes = tuple(sizes.tolist())
        self.concept_groups = tuple(concept_groups.tolist())
        self.num_samples = len(distribution)
        self.median = float(np.median(sizes))
        largest = torch.isin(distribution.labels, order[: -(-len(sizes) // 10)])
        self.top_tenth_share = int(largest.sum()) / len(distribution)
        self.groups: dict[str, GroupSize] = {}
        for number, name in enumerate(GROUP_NAMES):
            inside = sizes[concept_groups == number].tolist()
            ends = (inside[0], inside[-1]) if inside else (0, 0)
            self.groups[name] = GroupSize(len(inside), int((sample_groups == number).sum()), *ends)

    def draw(self, axes: Any, colors: Sequence[str], width: int) -> None:
        """Draw the sizes on a logarithmic axis; `colors` of head, mid and tail, `width` of the figure in pixels."""
        number, bottom = len(self.sizes), 0.7 * self.sizes[-1]
        for group, color in enumerate(colors):
            places = [at for at in range(number) if self.concept_groups[at] == group]
            heights = [self.sizes[at] for at in places]
            if number <= _MOST_BARS:
                x, bars = [at + 1 for at in places], [height - bottom for height in heights]
                axes.bar(x, bars, bottom=bottom, color=color, width=min(0.72, 48 * number / width))
            elif places:  # the concepts of a group are neighbors
                edges = [places[0] + 0.5 + at for at in range(len(places) + 1)]
                axes.stairs(heights, edges, baseline=bottom, fill=True, color=color)
        axes.set_yscale("log")
        axes.set_ylim(bottom, 1.6 * self.sizes[0])
        axes.set_xlim(0.3, number + 0.7)
        logarithmic_ticks(axes.yaxis, self.sizes[-1], self.sizes[0])
        axes.grid(axis="y")
        axes.set_xticks([1, *[tick for tick in axes.get_xticks() if 1 < tick <= number and tick == int(tick)]])
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("concepts, largest first")

    def chart(self, identifier: str, width: int) -> Markup:
        """Return the chart for the page, with tooltips."""
        number, sizes = len(self.sizes), self.sizes
        chosen = thinned(range(number), _MOST_POINTS)
        names = [f"{isolated(clean(self.names[at], 60))}: {counted(sizes[at], 'sample')}" for at in chosen]
        texts = [f"{name}\nconcept {at + 1:,} of {number:,}" for name, at in zip(names, chosen, strict=True)]
        label = f"Sizes of {counted(number, 'concept')}, sorted, on a logarithmic axis: "
        label += f"from {sizes[0]:,} down to {counted(sizes[-1], 'sample')}"
        with drawing(width, 280 if width > 400 else 240) as axes:
            self.draw(axes, GROUPS, width)
            hover_points(axes, [at + 1 for at in chosen], [sizes[at] for at in chosen], "hover-sizes", INK)
            axes.set_title("training samples, logarithmic scale")
            return inline_svg(axes, identifier, label, {"hover-sizes": texts})
