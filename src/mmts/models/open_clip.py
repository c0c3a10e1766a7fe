"""Pretrained pairs of open_clip, which is not installed with mmts: `open_clip:NAME/TAG`."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import InputError, RecipeError, first_line, nearest
from mmts.files import content_hash
from mmts.models import huggingface as hf
from mmts.models.base import ImageTower, Resize, TextTower, make_tower, misfit
from mmts.models.clip import read_checkpoint
from mmts.models.two_tower import TwoTower, pretrained_pair

PREFIX = "open_clip:"
_NOT_TEXT = ("visual", "text_decoder", "logit_scale", "logit_bias")  # children and parameters
RESIZES: dict[str, Resize] = {"shortest": "crop", "squash": "stretch", "longest": "pad"}
"""How open_clip makes a rectangle square (`resize_mode` of a model's preprocessing), and what that is here."""


class OpenClipImage(ImageTower):
    """The image side of a model of open_clip, with the size, mean and std that it states itself."""

    def __init__(self, pretrained: Any) -> None:
        visual = pretrained.visual
        size = visual.image_size
        sides = {int(side) for side in size} if isinstance(size, Sequence) else {int(size)}
        if len(sides) > 1:
            raise InputError(f"it takes images of {size} pixels; mmts makes only square ones")
        mean, std = (getattr(visual, name, None) for name in ("image_mean", "image_std"))
        how = str((getattr(visual, "preprocess_cfg", None) or {}).get("resize_mode", "shortest"))
        super().__init__(sides.pop(), mean or hf.CLIP_MEAN, std or hf.CLIP_STD, RESIZES.get(how, "crop"))
        self.model = pretrained
        with torch.inference_mode():
            self.width = int(self(torch.zeros(1, 3, self.size, self.size)).shape[1])

    def features(self, pixels: Tensor) -> Tensor:
        """Return the model's image features (B, width)."""
        return self.model.encode_image(pixels)  # type: ignore[no-any-return]


class OpenClipText(TextTower):
    """The text side of a model of open_clip, with its own tokenizer, which pads every caption to the full length."""

    def __init__(self, pretrained: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = pretrained, tokenizer
        tokens = self.tokenize(["a"])
        self.max_length = tokens["input_ids"].shape[1]
        with torch.inference_mode():
            self.width = int(self(tokens).shape[1])

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids (B, L); longer captions are cut."""
        return {"input_ids": self.tokenizer(hf.encodable(captions)) if captions else torch.zeros(0, 1).long()}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the model's text features (B, width)."""
        return self.model.encode_text(tokens["input_ids"])  # type: ignore[no-any-return]

    def _settings(self) -> tuple[str, ...]:
        return (content_hash(str(self.tokenize(["The quick brown fox, 12 €"])["input_ids"].tolist())),)


def open_clip_pair(name_and_tag: str, size: int | None = None) -> TwoTower:
    """Return a pretrained pair of open_clip, with unit embeddings as its `encode_image` and `encode_text` give them.

    name_and_tag: `NAME/TAG`, such as `ViT-B-32/laion2b_s34b_b79k`, or `NAME/FILE` with a file of weights.
    size: of the square input in pixels, if it is not the model's own. Raises RecipeError for what it cannot load.
    """
    start = f"{PREFIX}{name_and_tag}"
    library = _library(start)
    name, _, tag = name_and_tag.partition("/")
    if not name or not tag:
        raise RecipeError(f"{start} names no weights; it is written open_clip:NAME/TAG or open_clip:NAME/FILE")
    if name not in (known := library.list_models()):
        raise RecipeError(f"open_clip has no model {name!r}; {nearest(name, known)}")
    tags, file = library.list_pretrained_tags_by_model(name), Path(tag).expanduser()
    known_tag = tag if tag in tags else None
    if known_tag is None and not file.is_file():
        near = nearest(tag, tags)
        raise RecipeError(f"open_clip has no weights {tag!r} of {name}, and there is no such file; {near}")
    try:
        with hf.quiet():
            model, *_ = library.create_model_and_transforms(name, pretrained=known_tag, force_image_size=size)
            tokenizer = library.get_tokenizer(name)
    except Exception as error:  # whatever it raises for damaged weights or without a network
        raise RecipeError(
            f"{start}: open_clip cannot load it: {first_line(error)}. Without a network, load it once where there is "
            f"one, save model.state_dict() by torch.save, and give the file: open_clip:{name}/FILE"
        ) from None
    model = model.float().eval()
    if known_tag is None:
        _fill(model, file, size)
    if not (hasattr(model, "encode_image") and hasattr(model, "encode_text")):
        raise RecipeError(f"{start} is a {type(model).__name__}, which does not embed both images and text")
    halves = hf.shared_copy(model), hf.shared_copy(model)
    hf.drop_parts(halves[0], lambda name: name != "visual")
    hf.drop_parts(halves[1], lambda name: name in _NOT_TEXT)
    image = make_tower(OpenClipImage, start, pretrained=halves[0])
    text = make_tower(OpenClipText, start, pretrained=halves[1], tokenizer=tokenizer)
    return pretrained_pair(image, text, model)


def architecture(name: str, size: int) -> dict[str, Any]:
    """Return open_clip's description of a model, `open_clip:NAME/TAG`, for images of `size` pixels."""
    about: dict[str, Any] = _library(name).get_model_config(name.removeprefix(PREFIX).partition("/")[0])
    return about | {"vision_cfg": about["vision_cfg"] | {"image_size": size}}


def _library(start: str) -> Any:
    """Import open_clip. Raises RecipeError, which says what to install."""
    try:
        return import_module("open_clip")
    except Exception as error:  # torchvision of another build fails with RuntimeError, or with AttributeError
        build = torch.__version__.partition("+")[2]
        match = f"for the same CPU build ({build})" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
        raise RecipeError(
            f'{start} needs the package open_clip: pip install "open_clip_torch<4". It brings torchvision, which must '
            f"match the installed torch {torch.__version__}: take a torchvision {match}, or importing it fails "
            f"({type(error).__name__}: {first_line(error)})"
        ) from None


def _fill(model: nn.Module, file: Path, size: int | None) -> None:
    """Load the weights in a file, whose code is never run. Raises RecipeError for those of another model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = load_file(file) if file.suffix == ".safetensors" else read_checkpoint(file)
    except SafetensorError as error:
        raise RecipeError(f"{file} is damaged: {first_line(error)}") from None
    state = {name.removeprefix("module."): value for name, value in content.items()}
    if problem := misfit(state, model.state_dict()):
        other = "" if size is None else ", or to another size: leave model.image.size out"
        raise RecipeError(f"{file} {problem}; it belongs to another model of open_clip{other}")
    model.load_state_dict(state)
