"""A run as objects: what `mmts train` and `mmts evaluate` build from a recipe, and the model alone for others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmts.concepts import ConceptDistribution
from mmts.data.formats.collect import WITH_ARTICLE
from mmts.data.media.load import feature_rows, why_unreadable
from mmts.data.media.video import FrameSampling
from mmts.data.records import Dataset, Medium, Split
from mmts.distributed.processes import once
from mmts.errors import DataError, InputError, RecipeError, RunError
from mmts.files import read_json, why_missing, write_json
from mmts.models import TwoTower, Vocabulary, build_two_tower, build_vocabulary
from mmts.models.base import MediaTower, TextTower
from mmts.models.clip import avion_weights
from mmts.recipe.model_section import FEATURES, Model
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.checkpoint import check_frozen, load_checkpoint
from mmts.training.concepts import concepts_of_queries
from mmts.training.splits import open_data
from mmts.training.start import started


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
        text, media = concepts_of_queries(self.recipe.concepts, self.concepts, split, self.recipe.data.relevance)
        return text, self.concepts.groups_of(text), self.concepts.groups_of(media)


def load_model(run: RunDirectory, media: Sequence[Medium] = (), checkpoint: str = "best") -> TwoTower:
    """Return a run's model with the weights of a checkpoint, frozen towers included.

    media: examples of its inputs; without any, a model on precomputed features opens the run's data to learn their
    width. Raises RunError if the checkpoint is missing or the recipe cannot rebuild the model, and DataError if the
    media are of another kind than the model's.
    """
    check_can_be_rebuilt(run)
    recipe = run.recipe()
    if not media and recipe.model.media.tower == FEATURES:
        media = open_data(recipe.data).media
    model = build_model(recipe.model, media, run)
    if not recipe.model.is_untouched:
        state = load_weights(model, run, checkpoint)
        _set_scale(model, recipe if "objective" not in run.own_objects() else None, state.get("objective"))
    return model


def _set_scale(model: TwoTower, recipe: Recipe | None, objective: Any) -> None:
    """Give a model the temperature and logit bias of its objective, if each is one number; `recipe` describes it."""
    state = objective if isinstance(objective, Mapping) else {}
    log_value, bias = state.get("temperature.log_value"), state.get("bias")
    policy = None if recipe is None else getattr(recipe.objective, "temperature", None)
    if isinstance(log_value, Tensor) and log_value.numel() == 1:
        model.temperature = math.exp(float(log_value))
    elif policy is not None and getattr(policy, "rule", None) == "fixed":
        model.temperature = float(policy.value)
    if isinstance(bias, Tensor) and bias.numel() == 1:
        model.logit_bias = float(bias)


def check_can_be_rebuilt(run: RunDirectory) -> None:
    """Raise RunError if the run's model was given to `mmts.train` as an object, which no recipe describes."""
    if own := run.own_objects().get("model"):
        what = f"{run.path} was trained on a model given as an object ({own}), which its recipe cannot rebuild"
        raise RunError(f"{what}; `mmts compare` and `mmts report` read its scores; for other data use mmts.metrics")


def load_weights(model: TwoTower, run: RunDirectory, checkpoint: str) -> dict[str, Any]:
    """Load the named checkpoint and return it; a run without val has no best one, so "best" means its last."""
    file = run.checkpoint_file(checkpoint)
    if checkpoint == "interpolated" and not file.exists():
        raise RunError(f"there is no checkpoint {file}; `mmts evaluate {run.path} --interpolate 0,0.1,...,1` makes it")
    absent = checkpoint == "best" and not file.exists()
    state = load_checkpoint(run.checkpoint_file("last") if absent else file)
    if absent and state["best"] > -math.inf:
        raise RunError(f"there is no checkpoint {file}; --checkpoint last takes the last one")
    model.load_trainable_state_dict(state["model"])
    check_frozen(state, model)
    return state


def build_model(
    section: Model, media: Sequence[Medium], run: RunDirectory, captions: Sequence[str] | None = None
) -> TwoTower:
    """Return the model of a recipe, frozen towers included.

    A text tower trained from scratch takes its words from `captions`, which are saved with the run; without captions it
    takes the saved words. A model on precomputed features takes their width from `media`, which others can do without.
    """
    if media:
        check_kind(section, media[0])
    model = _new_model(section, media, run, captions) if section.start is None else started(section, media)
    if section.start is not None and model.media_tower is not None and media and media[0].is_features:
        raise DataError(f"{media[0].path} (id {media[0].id}) holds features, and {section.start} takes pixels")
    towers, heads = (model.media_tower, model.text_tower), (model.media_head, model.text_head)
    for side, tower, head in zip(section.sides, towers, heads, strict=True):
        if tower is not None:
            side.set_trainable(tower)
        if side.train == "none":
            head.requires_grad_(False)
    model.train()  # what is frozen goes into evaluation mode
    model.frozen_hash = model.hash_frozen()
    return model


def _new_model(section: Model, media: Sequence[Medium], run: RunDirectory, captions: Sequence[str] | None) -> TwoTower:
    """Return a model with new heads on the towers that the section names."""
    given: dict[str, dict[str, Any]] = {"media": {}, "text": {}}
    if (file := section.pretrained) is not None:
        if not file.is_file():
            raise RecipeError(
                f"model.pretrained: {file} {'is a folder' if file.is_dir() else why_missing(file)}; give a checkpoint "
                "file of AVION or MM-TS (see docs/reproduction.md) by --set model.pretrained=FILE"
            )
        given["media"]["pretrained"], given["text"]["pretrained"] = avion_weights(file)
    if section.text.takes("vocabulary"):
        given["text"]["vocabulary"] = Vocabulary.from_json(once(lambda: _words(run, captions)))
    if section.media.tower == FEATURES:
        readable = next((medium for medium in media if why_unreadable(medium) is None), media[0])
        side: MediaTower | int = feature_rows([readable]).shape[1]
    else:
        side = section.media.build(**given["media"])
    text = section.text.build(**given["text"])
    assert section.width is not None  # only a pretrained pair brings its own
    return build_two_tower(side, text, width=section.width, **section.head.model_dump())


def check_kind(section: Model, medium: Medium) -> None:
    """Raise DataError unless a medium is of the kind that the model takes."""
    where, tower = f"{medium.path} (id {medium.id})", section.media.tower
    if medium.kind != section.kind:
        raise DataError(f"{where} is {WITH_ARTICLE[medium.kind]}, and the recipe has model.{section.kind}")
    if section.start is None and medium.is_features != (tower == FEATURES):
        what = "holds features" if medium.is_features else "holds no features"
        takes = f"the tower {FEATURES!r} takes features, and the others pixels"
        raise DataError(f"{where} {what}, and the recipe has the tower {tower!r}; {takes}")


def _words(run: RunDirectory, captions: Sequence[str] | None) -> Any:
    """Return the words saved with a run, as JSON; a new run saves those of its captions first."""
    if captions is not None and not run.vocabulary_file.exists():
        write_json(run.vocabulary_file, build_vocabulary(captions).to_json())
    if not run.vocabulary_file.exists():
        raise RunError(f"{run.path} has no vocabulary.json, which its text tower needs")
    return read_json(run.vocabulary_file)


# --- a model of the caller's own, which `mmts.train` takes in place of the recipe's -----------------------------------

_BARE = "<tensor>"  # the name of what `tokenize` returned, if that was a tensor and not a mapping


class _Media(MediaTower):
    def __init__(self, model: Any, frames: int | None) -> None:
        super().__init__(model.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), getattr(model, "resize", "stretch"))
        self.model, self.name = model, type(model).__name__
        self.frames = frames
        self.sampling = None if frames is None else FrameSampling(frames, "random")

    def features(self, pixels: Tensor) -> Tensor:
        return self.model.embed_media(pixels)  # type: ignore[no-any-return]


class _Features(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        return self.model.embed_media(rows)  # type: ignore[no-any-return]


class _Text(TextTower):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.name = model, type(model).__name__

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.model.tokenize(list(captions))
        return dict(tokens) if isinstance(tokens, Mapping) else {_BARE: tokens}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        return self.model.embed_text(tokens.get(_BARE, tokens))  # type: ignore[no-any-return]


def two_tower_of(model: nn.Module, medium: Medium) -> TwoTower:
    """Return a model of the caller's own (see `mmts.train`) as the trainer takes it, for data such as `medium`."""
    if isinstance(model, TwoTower):
        return model
    required = ["embed_media", "embed_text", "tokenize"]
    if not medium.is_features:
        required += ["image_size", "frames"] if medium.kind == "video" else ["image_size"]
    for attribute in required:
        if not hasattr(model, attribute):
            kind = type(model).__name__
            raise InputError(f"the model {kind} has no {attribute}, which these data need; help(mmts.train) lists all")
    text = _Text(model)
    if medium.is_features:
        return TwoTower(None, text, _Features(model), nn.Identity())
    frames = int(model.frames) if medium.kind == "video" else None  # type: ignore[arg-type]
    return TwoTower(_Media(model, frames), text, nn.Identity(), nn.Identity())
