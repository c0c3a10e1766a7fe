"""A run as objects: what `mmts train` and `mmts evaluate` build from a recipe, and the model alone for others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.data.formats.collect import WITH_ARTICLE
from mmts.data.media.load import feature_rows, why_unreadable
from mmts.data.records import Dataset, Medium, Split
from mmts.distributed.processes import once
from mmts.errors import DataError, RecipeError, RunError
from mmts.files import read_json, why_missing, write_json
from mmts.models import TwoTower, Vocabulary, build_two_tower, build_vocabulary
from mmts.models.base import MediaTower
from mmts.models.clip import avion_weights
from mmts.recipe.model_section import FEATURES, Model
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.checkpoint import load_checkpoint
from mmts.training.concepts import concepts_of
from mmts.training.splits import open_data


@dataclass(frozen=True)
class Experiment:
    """A run's folder, recipe, data, concepts of the training samples, and model."""

    run: RunDirectory
    recipe: Recipe
    dataset: Dataset
    concepts: ConceptDistribution
    model: TwoTower

    def groups(self, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Return the concept (N,) of every caption of a split, and the group of every caption (N,) and medium (M,)."""
        section = self.recipe.concepts
        concepts = concepts_of(section, self.concepts, split)
        text_groups = self.concepts.groups_of(concepts)
        if self.recipe.data.relevance != "graded":
            return concepts, text_groups, text_groups[split.first]
        own = concepts_of(section, self.concepts, split, of_media=True)  # the captions are not the media's own
        return concepts, text_groups, self.concepts.groups_of(own)


def load_model(run: RunDirectory, media: Sequence[Medium] = (), checkpoint: str = "best") -> TwoTower:
    """Return a run's model with the weights of a checkpoint, frozen towers included.

    media: what it will embed; without any, a model on precomputed features opens the run's data to learn their width.
    Raises RunError if there is no such checkpoint or the recipe cannot rebuild the model, and DataError if the media
    are of another kind than the model's.
    """
    check_can_be_rebuilt(run)
    recipe = run.recipe()
    section = recipe.model
    if not media and section.media.tower == FEATURES:
        media = open_data(recipe.data).media
    model = build_model(section, media or [Medium("none", Path("none"), ("",), kind=section.kind)], run)
    load_weights(model, run, checkpoint)
    return model


def check_can_be_rebuilt(run: RunDirectory) -> None:
    """Raise RunError if the run's model was given to `mmts.train` as an object, which no recipe describes."""
    if own := run.own_objects().get("model"):
        raise RunError(
            f"{run.path} was trained by mmts.train on a model given as an object ({own}), which its recipe cannot "
            "rebuild. Its scores are in metrics.json, and `mmts compare` and `mmts report` read them; for other data, "
            "embed them with your model and use mmts.metrics"
        )


def load_weights(model: TwoTower, run: RunDirectory, checkpoint: str) -> None:
    """Load the named checkpoint; a run without validation data has no best one, so "best" means its last."""
    file = run.checkpoint_file(checkpoint)
    if checkpoint == "best" and not file.exists():
        state = load_checkpoint(run.checkpoint_file("last"))
        if state["best"] > -math.inf:
            raise RunError(f"there is no checkpoint {file}; --checkpoint last takes the last one")
    else:
        state = load_checkpoint(file)
    model.load_trainable_state_dict(state["model"])


def build_model(
    section: Model, media: Sequence[Medium], run: RunDirectory, captions: Sequence[str] | None = None
) -> TwoTower:
    """Return the model of a recipe, frozen towers included.

    A text tower trained from scratch takes its words from `captions`, which are saved with the run; without captions it
    takes the saved words. A model on precomputed features takes their width from `media`.
    """
    given: dict[str, dict[str, Any]] = {"media": {}, "text": {}}
    if section.pretrained is not None:
        if not section.pretrained.is_file():
            what = "is a folder" if section.pretrained.is_dir() else why_missing(section.pretrained)
            raise RecipeError(
                f"model.pretrained: {section.pretrained} {what}; give a checkpoint file of AVION or MM-TS (see "
                "docs/reproduction.md) by --set model.pretrained=FILE"
            )
        sides = avion_weights(section.pretrained)
        given["media"]["pretrained"], given["text"]["pretrained"] = sides
    if section.text.takes("vocabulary"):
        given["text"]["vocabulary"] = Vocabulary.from_json(once(lambda: _words(run, captions)))
    _check_kind(section, media[0])
    if section.media.tower == FEATURES:
        readable = next((medium for medium in media if why_unreadable(medium) is None), media[0])
        side: MediaTower | int = feature_rows([readable]).shape[1]
    else:
        side = section.media.build(**given["media"])
    text = section.text.build(**given["text"])
    return build_two_tower(side, text, width=section.width, **section.head.model_dump())


def _words(run: RunDirectory, captions: Sequence[str] | None) -> Any:
    """Return the words saved with a run, as JSON; a new run saves those of its captions first."""
    if captions is not None and not run.vocabulary_file.exists():
        write_json(run.vocabulary_file, build_vocabulary(captions).to_json())
    if not run.vocabulary_file.exists():
        raise RunError(f"{run.path} has no vocabulary.json, which its text tower needs")
    return read_json(run.vocabulary_file)


def _check_kind(section: Model, medium: Medium) -> None:
    """Raise DataError if the data are of another kind than the media side takes."""
    if medium.kind != section.kind:
        raise DataError(
            f"{medium.path} (id {medium.id}) is {WITH_ARTICLE[medium.kind]}, and the recipe has model.{section.kind}"
        )
    if medium.is_features != (section.media.tower == FEATURES):
        what = "holds features" if medium.is_features else "holds no features"
        raise DataError(
            f"{medium.path} (id {medium.id}) {what}, and the recipe has the tower {section.media.tower!r}; "
            f"the tower {FEATURES!r} takes features, and the others pixels"
        )
