"""A run's CLIP as a folder of open_clip: the weights under its names, and a description of model and pixels."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmts.errors import RunError
from mmts.export.huggingface_pair import check_no_heads, compared, normalized, pair_of, scaled_pair
from mmts.export.onnx_files import pixel_settings
from mmts.files import write_json
from mmts.models import TwoTower
from mmts.models.base import MediaTower
from mmts.models.clip import OPEN_CLIP_NAMES, ClipWeights, avion_weights, clip_weights
from mmts.models.clip_text import ClipText
from mmts.models.open_clip import RESIZES, OpenClipImage, OpenClipText, architecture
from mmts.models.video_towers import SpaceTimeViT

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"  # the names that open_clip looks for


@torch.no_grad()
def write_open_clip(model: TwoTower, folder: Path) -> dict[str, Any]:
    """Write a folder for `local-dir:` or `hf-hub:`, and return the differences from the run.

    model: in evaluation mode, with LoRA merged; a CLIP of transformers, or a pair of open_clip. The weights of the
    former are read back into the CLIP of mmts, so open_clip need not be installed. Raises RunError for another model,
    and for differences.
    """
    if isinstance(model.media_tower, OpenClipImage) and isinstance(model.text_tower, OpenClipText):
        check_no_heads(model, "open_clip")
        assert model.temperature is not None
        state = model.media_tower.model.state_dict() | model.text_tower.model.state_dict()
        state["logit_scale"] = torch.tensor(-math.log(model.temperature))
        if model.logit_bias is not None:
            state["logit_bias"] = torch.tensor(model.logit_bias)
        about = architecture(model.media_tower.name, model.media_tower.size)
        _write(folder, state, about, model.media_tower)
        return {"media": {}, "architecture": model.media_tower.name, "logit_scale": 1 / model.temperature}
    image, text = pair_of(model, "open_clip")
    pair = scaled_pair(model)
    if (kind := pair.config.model_type) != "clip":
        raise RunError(f"--to open_clip writes a CLIP, and the run's model is a {kind}: give --to huggingface")
    sides = clip_weights(pair, "image", "the run"), clip_weights(pair, "text", "the run")
    kinds = {(side.activation, side.eps) for side in sides}
    if len(kinds) > 1 or not kinds <= {("gelu", 1e-5), ("quick_gelu", 1e-5)}:
        raise RunError(f"--to open_clip: open_clip's CLIP cannot have {kinds} (activation, eps): give --to huggingface")
    state = _state(*sides) | {"logit_scale": pair.logit_scale.detach().reshape(())}
    _write(folder, state, _architecture(*sides), image)
    vit, transformer = _read_back(folder / WEIGHTS, *sides)
    differences = compared(
        "open_clip",
        model,
        lambda captions: transformer(text.tokenize(captions)),
        lambda squares: vit.features(normalized(image, squares)[:, None]),
    )
    return differences | {"logit_scale": float(pair.logit_scale.exp())}


def _write(folder: Path, state: Mapping[str, Tensor], about: Mapping[str, Any], image: MediaTower) -> None:
    # safetensors takes no tensors that share their memory.
    save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, folder / WEIGHTS)
    pixels = {name: pixel_settings(image)[name] for name in ("size", "mean", "std", "interpolation")}
    mode = next(theirs for theirs, ours in RESIZES.items() if ours == image.resize)
    pixels |= {"resize_mode": mode, "fill_color": 255}
    write_json(folder / CONFIG, {"model_cfg": about, "preprocess_cfg": pixels})


def _state(image: ClipWeights, text: ClipWeights) -> dict[str, Tensor]:
    """Return the weights of both sides under open_clip's names."""
    patch, state = image.sizes()["patch"], {}
    for side, prefix in ((image, "visual."), (text, "")):
        for name, value in side.state.items():
            if name == "patches.weight":
                value = value.reshape(-1, 3, patch, patch)
            for theirs, ours in OPEN_CLIP_NAMES.items():
                name = name.replace(ours, theirs)
            state[prefix + name.replace("image_projection", "proj")] = value
    return state


def _architecture(image: ClipWeights, text: ClipWeights) -> dict[str, Any]:
    """Return the description of the model that open_clip reads."""

    def shared(side: ClipWeights) -> dict[str, Any]:
        ratio = side.matrix("blocks.0.fc1.weight")[0] / side.sizes()["width"]
        return {"width": side.sizes()["width"], "layers": side.sizes()["depth"], "mlp_ratio": ratio}

    visual, textual = image.sizes(), text.sizes()
    assert image.heads is not None
    vision = {"image_size": visual["size"], "patch_size": visual["patch"], "head_width": visual["width"] // image.heads}
    words = {"context_length": textual["context_length"], "vocab_size": textual["vocabulary_size"], "heads": text.heads}
    return {
        "embed_dim": visual["output_width"],
        "quick_gelu": image.activation == "quick_gelu",
        "vision_cfg": shared(image) | vision,
        "text_cfg": shared(text) | words,
    }


def _read_back(file: Path, *sides: ClipWeights) -> tuple[SpaceTimeViT, ClipText]:
    """Return networks of mmts with the weights of a file, and with all else from what was written."""
    named = {}
    for name, value in load_file(file).items():  # AVION has a prefix for text too
        prefix = "" if name.startswith("visual.") or name == "logit_scale" else "textual."
        named[prefix + name.replace("visual.proj", "visual.image_projection")] = value
    image, text = (
        replace(read, activation=side.activation, eps=side.eps, heads=side.heads)
        for read, side in zip(avion_weights(named), sides, strict=True)
    )
    return SpaceTimeViT(pretrained=image, frames=1).eval(), ClipText(pretrained=text).eval()
