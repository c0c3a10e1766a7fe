"""How the queries of test are divided: by the concepts found in training captions, or by a label of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.data.records import Dataset
from mmts.errors import RecipeError
from mmts.evaluation.results import Judged
from mmts.training.concepts import label_of_samples

CONCEPT = "concept"
"""The name of the division by the concepts that the runs found."""
AVERAGE = "average"
"""The part that is all queries, every concept counting alike."""
PARTS = (None, *GROUP_NAMES, AVERAGE)
"""What is judged: all queries, those of head, mid and tail, and the average over concepts."""


@dataclass(frozen=True)
class Division:
    """The concept (-1: not in training) and the group (0, 1, 2 = head, mid, tail) of each caption (M,) and medium (N,).

    `media_concepts` is None where the media have none of their own (graded relevance).
    """

    name: str
    text_concepts: Tensor
    text_groups: Tensor
    media_concepts: Tensor | None
    media_groups: Tensor

    def weights(self, side: str, part: str | None) -> Tensor | None:
        """Return (Q,) float64 of sum 1, what each query of "text" or "media" counts in a part; None where it is empty.

        >>> groups = torch.tensor([0, 0, 2])
        >>> division = Division("concept", groups, groups, groups, groups)
        >>> division.weights("text", "average"), division.weights("text", "mid")
        (tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64), None)
        """
        groups = self.text_groups if side == "text" else self.media_groups
        if part == AVERAGE:
            concepts = self.text_concepts if side == "text" else self.media_concepts
            if concepts is None:
                return None
            _, member, counts = torch.unique(concepts, return_inverse=True, return_counts=True)
            share: Tensor = 1.0 / (len(counts) * counts[member].double())
            return share
        inside = groups == GROUP_NAMES.index(part) if part else torch.ones(len(groups), dtype=torch.bool)
        return inside.double() / inside.sum() if inside.any() else None


def divisions(judged: Judged, dataset: Dataset, of_labels: Mapping[str, ConceptDistribution]) -> list[Division]:
    """Return the division by the concepts of a judged run, and one by each label, of which `label_concepts` tells.

    Head, mid and tail of a label go by the number of training samples that carry it.
    """
    (of_text, of_media), (text_groups, media_groups) = judged.concepts, judged.groups
    found = [Division(CONCEPT, of_text, text_groups, of_media, media_groups)]
    by_id = {medium.id: medium for medium in dataset.split(judged.meta["split"]).media} if of_labels else {}
    for label, training in of_labels.items():
        values = [by_id[name].labels.get(label) for name in judged.meta["media_ids"]]
        concepts = training.assign(values)
        groups = training.groups_of(concepts)
        found.append(Division(label, concepts[judged.owner], groups[judged.owner], concepts, groups))
    return found


def label_concepts(dataset: Dataset, labels: Sequence[str]) -> dict[str, ConceptDistribution]:
    """Return the concepts that each label makes of the training samples.

    Raises RecipeError where the data have no such label, DataError naming a training medium that lacks it.
    """
    if CONCEPT in labels:
        raise RecipeError(f"labels: {CONCEPT!r} is what the division by the captions' concepts is called")
    train = dataset.split("train")
    return {label: ConceptDistribution.from_labels(label_of_samples(train, label, "labels")) for label in labels}
