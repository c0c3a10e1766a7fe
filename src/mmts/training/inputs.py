"""What the model is fed: feature rows where a tower is frozen, files and captions where it trains."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mmts.data.batches.epoch_plan import EpochPlan
from mmts.data.batches.loader import Batch, FeatureRows, Pixels, TokenizedCaptions, make_loader
from mmts.data.formats.collect import WITH_ARTICLE
from mmts.data.media.feature_files import feature_rows, why_unreadable_features
from mmts.data.media.image import Augmentation
from mmts.data.records import Medium, Split
from mmts.distributed.processes import num_processes, once, process_index
from mmts.errors import DataError, RecipeError, RunError
from mmts.files import read_json, why_missing, write_json
from mmts.models import (
    TwoTower,
    Vocabulary,
    build_two_tower,
    build_vocabulary,
    embed_media,
    embed_text,
    media_features,
    text_features,
)
from mmts.models.base import MediaTower, is_frozen
from mmts.models.clip_weights import avion_weights
from mmts.models.features import Rows
from mmts.recipe.model_section import FEATURES, Model
from mmts.recipe.recipe import Data
from mmts.recipe.run_directory import RunDirectory


@dataclass(frozen=True)
class Inputs:
    """One split as the model takes it: media (N, W) feature rows or N media, text (M, W) rows or M captions."""

    split: Split
    media: Rows | Sequence[Medium]
    text: Rows | Sequence[str]


def build_model(section: Model, split: Split, run: RunDirectory, trained: bool = False) -> TwoTower:
    """Return the model of a recipe, with its frozen towers.

    A text tower trained from scratch gets the words of the captions of `split`, which are saved with the run; if the
    run is `trained`, it gets the saved ones. A model on features computed beforehand takes their width from `split`.
    """
    given: dict[str, dict[str, Any]] = {"media": {}, "text": {}}
    if section.pretrained is not None:
        if not section.pretrained.is_file():
            what = "is a folder" if section.pretrained.is_dir() else why_missing(section.pretrained)
            raise RecipeError(
                f"model.pretrained: {section.pretrained} {what}; it is a checkpoint file of AVION or MM-TS (see "
                "docs/reproduction.md), given with --set model.pretrained=FILE"
            )
        given["media"]["pretrained"], given["text"]["pretrained"] = avion_weights(section.pretrained)
    if section.text.takes("vocabulary"):
        given["text"]["vocabulary"] = Vocabulary.from_json(once(lambda: _words(split, run, trained)))
    _check_kind(section, split)
    if section.media.tower == FEATURES:
        readable = [medium for medium in split.media if why_unreadable_features(medium.path) is None] or split.media
        media: MediaTower | int = feature_rows(readable[:1]).shape[1]
    else:
        media = section.media.build(**given["media"])
    text = section.text.build(**given["text"])
    return build_two_tower(media, text, width=section.width, **section.head.model_dump())


def _words(split: Split, run: RunDirectory, trained: bool) -> Any:
    """Return the words saved with a run as JSON, after saving those of the captions of `split` with a new run."""
    if not trained and not run.vocabulary_file.exists():
        write_json(run.vocabulary_file, build_vocabulary(split.captions).to_json())
    if not run.vocabulary_file.exists():
        raise RunError(f"{run.path} has no vocabulary.json, which its text tower needs")
    return read_json(run.vocabulary_file)


def _check_kind(section: Model, split: Split) -> None:
    """Raise DataError if the data are of another kind than the media side takes."""
    medium, kind = split.media[0], section.kind
    if medium.kind != kind:
        raise DataError(
            f"{medium.path} (id {medium.id}) is {WITH_ARTICLE[medium.kind]}, and the recipe has model.{kind}"
        )
    if medium.is_features != (section.media.tower == FEATURES):
        what = "holds features" if medium.is_features else "holds no features"
        raise DataError(
            f"{medium.path} (id {medium.id}) {what}, and the recipe has the tower {section.media.tower!r}; "
            f"the tower {FEATURES!r} takes features, and the others pixels"
        )


def prepare_inputs(model: TwoTower, split: Split) -> Inputs:
    """Compute the features of frozen towers, or find them in the cache; read those computed beforehand."""
    media_tower, text_tower = model.media_tower, model.text_tower
    assert text_tower is not None
    media: Rows | Sequence[Medium] = split.media
    if media_tower is None:
        media = feature_rows(split.media)
    elif is_frozen(media_tower):
        media = media_features(media_tower, split.media)
    return Inputs(split, media, text_features(text_tower, split.captions) if is_frozen(text_tower) else split.captions)


def training_batches(
    model: TwoTower, inputs: Inputs, plan: EpochPlan, data: Data, seed: int, with_relevance: bool
) -> Callable[[int, int], Iterator[Batch]]:
    """Return what yields the batches of an epoch from a given one on; images are changed as `data.augment` says.

    Of several processes each gets its own share of the media and the text.
    """
    media: FeatureRows | Pixels
    if not isinstance(inputs.media, np.ndarray):
        tower = model.media_tower
        assert tower is not None
        augmentation = Augmentation(**data.augment.model_dump()) if data.augment is not None else None
        media = Pixels(inputs.media, tower.size, tower.resize, tower.sampling, augmentation, seed)
        workers = data.workers
    else:
        media, workers = FeatureRows(inputs.media), 0
    text: FeatureRows | TokenizedCaptions
    if not isinstance(inputs.text, np.ndarray):
        assert model.text_tower is not None
        text = TokenizedCaptions(model.text_tower.tokenize, inputs.text)
    else:
        text = FeatureRows(inputs.text)
    return lambda epoch, first: make_loader(
        inputs.split,
        plan,
        media,
        text,
        epoch,
        first,
        workers,
        process=(process_index(), num_processes()),
        with_relevance=with_relevance,
    )


def embed_split(model: TwoTower, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the unit embeddings of a split: media (N, D) and text (M, D), rows in file order."""
    return embed_media(model, inputs.media), embed_text(model, inputs.text)
