"""The `model` section of a recipe: two towers, whose classes describe their options, and their heads."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

import torch
import yaml
from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from mmts.errors import RecipeError, nearest
from mmts.models import Vocabulary, base, load_image_tower, load_text_tower, load_video_tower
from mmts.models.trainable import Form, set_trainable
from mmts.models.video_towers import FramesTower
from mmts.recipe import components
from mmts.recipe.components import IMAGE_TOWER, TEXT_TOWER, VIDEO_TOWER, Family, validated_at
from mmts.recipe.section import Section
from mmts.recipe.sections import File

FEATURES = "features"
"""The name that stands for no media tower: the data hold features computed beforehand."""
_FRAME = IMAGE_TOWER._replace(key="image")  # the image tower inside the video tower `frames`
_KEYS = ("size", "frames", "sampling", "stride")  # parameters of a tower that are keys beside `options`
_YOURS = "a class of yours (`file.py:Class` or `module:Class`)"
TowerName = Annotated[str | None, Field(description=f"A built-in tower, {_YOURS}, or a Hugging Face name or folder.")]
_SIZE = "Side of the square input in pixels (default: the tower's own)."
Size = Annotated[int | None, Field(ge=8, le=4096, description=_SIZE)]


def whole_start(start: str) -> str:
    """Return the name of a run or a pretrained pair with an absolute path, if it names one."""
    is_tag = start.startswith("open_clip:")  # or a file of weights
    library, slash, place = start.partition("/") if is_tag else ("", "", start)
    path = Path(place).expanduser()
    return f"{library}{slash}{path.absolute()}" if (path.is_file() if is_tag else path.exists()) else start


class Lora(Section):
    """Low-rank additions to the linear layers of a tower (docs/pretrained.md)."""

    rank: int = Field(8, ge=1)
    """Rank of each addition."""
    alpha: int = Field(16, ge=1)
    """An addition is multiplied by alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Ends of the names of the linear layers to adapt, such as `q_proj` (default: the projections of attention of a
    CLIP, SigLIP, BERT or ViT; all linear layers of other towers)."""


class Tower(Section):
    """One side of the model: a built-in tower, a class of yours, or a Hugging Face name or folder."""

    family: ClassVar[Family]
    load: ClassVar[Callable[..., base.Tower]]

    tower: TowerName
    train: Form = "head"
    lora: Lora | None = None
    """The size and the place of the additions, for `train: lora`."""
    learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the tower after the warm-up, if it is another than `train.learning_rate`; it follows the same
    schedule. The head keeps that of `train`."""
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

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> "Tower":
        if self.lora is not None and self.train != "lora":
            raise ValueError(f"lora is for train: lora, and train is {self.train}")
        if self.learning_rate is not None and not self.trains_tower:
            raise ValueError(f"learning_rate is the tower's, and with train: {self.train} the tower does not train")
        return self

    @property
    def trains_tower(self) -> bool:
        """Whether something of the tower trains, not only the head."""
        return self.train not in ("none", "head")

    @classmethod
    def place(cls) -> str:
        """Return the key of this section in a recipe."""
        return f"model.{cls.family.word.removesuffix(' tower')}"

    def component(self) -> Any:
        """Return the class of the tower; None if `model.start` brings it, or the data hold its features."""
        if self.tower is None or (self.tower == FEATURES and self.family is not TEXT_TOWER):
            return None
        return components.component_named(self.family, self.tower, self.place(), {})

    def takes(self, parameter: str) -> bool:
        """Return whether the constructor of the tower has a parameter of this name."""
        component = self.component()
        return component is not None and parameter in inspect.signature(component).parameters

    def arguments(self) -> dict[str, Any]:
        """Return the options, and the keys beside them, as the constructor takes them."""
        keys = {key: getattr(self, key) for key in _KEYS if hasattr(self, key) and self.takes(key)}
        return {**keys, **self.options}

    def build(self, **given: Any) -> Any:
        """Return the tower; `given` are its `vocabulary` and `pretrained`, if it takes them."""
        assert self.tower is not None
        name = self.component() if ":" in self.tower else self.tower
        tower = type(self).load(name, **given, **self.arguments())
        if self.train != "all" and tower.from_scratch:
            raise RecipeError(_must_train(self))
        return tower

    def set_trainable(self, tower: base.Tower) -> None:
        """Let so much of the tower train as `train` says. Raises RecipeError if the tower cannot train so."""
        options = {} if self.lora is None else self.lora.model_dump()
        set_trainable(tower, self.train, **options)

    def check(self, pretrained: bool) -> None:
        """Raise RecipeError for a size, or a combination of options, that the tower cannot have."""
        component = self.component()
        if component is None:
            if self.tower == FEATURES and self.trains_tower:
                what = f"the tower {FEATURES!r} has nothing to train; set train to head"
                raise RecipeError(f"{self.place()}.train is {self.train}, but {what}")
            return
        self._check_keys(component, "size", "frames")
        if component.from_scratch and not pretrained and self.options.get("weights") is None:
            if self.train != "all":
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
                base.make_tower(component, str(self.tower), **arguments)
        except RecipeError as error:
            raise RecipeError(f"{self.place()}: {error}") from None


def _must_train(section: Tower) -> str:
    starts = f"{section.place()}: the tower {section.tower!r} starts from random weights"
    return f"{starts}, so it has to train: set train to all"


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


def _is_run_on_videos(start: Any) -> bool:
    """Return whether `model.start` names a run whose media are videos."""
    from mmts.recipe.recipe import load_yaml  # which reads recipes, and so knows this section

    try:
        content = load_yaml((Path(str(start)).expanduser() / "recipe.yaml").read_text(encoding="utf-8"))
        return bool(content["model"]["video"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError):
        return False  # opening the pair reports what is wrong


def _with_start(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section of a model with `start`, without defaults for what the pair brings."""
    brings = f"model.start brings both towers and their width: leave {{}} out ({model['start']})"
    for key in ("width", "pretrained"):
        if model.get(key) is not None:
            raise ValueError(brings.format(key))
    result = {**model, "width": None}
    for side in ("image", "video", "text"):
        section = model.get(side) or {}
        if isinstance(section, Mapping):
            for key in ("tower", "options", *(("size", "frames") if side == "video" else ())):
                if section.get(key):
                    raise ValueError(brings.format(f"{side}.{key}"))
            if side == "text" or model.get(side) is not None:
                result[side] = {**section, "tower": None}
    head = model.get("head") or {}
    if isinstance(head, Mapping):
        result["head"] = {"kind": "residual", **head}
        if (kind := result["head"]["kind"]) not in ("residual", "none"):
            raise ValueError(f"head.kind {kind} would throw away what model.start has learned; use residual or none")
    return result


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

    tower: str | None = "frames"
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

    kind: Literal["linear", "two-layer", "residual", "none"] = "two-layer"
    """`residual` (the default with `model.start`): the features plus a two-layer map that starts at zero, so that
    training starts at the pretrained pair; `none`: the features as they are."""
    hidden: int = Field(512, ge=1)
    """Width of the hidden layer."""
    input_dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout of the features, after they are normalized; it keeps heads on few pairs from learning them by heart."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout after the hidden layer."""
    layer_norm: bool = True
    """Normalize the features first, so that towers of any scale train alike."""


class Model(Section):
    """Two towers and their heads; one of `image` and `video` is the media side."""

    start: Annotated[str, AfterValidator(whole_start)] | None = None
    """A run, a Hugging Face CLIP or SigLIP (name or folder), a sentence-transformers CLIP folder, or
    `open_clip:NAME/TAG`: both towers, and a run's heads, start from it, and training starts at its embeddings."""

    image: ImageTower | None = None
    """The image side; the default if a model names no media side."""
    video: VideoTower | None = None
    """The video side, in place of images."""
    text: TextTower = TextTower()
    """The text side."""
    head: Head = Head()
    """Both sides' projection to the common space."""
    width: int | None = Field(256, ge=1)
    """Width of the embeddings; with `start` it is that of the pair."""
    pretrained: File | None = None
    """A checkpoint of AVION or MM-TS that fills both towers, `space-time-vit` and `clip-text`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        """Choose the media side; with `start`, drop the defaults of the keys that the pair sets."""
        if not isinstance(value, Mapping):
            return value
        start = value.get("start")
        if value.get("image") is None and value.get("video") is None:
            value = {**value, "video" if start is not None and _is_run_on_videos(start) else "image": {}}
        return value if start is None else _with_start(value)

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
        if self.width is None and self.start is None:
            raise RecipeError("model.width is empty, which only model.start can fill: give a number")
        for tower in (self.media, self.text):
            if tower.tower is None and self.start is None:
                raise RecipeError(f"{tower.place()}.tower is empty, which only model.start can fill: name a tower")
            tower.check(self.pretrained is not None)
        return self

    @property
    def sides(self) -> tuple[ImageTower | VideoTower, TextTower]:
        """The media side and the text side."""
        return self.media, self.text

    @property
    def tower_rates(self) -> dict[str, float]:
        """The learning rates of towers that have their own, by the beginning of their parameters' names."""
        towers = zip(("media_tower.", "text_tower."), self.sides, strict=True)
        return {name: side.learning_rate for name, side in towers if side.learning_rate is not None}

    @property
    def trains(self) -> bool:
        """Whether a tower or a head has something to train."""
        heads = self.head.kind != "none"
        return any(side.trains_tower or (heads and side.train != "none") for side in self.sides)

    @property
    def is_untouched(self) -> bool:
        """Whether the model is `start` as it is, so that no checkpoint needs to hold anything of it."""
        return self.start is not None and all(side.train == "none" for side in self.sides)

    @property
    def embeddings(self) -> Path | None:
        """The file of embeddings that replaces a model (docs/pretrained.md), or None if there is a model."""
        file = Path(str(self.start)).expanduser()
        return file if file.suffix == ".npz" else None

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
        names = (self.text.tower, self.media.tower, self.media.options.get("image"))
        return [str(name) for name in names if name is not None]
