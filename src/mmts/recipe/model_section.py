"""The `model` section of a recipe: two towers, whose classes describe their options, and their heads."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator

from mmts.errors import RecipeError, nearest
from mmts.models import Vocabulary, base, load_image_tower, load_text_tower, load_video_tower
from mmts.models.video_towers import FramesTower
from mmts.recipe import components
from mmts.recipe.components import IMAGE_TOWER, TEXT_TOWER, VIDEO_TOWER, Family, validated_at
from mmts.recipe.section import Section

FEATURES = "features"
"""The name that stands for no media tower: the data hold features computed beforehand."""
_FRAME = IMAGE_TOWER._replace(key="image")  # the image tower inside the video tower `frames`
_KEYS = ("size", "frames", "sampling", "stride")  # parameters of a tower that are keys beside `options`
_YOURS = "a class of yours (`file.py:Class` or `module:Class`)"
TowerName = Annotated[str, Field(description=f"A built-in tower, {_YOURS}, or a Hugging Face name or folder.")]
_SIZE = "Side of the square input in pixels (default: the tower's own)."
Size = Annotated[int | None, Field(ge=8, le=4096, description=_SIZE)]


class Tower(Section):
    """One side of the model: a built-in tower, a class of yours, or a Hugging Face name or folder."""

    family: ClassVar[Family]
    load: ClassVar[Callable[..., base.Tower]]

    tower: TowerName
    frozen: bool = True
    """Features are computed once and cached; `false` trains the tower too."""
    options: dict[str, Any] = Field({}, validate_default=True)
    """The tower's own options."""

    @field_validator("options", mode="before")
    @classmethod
    def _are_the_towers_own(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("tower")
        if name is None or not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return value  # pydantic reports the mistake
        place = cls.place()
        options = _checked_options(cls.family, name, value, place, "options")
        if (cls.family, name) == (VIDEO_TOWER, "frames"):
            image, inner, place = options["image"], options["image_options"] or {}, f"{place}.options"
            options["image_options"] = _checked_options(_FRAME, image, inner, place, "image_options")
        return options

    @classmethod
    def place(cls) -> str:
        """Return the key of this section in a recipe."""
        return f"model.{cls.family.word.removesuffix(' tower')}"

    def component(self) -> Any:
        """Return the class of the tower, or None if the data hold features computed beforehand."""
        if self.tower == FEATURES and self.family is not TEXT_TOWER:
            return None
        return components.component_named(self.family, self.tower, self.place(), {})

    def takes(self, parameter: str) -> bool:
        """Return whether the constructor of the tower has a parameter of this name."""
        return parameter in inspect.signature(self.component()).parameters

    def arguments(self) -> dict[str, Any]:
        """Return the options, and the keys beside them, as the constructor takes them."""
        keys = {key: getattr(self, key) for key in _KEYS if hasattr(self, key) and self.takes(key)}
        return {**keys, **self.options}

    def build(self, **given: Any) -> Any:
        """Return the tower, frozen if it should be; `given` are its `vocabulary` and `pretrained`, if it takes them."""
        name = self.component() if ":" in self.tower else self.tower
        tower = type(self).load(name, **given, **self.arguments())
        if self.frozen:
            if tower.from_scratch:
                raise RecipeError(_must_train(self))
            tower.freeze()
        return tower

    def check(self, pretrained: bool) -> None:
        """Raise RecipeError for a size, or a combination of options, that the tower cannot have."""
        component = self.component()
        if component is None:
            return
        self._check_keys(component, "size", "frames")
        if component.from_scratch and not pretrained and self.options.get("weights") is None:
            if self.frozen:
                raise RecipeError(_must_train(self))
            self._try(component)

    def _check_keys(self, component: type[base.Tower], *keys: str) -> None:
        """Raise RecipeError for the value of a key beside the options that a tower's constructor does not take."""
        hints = get_type_hints(component.__init__, include_extras=True)
        for key in keys:
            value, place = getattr(self, key, None), f"{self.place()}.{key}"
            if value is not None:
                if key not in inspect.signature(component).parameters:
                    raise RecipeError(f"{place} is {value}, but the tower {component.__name__} takes no {key}")
                validated_at(place, hints.get(key, Any), value, value)

    def _try(self, component: type[base.Tower]) -> None:
        """Make a tower of random weights; those of mmts take no memory for it."""
        arguments = self.arguments() | ({"vocabulary": Vocabulary(("word",))} if self.takes("vocabulary") else {})
        device = "meta" if component.__module__.startswith("mmts.") else "cpu"
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device):
                base.make_tower(component, self.tower, **arguments)
        except RecipeError as error:
            raise RecipeError(f"{self.place()}: {error}") from None


def _must_train(section: Tower) -> str:
    starts = f"{section.place()}: the tower {section.tower!r} starts from random weights"
    return f"{starts}, so it has to train: set frozen to false"


def _checked_options(family: Family, name: str, options: Mapping[str, Any], place: str, key: str) -> dict[str, Any]:
    """Return a tower's options, at `place.key` in the recipe, with its defaults. Raises RecipeError naming the key."""
    if name == FEATURES and family in (IMAGE_TOWER, VIDEO_TOWER):
        if options:
            raise RecipeError(f"{place}.{key}: the tower {FEATURES!r} has no options")
        return {}
    section, prepared = components.section_of(family, {**options, family.key: name}, place)
    known = [option for option in section.model_fields if option != family.key]
    for option in options:
        if option not in known:
            raise RecipeError(f"{place}.{key}: unknown key {option!r}; {nearest(option, known)}")
    result = validated_at(f"{place}.{key}", section, prepared, options)
    return {name: value for name, value in result if name != family.key}


class ImageTower(Tower):
    """The image side; `size` is the side of the square input in pixels (default: the tower's own)."""

    family = IMAGE_TOWER
    load = load_image_tower

    tower: TowerName = "efficientnet-lite0"
    size: Size = None


class VideoTower(Tower):
    """The video side: clips of `frames` frames, chosen by `sampling`."""

    family = VIDEO_TOWER
    load = load_video_tower

    tower: str = "frames"
    """A built-in tower, or a class of yours (`file.py:Class` or `module:Class`)."""
    size: Size = None
    frames: int | None = Field(None, ge=1, le=1024)
    """Frames of a clip (default: 16, or as many as the tower's weights have)."""
    sampling: base.Sampling = "random"
    """`uniform`: the middles of so many equal parts; `random`: a random frame of each part in training, the middles
    when judged; `stride`: frames `stride` apart, from a random place in training, from the middle when judged."""
    stride: int = Field(4, ge=1)
    """Frames from one to the next, for `sampling: stride`."""

    def arguments(self) -> dict[str, Any]:
        """Return the options, and the keys beside them; a class of yours as the tower of the frames is imported."""
        outside = self.tower == "frames" and ":" in str(self.options["image"])
        return super().arguments() | ({"image": self._image()} if outside else {})

    def check(self, pretrained: bool) -> None:
        """Raise RecipeError for a size, or options, that the tower or its frames' tower cannot have."""
        super().check(pretrained)
        if self.tower == "frames":
            image = self._image()
            self._check_keys(image, "size")
            if image.from_scratch:
                self._try(FramesTower)

    def _image(self) -> Any:
        return components.component_named(_FRAME, self.options["image"], f"{self.place()}.options", {})


class TextTower(Tower):
    """The text side."""

    family = TEXT_TOWER
    load = load_text_tower

    tower: TowerName = "minilm"


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
    def _one_media_side(self) -> "Model":
        if self.image is not None and self.video is not None:
            raise ValueError("give one of `image` and `video`, not both (null takes one out)")
        if self.pretrained is not None:
            for side, section, filled in (("video", self.video, "space-time-vit"), ("text", self.text, "clip-text")):
                name = section and section.tower
                if section is None or name != filled:
                    raise ValueError(f"pretrained fills the {side} tower {filled!r}, not {name!r}")
                if section.options.get("weights") is not None:
                    raise ValueError(f"pretrained fills the {side} tower; leave its option weights out")
            if self.head.kind != "none":
                raise ValueError(f"pretrained needs head.kind none, not {self.head.kind}")
        for tower in (self.media, self.text):
            tower.check(self.pretrained is not None)
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
