"""A run's CLIP or SigLIP as a folder that plain transformers loads, with its tokenizer and image processor."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mmts.errors import RunError
from mmts.export.onnx_files import captions_for, difference, pictures, to_inputs
from mmts.models import TwoTower
from mmts.models import huggingface as hf
from mmts.models.base import MediaTower
from mmts.models.image_towers import HuggingFaceImage
from mmts.models.text_towers import HuggingFaceText

TOLERANCE = 1e-5
# The model types with a known image processor: its prefix, and the ways in which it makes a rectangle square.
_PROCESSORS = {"clip": ("CLIP", ("crop", "stretch")), "siglip": ("Siglip", ("stretch",))}


@torch.no_grad()
def write_huggingface(model: TwoTower, folder: Path) -> dict[str, Any]:
    """Write both towers as one CLIPModel or SiglipModel, load it with transformers, and return the differences.

    model: in evaluation mode, with LoRA merged. Raises RunError as `pair_of` and `compared` do.
    """
    from transformers import AutoModel, AutoTokenizer

    image, text = pair_of(model, "huggingface")
    save_pair(model, folder)
    loaded = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def embed_text(captions: list[str]) -> Any:
        padding = "max_length" if text.pad_full else "longest"
        tokens = tokenizer(captions, padding=padding, truncation=True, max_length=text.max_length, return_tensors="pt")
        mask = {} if text.pad_full else {"attention_mask": tokens["attention_mask"]}
        return loaded.get_text_features(input_ids=tokens["input_ids"], **mask).pooler_output

    def embed_images(squares: list[Image.Image]) -> Any:
        return loaded.get_image_features(pixel_values=normalized(image, squares)).pooler_output

    return compared("transformers", model, embed_text, embed_images) | {"logit_scale": float(loaded.logit_scale.exp())}


def compared(
    program: str,
    model: TwoTower,
    embed_text: Callable[[list[str]], Tensor],
    embed_images: Callable[[list[Image.Image]], Tensor] | None,
) -> dict[str, Any]:
    """Return the largest differences of an export's embeddings (B, D), of any norm, from the run's, per side.

    Raises RunError above `TOLERANCE`. embed_images: gets squares of the tower's size.
    """
    image, text = model.media_tower, model.text_tower
    assert text is not None
    captions = captions_for(text)
    sides = {"text": (model.encode_text(text.tokenize(captions)), embed_text(captions))}
    if image is not None and embed_images is not None:
        squares = pictures(*[(image.size, image.size)] * 3)
        sides["media"] = model.encode_media(to_inputs(squares, image)), embed_images(squares)
    return {
        side: {"largest_difference": difference(f"{program}, {side}", own, F.normalize(exported), TOLERANCE)}
        for side, (own, exported) in sides.items()
    }


def pair_of(model: TwoTower, to: str) -> tuple[HuggingFaceImage, HuggingFaceText]:
    """Return the two towers of a run that are one CLIP or SigLIP without heads. Raises RunError for another run.

    to: the target, for the message.
    """
    image, text = model.media_tower, model.text_tower
    if why := why_not_one_model(image, text):
        raise RunError(f"--to {to} writes a CLIP or SigLIP as it was tuned, and {why}: give --to onnx")
    check_no_heads(model, to)
    assert isinstance(image, HuggingFaceImage)
    assert isinstance(text, HuggingFaceText)
    return image, text


def check_no_heads(model: TwoTower, to: str) -> None:
    """Raise RunError, with what can be done, for a run with heads, which the target `to` cannot hold."""
    if layers_of(model.media_head) or layers_of(model.text_head):
        raise RunError(
            f"--to {to}: the run's heads are not linear, so they cannot become the projections of a CLIP or SigLIP. "
            "--to onnx and --to sentence-transformers write them; for this format tune the towers themselves: "
            "--set 'model.head={kind: none}', and model.image.train, model.text.train or both lora, last-N or all"
        )


def normalized(tower: MediaTower, squares: list[Image.Image]) -> Tensor:
    """Return pictures as the pixels (B, 3, size, size) that other programs give to a model."""
    return (to_inputs(squares, tower) - tower.mean[:, None, None]) / tower.std[:, None, None]


def layers_of(head: nn.Module) -> list[nn.Module]:
    """Return the layers of a head of `build_head`, or of several in a row; a residual head is one of them."""
    if type(head) is nn.Sequential:
        return [layer for part in head for layer in layers_of(part)]
    return [] if isinstance(head, nn.Identity) else [head]


def why_not_one_model(image: object, text: object) -> str | None:
    """Say why two towers are not the sides of one CLIP or SigLIP whose files can describe the preprocessing."""
    if not (isinstance(image, HuggingFaceImage) and isinstance(text, HuggingFaceText) and image.clip and text.clip):
        names = [getattr(tower, "name", "features") for tower in (image, text)]
        return f"the run's towers {names[0]!r} and {names[1]!r} are not its two sides"
    if image.source.place != text.source.place:
        return f"the run's towers are of two models, {image.source.place} and {text.source.place}"
    kind = str(image.model.config.model_type)
    prefix, resizes = _PROCESSORS.get(kind, ("", ()))
    if not prefix:
        return f"{image.source.place} is a {kind} model, of which mmts knows no image processor"
    if image.resize not in resizes:
        return f"an image processor of {prefix} cannot make images square as the run does (resize: {image.resize})"
    if image.interpolate:
        return f"the run takes images of {image.size} px, for which transformers would have to be told to interpolate"
    return None


def whole_model(*towers: Any) -> Any:
    """Return the model that Hugging Face towers came from, with their present weights.

    transformers has no class for one side of a CLIP, so the other side comes from the original model.
    """
    model: Any
    model, _ = hf.load_model(towers[0].source)
    for tower in towers:
        is_encoder = not tower.clip and getattr(model.config, "is_encoder_decoder", False)
        (model.get_encoder() if is_encoder else model).load_state_dict(tower.model.state_dict(), strict=False)
    return model


def scaled_pair(model: TwoTower) -> Any:
    """Return both sides as one model, with the logit scale (and a SigLIP's bias) that the run ended with."""
    pair = whole_model(model.media_tower, model.text_tower)
    if model.temperature is not None:
        pair.logit_scale.fill_(-math.log(model.temperature))
    if model.logit_bias is not None and hasattr(pair, "logit_bias"):
        pair.logit_bias.fill_(model.logit_bias)
    return pair


def save_pair(model: TwoTower, folder: Path) -> None:
    """Write a CLIP or SigLIP (see `why_not_one_model`) with its processor, for AutoModel and AutoProcessor."""
    import transformers

    image, text, pair = model.media_tower, model.text_tower, scaled_pair(model)
    assert image is not None
    assert isinstance(text, HuggingFaceText)
    pair.save_pretrained(folder)
    prefix, _ = _PROCESSORS[pair.config.model_type]
    images = getattr(transformers, f"{prefix}ImageProcessor")(**image_processor(image))
    getattr(transformers, f"{prefix}Processor")(images, text.tokenizer).save_pretrained(folder)


def image_processor(tower: MediaTower) -> dict[str, Any]:
    """Return the settings of an image processor of transformers that come closest to the tower's preprocessing."""
    mean, std = tuple(tower.mean.tolist()), tuple(tower.std.tolist())
    return hf.Preprocessing(tower.size, mean, std, tower.resize).to_config()
