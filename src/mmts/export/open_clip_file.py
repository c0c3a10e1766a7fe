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
from mmts.export.onnx_files import captions_for, pictures, to_inputs
from mmts.files import write_json
from mmts.models import TwoTower
from mmts.models.base import MediaTower
from mmts.models.clip import ClipWeights, avion_weights, clip_weights
from mmts.models.clip_text import ClipText
from mmts.models.open_clip import OpenClipImage, OpenClipText, architecture
from mmts.models.video_towers import SpaceTimeViT

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"  # the names that open_clip looks for
_RESIZES = {"crop": "shortest", "stretch": "squash", "pad": "longest"}
# Parts of our names of CLIP's weights (`mmts.models.clip`), and what open_clip calls them.
_NAMES = {
    "blocks.": "transformer.resblocks.",
    ".qkv.": ".attn.in_proj_",
    ".out.": ".attn.out_proj.",
    ".fc1.": ".mlp.c_fc.",
    ".fc2.": ".mlp.c_proj.",
    "patches.": "conv1.",
    "image_projection": "proj",
}


@torch.no_grad()
def write_open_clip(model: TwoTower, folder: Path) -> dict[str, Any]:
    """Write a folder for `local-dir:` or `hf-hub:`, read the weights again, and return the differences.

    model: in evaluation mode, with LoRA merged; a CLIP of transformers, or a pair of open_clip. For the former
    open_clip need not be installed: the weights are read back into the CLIP of mmts. Raises RunError for another model,
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
    pair = scaled_pair(model, image, text)
    if (kind := pair.config.model_type) != "clip":
        raise RunError(f"--to open_clip writes a CLIP, and the run's model is a {kind}: give --to huggingface")
    sides = clip_weights(pair, "image", "the run"), clip_weights(pair, "text", "the run")
    for side in sides:
        if side.activation not in ("gelu", "quick_gelu") or side.eps != 1e-5:
            what = f"the activation {side.activation} and norms with an eps of {side.eps:g}"
            raise RunError(f"--to open_clip: open_clip's CLIP has none with {what}: give --to huggingface")
    if sides[0].activation != sides[1].activation:
        raise RunError("--to open_clip: the two sides have different activations: give --to huggingface")
    state = _state(*sides) | {"logit_scale": pair.logit_scale.detach().reshape(())}
    _write(folder, state, _architecture(*sides), image)
    captions, pixels = captions_for(text), to_inputs(pictures(*[(image.size, image.size)] * 3), image)
    vit, transformer = _read_back(folder / WEIGHTS, *sides)
    x = vit.features(normalized(image, pixels)[:, None])
    y = transformer(text.tokenize(captions))
    scale = float(pair.logit_scale.exp())
    return compared("open_clip", model, (pixels, x), (captions, y)) | {"logit_scale": scale}


def _write(folder: Path, state: Mapping[str, Tensor], about: Mapping[str, Any], image: MediaTower) -> None:
    # safetensors takes no tensors that share their memory.
    save_file({name: value.detach().contiguous().clone() for name, value in state.items()}, folder / WEIGHTS)
    pixels = {"size": image.size, "mean": image.mean.tolist(), "std": image.std.tolist(), "interpolation": "bicubic"}
    pixels |= {"resize_mode": _RESIZES[image.resize], "fill_color": 255}
    write_json(folder / CONFIG, {"model_cfg": about, "preprocess_cfg": pixels})


def _state(image: ClipWeights, text: ClipWeights) -> dict[str, Tensor]:
    """Return the weights of both sides under open_clip's names."""
    patch, state = image.sizes()["patch"], {}
    for side, prefix in ((image, "visual."), (text, "")):
        for name, value in side.state.items():
            for ours, theirs in _NAMES.items():
                name = name.replace(ours, theirs)
            if name == "conv1.weight":
                value = value.reshape(-1, 3, patch, patch)
            state[prefix + name] = value.contiguous().clone()
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
    state = load_file(file)
    avion = {"visual.proj": "visual.image_projection", "logit_scale": "logit_scale"}  # AVION has a prefix for text too
    named = {
        avion.get(name, name if name.startswith("visual.") else f"textual.{name}"): value
        for name, value in state.items()
    }
    image, text = (
        replace(read, activation=side.activation, eps=side.eps, heads=side.heads)
        for read, side in zip(avion_weights(named), sides, strict=True)
    )
    return SpaceTimeViT(pretrained=image, frames=1).eval(), ClipText(pretrained=text).eval()
