"""The inputs of a model: feature rows for a frozen tower, files and captions for one that trains."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.console import console
from mmts.data.batches.epoch_plan import EpochPlan, stream_order
from mmts.data.batches.loader import Batch, FeatureRows, Pixels, TextSource, make_loader
from mmts.data.media.image import Augmentation
from mmts.data.media.load import feature_rows
from mmts.data.records import Medium, Split
from mmts.distributed.processes import num_processes, process_index
from mmts.evaluation.classification import Classes, prompt_inputs
from mmts.models import TwoTower, embed_media, embed_text, is_frozen, media_features, text_features
from mmts.models.features import Rows
from mmts.recipe.recipe import Recipe
from mmts.recipe.sections import Data
from mmts.training.concepts import label_concepts
from mmts.training.sampling import build_sampling, sampling_in_words


@dataclass(frozen=True)
class Inputs:
    """One split as the model takes it: media (M, W) feature rows or M media, text (N, W) rows or N captions.

    classes: what the media are classified by, and prompts, (K T, W) rows or K T texts, of these classes.
    """

    split: Split
    media: Rows | Sequence[Medium]
    text: Rows | Sequence[str]
    classes: Classes | None = None
    prompts: Rows | Sequence[str] = ()


def prepare_inputs(model: TwoTower, split: Split, classes: Classes | None = None) -> Inputs:
    """Compute the features of frozen towers, or find them in the cache; read those that are precomputed."""
    media_tower, text_tower = model.media_tower, model.text_tower
    assert text_tower is not None
    media: Rows | Sequence[Medium] = split.media
    if media_tower is None:
        media = feature_rows(split.media)
    elif is_frozen(media_tower):
        media = media_features(media_tower, split.media)
    text = text_features(text_tower, split.captions) if is_frozen(text_tower) else split.captions
    return Inputs(split, media, text, classes, () if classes is None else prompt_inputs(model, classes))


def embed_split(model: TwoTower, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the unit embeddings of a split: media (M, D) and text (N, D), rows in file order."""
    return embed_media(model, inputs.media), embed_text(model, inputs.text)


def build_plan(recipe: Recipe, split: Split, concepts: ConceptDistribution) -> EpochPlan:
    """Return which pairs make up which batch; media in shards come nearly in their order there.

    `data.captions` decides which captions may be drawn for a medium, and `data.sampling` how often a medium is drawn
    with which of its own; a caption from another medium is then drawn as without it. What it changes is printed.
    """
    data, seed, pool = recipe.data, recipe.train.seed, None
    if data.captions != "own":
        assert split.graded is not None  # take_splits checked it
        own = concepts.labels[split.first].tolist() if data.captions == "same-concept" else None
        pool = split.graded.pool(data.min_relevance, own)
    sizes, buffer = split.shard_sizes, data.shuffle_buffer
    order = (lambda epoch, start, stop: stream_order(sizes, seed, epoch, buffer, start, stop)) if sizes else None
    sampling = None
    if data.sampling is not None:
        if data.sampling.by != "concept":
            concepts = label_concepts(split, data.sampling.by, "data.sampling.by")
        sampling = build_sampling(data.sampling, recipe.train, concepts)
    owner = split.owner if split.num_captions > split.num_media else None
    B, at_once = recipe.train.batch_size, max(65_536, buffer)
    plan = EpochPlan(owner, split.num_media, B, seed, order=order, at_once=at_once, pool=pool, sampling=sampling)
    if data.sampling is not None and recipe.train.total_steps(plan.batches_per_epoch):
        console.print(sampling_in_words(data.sampling, recipe.train, concepts, plan))
    return plan


def training_batches(
    model: TwoTower, inputs: Inputs, plan: EpochPlan, data: Data, seed: int, with_relevance: bool
) -> Callable[[int, int], Iterator[Batch]]:
    """Return a function (epoch, first batch) -> the batches of that epoch from there on; images as `data.augment` says.

    With several processes each gets its own part of the media and the text.
    """
    media: FeatureRows | Pixels
    if isinstance(inputs.media, np.ndarray):
        media, workers = FeatureRows(inputs.media), 0
    else:
        tower, workers = model.media_tower, data.workers
        assert tower is not None
        augmentation = Augmentation(**data.augment.model_dump()) if data.augment is not None else None
        media = Pixels(inputs.media, tower.size, tower.resize, tower.sampling, augmentation, seed)
    text = _text_source(model, inputs.text)
    process = (process_index(), num_processes())
    make = partial(make_loader, inputs.split, plan, media, text, workers=workers, process=process)
    return partial(make, with_relevance=with_relevance)


def _text_source(model: TwoTower, text: Rows | Sequence[str]) -> TextSource:
    if isinstance(text, np.ndarray):
        return FeatureRows(text)
    assert model.text_tower is not None
    tokenize = model.text_tower.tokenize
    return lambda positions: tokenize([text[at] for at in positions])
