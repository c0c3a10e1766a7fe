"""The `model` section of a recipe: two towers, whose classes describe their options, and their heads."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_type_hints

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from mmts.errors import RecipeError, nearest
from mmts.models import Vocabulary, base, load_image_tower, load_text_tower, load_video_tower
from mmts.models.video_towers import FramesTower
from mmts.recipe.components import (
    IMAGE_TOWER,
    TEXT_TOWER,
    VIDEO_TOWER,
    Family,
    Trust,
    component_named,
    section_of,
    validated_at,
)
from mmts.recipe.section import Section

FEATURES = "features"
"""The name of a media tower that does not exist: the data hold features computed beforehand."""
_FRAME = IMAGE_TOWER._replace(key="image")  # the image tower inside the video tower `frames`
_KEYS = ("size", "frames", "sampling", "stride")
"""Parameters of a tower that have keys of their own beside `options`."""


def _trust(info: ValidationInfo) -> Trust:
    return (lambda name: True) if info.context is None else info.context["trust"]


class Tower(Section):
    """One side of the model: a built-in tower, a class of yours, or a Hugging Face name or folder."""

    family: ClassVar[Family]
    load: ClassVar[Callable[..., base.Tower]]

    tower: str
    """A built-in tower, a class of yours (`file.py:Class` or `module:Class`), or a Hugging Face name or folder."""
    frozen: bool = True
    """Features are computed once and cached; `false` trains the tower too."""
    options: dict[str, Any] = Field({}, validate_default=True)
    """The tower's own options."""

    @field_validator("options", mode="before")
    @classmethod
    def _are_the_towers_own(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("tower")
        if name is None or not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return value  # pydantic says what is wrong
        place, trust = f"model.{cls.side()}", _trust(info)
        options = _checked_options(cls.family, name, value, place, "options", trust)
        if name == "frames" and cls.family is VIDEO_TOWER:
            inner = options["image_options"] or {}
            options["image_options"] = _checked_options(
                _FRAME, options["image"], inner, f"{place}.options", "image_options", trust
            )
        return options

    @classmethod
    def side(cls) -> str:
        """Return the key of this section: image, video or text."""
        return cls.family.word.removesuffix(" tower")

    def component(self, trust: Trust = lambda name: True) -> type[base.Tower] | None:
        """Return the class of the tower; None for features computed beforehand."""
        if self.tower == FEATURES and self.family is not TEXT_TOWER:
            return None
        return component_named(self.family, self.tower, f"model.{self.side()}", {}, trust)

    def takes(self, parameter: str) -> bool:
        """Return whether the constructor of the tower has a parameter of this name."""
        component = self.component()
        return component is not None and parameter in inspect.signature(component).parameters

    def build(self, **given: Any) -> Any:
        """Return the tower, frozen if it should be. The run may give it `vocabulary` and `pretrained`."""
        keys = {key: getattr(self, key) for key in _KEYS if hasattr(self, key) and self.takes(key)}
        name = self.component() if ":" in self.tower else self.tower
        tower = type(self).load(name, **keys, **given, **self.arguments())
        if self.frozen:
            if tower.from_scratch:
                raise RecipeError(_must_train(f"model.{self.side()}", self.tower))
            tower.freeze()
        return tower

    def arguments(self) -> dict[str, Any]:
        """Return the options as the constructor takes them."""
        return self.options

    def check(self, pretrained: bool, trust: Trust) -> None:
        """Raise RecipeError for a size, or options, that the tower cannot have."""
        place, component = f"model.{self.side()}", self.component(trust)
        if component is None:
            return
        hints = get_type_hints(component.__init__, include_extras=True)
        for key in ("size", "frames"):
            value = getattr(self, key, None)
            if value is not None and not self.takes(key):
                raise RecipeError(f"{place}.{key} is {value}, but the tower {self.tower!r} takes no {key}")
            if value is not None:
                validated_at(f"{place}.{key}", hints[key], value, value)
        if component.from_scratch and not pretrained and self.options.get("weights") is None:
            if self.frozen:
                raise RecipeError(_must_train(place, self.tower))
            _check_combination(component, self.tower, place, size=getattr(self, "size", None), **self.options)


def _must_train(place: str, tower: str) -> str:
    return f"{place}: the tower {tower!r} starts from random weights, so it has to train: set frozen to false"


def _checked_options(
    family: Family, name: str, options: Mapping[str, Any], place: str, key: str, trust: Trust
) -> dict[str, Any]:
    """Return a tower's options, at `place.key` in the recipe, with its defaults. Raises RecipeError naming the key."""
    if name == FEATURES and family in (IMAGE_TOWER, VIDEO_TOWER):
        if options:
            raise RecipeError(f"{place}.{key}: the tower {FEATURES!r} has no options")
        return {}
    section, prepared = section_of(family, {**options, family.key: name}, place, trust)
    known = [option for option in section.model_fields if option != family.key]
    for option in options:
        if option not in known:
            raise RecipeError(f"{place}.{key}: unknown key {option!r}; {nearest(option, known)}")
    result = validated_at(f"{place}.{key}", section, prepared, options)
    return {name: value for name, value in result if name != family.key}


def _check_combination(component: type[base.Tower], name: str, place: str, **arguments: Any) -> None:
    """Make a tower of random weights. Raises RecipeError if its options contradict each other."""
    if "vocabulary" in inspect.signature(component).parameters:
        arguments["vocabulary"] = Vocabulary(("word",))
    without_memory = component.__module__.startswith("mmts.")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta" if without_memory else "cpu"):
            base.make_tower(component, name, **arguments)
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from None


class ImageTower(Tower):
    """The image side; `size` is the side of the square input in pixels (default: the tower's own)."""

    family = IMAGE_TOWER
    load = load_image_tower

    tower: str = "efficientnet-lite0"
    """A built-in tower, a class of yours (`file.py:Class` or `module:Class`), or a Hugging Face name or folder."""
    size: int | None = Field(None, ge=8, le=4096)
    """Side of the square input in pixels (default: the tower's own)."""


class VideoTower(Tower):
    """The video side: clips of `frames` frames, chosen by `sampling`."""

    family = VIDEO_TOWER
    load = load_video_tower

    tower: str = "frames"
    """A built-in tower, or a class of yours (`file.py:Class` or `module:Class`)."""
    size: int | None = Field(None, ge=8, le=4096)
    """Side of the square input in pixels (default: the tower's own)."""
    frames: int | None = Field(None, ge=1, le=1024)
    """Frames of a clip (default: 16, or as many as the tower's weights have)."""
    sampling: base.Sampling = "random"
    """`uniform`: the middles of so many equal parts; `random`: a random frame of each part in training, the middles
    when judged; `stride`: frames `stride` apart, from a random place in training, from the middle when judged."""
    stride: int = Field(4, ge=1)
    """Frames from one to the next, for `sampling: stride`."""

    def arguments(self) -> dict[str, Any]:
        """Return the options as the constructor takes them: a class of yours as the tower of the frames is imported."""
        image = self.options.get("image")
        if self.tower != "frames" or ":" not in str(image):
            return self.options
        return {**self.options, "image": component_named(_FRAME, image, "model.video.options", {}, lambda name: True)}

    def check(self, pretrained: bool, trust: Trust) -> None:
        """Raise RecipeError for a size, or options, that the tower cannot have, those of its frames too."""
        super().check(pretrained, trust)
        if self.tower == "frames":
            image = component_named(_FRAME, self.options["image"], "model.video.options", {}, trust)
            if image.from_scratch:
                _check_combination(FramesTower, "frames", "model.video", size=self.size, **self.arguments())


class TextTower(Tower):
    """The text side."""

    family = TEXT_TOWER
    load = load_text_tower

    tower: str = "minilm"
    """A built-in tower, a class of yours (`file.py:Class` or `module:Class`), or a Hugging Face name or folder."""


class Head(Section):
    """The projection from a tower's features to the common space."""

    kind: Literal["linear", "two-layer", "none"] = "two-layer"
    """`none`: the tower's features as they are."""
    hidden: int = Field(512, ge=1)
    """Width of the hidden layer of `two-layer`."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout after the hidden layer of `two-layer`."""
    layer_norm: bool = True
    """Normalize the features first, so that towers of any scale train alike."""


class Model(Section):
    """Two towers and their heads; `width` is that of the embeddings.

    One of `image` and `video` is the media side. `pretrained` is a checkpoint of AVION or MM-TS that fills both towers.
    """

    image: ImageTower | None = None
    """The image side; the default if a model names no media side."""
    video: VideoTower | None = None
    """The video side, in place of images."""
    text: TextTower = TextTower()
    """The text side."""
    head: Head = Head()
    """Both sides' projection to the common space."""
    width: int = Field(256, ge=1)
    """Width of the embeddings."""
    pretrained: Path | None = None
    """A checkpoint of AVION or MM-TS that fills both towers, `space-time-vit` and `clip-text`."""

    @model_validator(mode="before")
    @classmethod
    def _images_unless_videos(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("image") is None and value.get("video") is None:
            return {**value, "image": {}}
        return value

    @model_validator(mode="after")
    def _one_media_side(self, info: ValidationInfo) -> "Model":
        if self.image is not None and self.video is not None:
            raise ValueError("give one of `image` and `video`, not both (null takes one out)")
        if self.pretrained is not None:
            for side, section, filled in (("video", self.video, "space-time-vit"), ("text", self.text, "clip-text")):
                if section is None or section.tower != filled:
                    other = None if section is None else section.tower
                    raise ValueError(f"pretrained fills the {side} tower {filled!r}, not {other!r}")
                if section.options.get("weights") is not None:
                    raise ValueError(f"pretrained fills the {side} tower; leave its option weights out")
            if self.head.kind != "none":
                raise ValueError(f"pretrained needs head.kind none, not {self.head.kind}")
        for tower in (self.media, self.text):
            tower.check(self.pretrained is not None, _trust(info))
        return self

    @property
    def kind(self) -> Literal["image", "video"]:
        """The kind of media that the model takes."""
        return "image" if self.image is not None else "video"

    @property
    def media(self) -> ImageTower | VideoTower:
        """The media side."""
        side = self.image or self.video
        assert side is not None
        return side

    @property
    def tower_names(self) -> list[str]:
        """The names of all towers, that of the frames in a video tower too."""
        return [self.text.tower, self.media.tower, str(self.media.options.get("image", ""))]
