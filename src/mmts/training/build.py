"""From the sections of a recipe to the objects they describe."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from mmts.concepts import ConceptDistribution, neighbour_counts, resolve_num_concepts
from mmts.console import console
from mmts.data.batches.epoch_plan import EpochPlan, Indices
from mmts.data.batches.stream_order import stream_order
from mmts.data.graded import CaptionPool
from mmts.data.records import Medium, Split
from mmts.errors import DataError, InputError, RecipeError, counted, nearest
from mmts.evaluation.figures import MediaLabel
from mmts.recipe import recipe as r
from mmts.recipe.components import RunFacts

_LOOKED_AT = 64  # captions whose concept is found again, to compare it with that of a file


def build_distribution(section: r.Concepts, split: Split) -> ConceptDistribution:
    """Find the concepts of a split's samples: clusters of their captions, a label of their media, or made beforehand.

    With `num_concepts: auto` the number found is `resolve_num_concepts`; `len(distribution.sizes)` tells it.
    """
    if section.source == "label":
        return ConceptDistribution.from_labels(label_of_samples(split, str(section.label)))
    if section.source == "file":
        assert section.file is not None
        return _clusters_in(section.file, split)
    num_concepts = resolve_num_concepts(section.num_concepts, split.captions)
    return _clustered(tuple(split.captions), num_concepts, section.encoder, section.seed)


def _clusters_in(file: Path, split: Split) -> ConceptDistribution:
    """Read concepts that `ConceptDistribution.from_embeddings` or `from_captions` made of the split's captions."""
    distribution = ConceptDistribution.load(file)
    if distribution.centroids is None:
        raise RecipeError(f"concepts.file: {file} holds no clusters of captions but {distribution.provenance['kind']}")
    try:
        distribution.check_captions(split.captions)
        # Judging needs the encoder, and will be reached hours later. It also tells whether the order is that of the
        # captions, which a file made of embeddings alone does not say.
        looked_at = torch.arange(0, split.num_captions, -(-split.num_captions // _LOOKED_AT))
        again = distribution.assign([split.captions[at] for at in looked_at.tolist()])
    except InputError as error:
        raise RecipeError(f"concepts.file: {file}: {error}") from None
    same = int((again == distribution.labels[looked_at]).sum())
    if 2 * same < len(looked_at):
        raise RecipeError(
            f"concepts.file: {file}: of {len(looked_at)} training captions only {same} are in the concept that the "
            "file gives them: it was made from other captions, or from these in another order; make a new one"
        )
    return distribution


@lru_cache(maxsize=2)  # a sweep's runs in one process share their captions, and clustering them takes seconds
def _clustered(captions: tuple[str, ...], num_concepts: int, encoder: str, seed: int) -> ConceptDistribution:
    return ConceptDistribution.from_captions(captions, num_concepts=num_concepts, encoder=encoder, seed=seed)


def text_concepts(section: r.Concepts, distribution: ConceptDistribution, split: Split) -> Tensor:
    """Return the training concept (M,) of each caption of another split; -1 where it has none."""
    if section.source != "label":
        return distribution.assign(split.captions)
    return _concepts_by_label(section, distribution, [split.media[owner] for owner in split.owner.tolist()], split)


def media_concepts(section: r.Concepts, distribution: ConceptDistribution, split: Split) -> Tensor:
    """Return the training concept (N,) of each medium of another split, that of its first caption; -1: none."""
    if section.source != "label":
        return distribution.assign([medium.captions[0] for medium in split.media])
    return _concepts_by_label(section, distribution, split.media, split)


def _concepts_by_label(
    section: r.Concepts, distribution: ConceptDistribution, media: Sequence[Medium], split: Split
) -> Tensor:
    labels = [medium.labels.get(str(section.label)) for medium in media]
    concepts = distribution.assign([str(label) for label in labels])
    unknown = torch.tensor([label is None for label in labels])
    if unknown.any():
        console.print(
            f"note: {counted(int(unknown.sum()), 'sample')} of {split.name} without a label {section.label!r}: tail"
        )
    return concepts.masked_fill(unknown, -1)


def run_facts(recipe: r.Recipe, distribution: ConceptDistribution, split: Split) -> RunFacts:
    """Return what components may ask of a run: of its concepts, its training split and its model."""
    return RunFacts(
        distribution,
        split.num_media,
        split.num_captions,
        recipe.model.width,
        partial(neighbour_counts, split.captions),
    )


def build_plan(recipe: r.Recipe, split: Split, distribution: ConceptDistribution) -> EpochPlan:
    """Return which pairs make up which batch; media in shards come nearly in the order they lie there."""
    seed = recipe.train.seed
    sizes = split.shard_sizes
    order = partial(_shard_order, sizes, seed, recipe.data.shuffle_buffer) if sizes else None
    pool = build_pool(recipe.data, split, distribution)
    return EpochPlan(split.owner, split.num_media, recipe.train.batch_size, seed, order=order, pool=pool)


def _shard_order(sizes: Sequence[int], seed: int, buffer: int, epoch: int) -> Indices:
    return stream_order(sizes, seed, epoch, buffer)


def build_pool(section: r.Data, split: Split, distribution: ConceptDistribution) -> CaptionPool | None:
    """Return whose captions may be drawn for each training medium; None where it is only its own.

    `relevant`: captions of graded relevance over `min_relevance`; `same-concept`: those of them whose medium has the
    same concept, so that a margin or temperature that goes by concept fits the medium and the caption alike.
    """
    if section.captions == "own":
        return None
    assert split.graded is not None  # `take_splits` saw to it
    own = distribution.labels[split.first].tolist() if section.captions == "same-concept" else None
    return split.graded.pool(section.min_relevance, own)


def label_of_samples(split: Split, label: str, key: str = "concepts.label") -> list[str]:
    """Return one label of each sample's medium, or raise naming the medium without it and the labels there are.

    key: the option that asks for the label, for the message.
    """
    values = media_label(split, label, key)
    bare = next((medium.id for medium, value in zip(split.media, values, strict=True) if value is None), None)
    if bare is not None:
        raise DataError(f"medium {bare!r} has no label {label!r}, which {key} asks for")
    return [str(values[owner]) for owner in split.owner.tolist()]


def media_label(split: Split, label: str, key: str) -> list[str | None]:
    """Return a label of each medium, None for media without it; raises RecipeError if no medium has it."""
    values = [medium.labels.get(label) for medium in split.media]
    if all(value is None for value in values):
        known = sorted({key for each in split.media for key in each.labels})
        raise RecipeError(f"{key}: the data has no label {label!r}; {nearest(label, known)}")
    return [None if value is None else str(value) for value in values]


def judged_label(label: str, train: Split, split: Split) -> MediaLabel:
    """Return a label of the media of `split`, with how many samples of `train` have each of its values.

    Raises RecipeError if no medium of one of the two splits has the label.
    """
    of_train, values = (media_label(each, label, f"--label, {each.name}") for each in (train, split))
    counts = Counter(value for owner in train.owner.tolist() if (value := of_train[owner]) is not None)
    return MediaLabel(values, dict(counts.most_common()))
