"""A run's two sides as a folder that sentence-transformers loads."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    Transformer,
)
from torch import Tensor, nn

from mmts.console import console
from mmts.errors import RunError
from mmts.export.hugging_face import is_one_model, save_both_sides, save_text_model
from mmts.export.modules import ImageModule, TextModule
from mmts.export.samples import captions_for, largest_difference, pictures, to_inputs
from mmts.models import TwoTower
from mmts.models.base import ImageTower
from mmts.models.text_towers import HuggingFaceText
from mmts.recipe.model_section import Model

TOLERANCE = 1e-5


@torch.no_grad()
def write_sentence_transformer(model: TwoTower, section: Model, folder: Path) -> dict[str, Any]:
    """Write the run's sides as modules of sentence-transformers, load them again, and return the differences.

    model: in evaluation mode, with its frozen towers. section: of the recipe. A Hugging Face text encoder, both sides
    of one CLIP or SigLIP, and heads become modules of sentence-transformers; other towers need `mmts.export.modules`.
    There is no module for videos and features: then only the text side is written, with a note. Raises RunError for a
    text tower with weights from a checkpoint file, and for differences above `TOLERANCE`.
    """
    image, text = model.media_tower, model.text_tower
    assert text is not None
    if not isinstance(image, ImageTower):
        what = "features" if image is None else "videos"
        console.print(f"note: sentence-transformers takes no {what}: only the text side is exported (--to onnx: both)")
        image = None
    is_one = is_one_model(image, text)
    with tempfile.TemporaryDirectory() as scratch:
        text_side = [*_text_modules(image if is_one else None, text, section, Path(scratch)), *_head(model.text_head)]
        modules = text_side
        if image is not None:
            first = text_side[0] if is_one else _image_module(image, section)
            image_side = [first, *_head(model.media_head)]
            if text_side != image_side:
                routes = {(None, "text"): "text", (None, "image"): "image"}
                modules = [Router({"text": text_side, "image": image_side}, route_mappings=routes)]
        saved = SentenceTransformer(modules=[*modules, Normalize()], device="cpu")
        saved.save(str(folder), create_model_card=False)
    needs_mmts = any(type(module).__module__ == "mmts.export.modules" for module in saved.modules())
    loaded = SentenceTransformer(str(folder), device="cpu", trust_remote_code=needs_mmts, local_files_only=True)
    captions = captions_for(text)
    expected = model.encode_text(text.tokenize(captions))
    content: dict[str, Any] = {"needs_mmts": needs_mmts, "text": _compare("text", loaded, captions, expected)}
    if image is not None:
        squares = pictures(*[(image.size, image.size)] * 3)
        others = pictures((3 * image.size, 2 * image.size), (image.size, 2 * image.size + 1), (50, 70))
        media = _compare("media", loaded, squares, model.encode_media(to_inputs(squares, image)))
        other_sizes = _difference(loaded, others, model.encode_media(to_inputs(others, image)))
        content["media"] = {"kind": "image", **media, "other_sizes": other_sizes}
        if other_sizes > TOLERANCE:
            console.print(
                "note: transformers resizes pictures in its own way, so embeddings differ by up to "
                f"{other_sizes:.1e} for pictures that are not squares of the model's size (docs/export.md)"
            )
    return content


def _text_modules(image: Any, text: Any, section: Model, scratch: Path) -> list[nn.Module]:
    """Return the modules from texts to the text tower's features; with `image`, both towers are one model."""
    if image is not None:
        save_both_sides(image, text, scratch)
        # SigLIP attends to its padding, up to the full length.
        full = {"text": {"padding": "max_length", "return_attention_mask": False}} if text.pad_full else None
        return [Transformer(str(scratch), max_seq_length=text.max_length, processing_kwargs=full)]
    if isinstance(text, HuggingFaceText) and not text.clip:
        save_text_model(text, scratch)
        return [Transformer(str(scratch), max_seq_length=text.max_length), Pooling(text.width, text.pooling)]
    if section.pretrained is not None or section.text.options.get("weights") is not None:
        raise RunError(
            f"sentence-transformers has no module for the text tower {text.name!r} with weights from a checkpoint; "
            "--to onnx exports it"
        )
    return [TextModule(text, {"tower": section.text.tower, "options": section.text.options})]


def _image_module(image: ImageTower, section: Model) -> nn.Module:
    assert section.image is not None
    options = {"tower": section.image.tower, "size": image.size, "options": section.image.options}
    return ImageModule(image, options | {"frozen": section.image.frozen})


def _head(head: nn.Module) -> list[nn.Module]:
    """Return a head of `mmts.models.build_head` as modules of sentence-transformers."""
    layers = [] if isinstance(head, nn.Identity) else list(head.children())
    modules: list[nn.Module] = []
    for at, layer in enumerate(layers):
        if isinstance(layer, nn.LayerNorm):
            module = LayerNorm(layer.normalized_shape[0])
            module.norm.load_state_dict(layer.state_dict())
            modules.append(module)
        elif isinstance(layer, nn.Linear):
            is_hidden = any(isinstance(after, nn.GELU) for after in layers[at + 1 : at + 2])
            activation = nn.GELU() if is_hidden else nn.Identity()
            module = Dense(layer.in_features, layer.out_features, activation_function=activation)
            module.linear.load_state_dict(layer.state_dict())
            modules.append(module)
    return modules


def _compare(side: str, loaded: Any, inputs: list[Any], expected: Tensor) -> dict[str, float]:
    """Return the largest difference of a side; raises RunError if it is above `TOLERANCE`."""
    difference = _difference(loaded, inputs, expected)
    if not difference <= TOLERANCE:
        raise RunError(
            f"sentence-transformers: the {side} embeddings differ from the run's by up to {difference:.1e}, more than "
            f"{TOLERANCE:g}; --to onnx is another way"
        )
    return {"largest_difference": difference}


def _difference(loaded: Any, inputs: list[Any], expected: Tensor) -> float:
    return largest_difference(expected, loaded.encode(inputs, convert_to_tensor=True, show_progress_bar=False))
