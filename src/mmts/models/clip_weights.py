"""Weights for the space-time ViT and CLIP's text transformer: of AVION's checkpoints, and of CLIP models.

Whatever layout they were saved in, they come out under the names of our own networks; sizes are read off them.
"""

import argparse
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmts.data.media.read_warnings import kept_warnings
from mmts.errors import RecipeError, quoted, shortened
from mmts.models import huggingface as hf
from mmts.models.blocks import ACTIVATIONS

# What AVION subtracts from each colour and divides it by, in its pre-training, fine-tuning and evaluation: OpenAI's
# values, but for red's mean, which is .4815 there. Its weights are used to this one, so it must stay.
AVION_PIXELS = hf.Preprocessing(
    mean=(108.3272985 / 255, 116.7460125 / 255, 104.09373615 / 255),
    std=(68.5005327 / 255, 66.6321579 / 255, 70.32316305 / 255),
)


@dataclass(frozen=True)
class ClipWeights:
    """One side's weights, and what cannot be read off them.

    Attributes:
        source: where they come from, for messages.
        state: tensors by the names of the network they are for.
        activation: "gelu" or "quick_gelu".
        eps: of the layer norms.
        heads: of the attention; None is one per 64 features.
        frames: of the temporal embedding; None where the model knows images only.
        pixels: mean, std and resize that the video side was trained with.
    """

    source: str
    state: dict[str, Tensor]
    activation: str
    eps: float
    heads: int | None = None
    frames: int | None = None
    pixels: hf.Preprocessing = AVION_PIXELS

    def matrix(self, name: str) -> tuple[int, int]:
        """Return the shape of a matrix. Raises RecipeError where there is none of that name."""
        if name not in self.state:
            raise RecipeError(f"{self.source} has no weight for {name!r}")
        shape = self.state[name].shape
        if len(shape) != 2:
            raise RecipeError(f"{self.source}: {name!r} has shape {tuple(shape)}, and should be a matrix")
        return shape[0], shape[1]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len({name.split(".")[1] for name in self.state if name.startswith("blocks.")})

    @property
    def inner(self) -> int:
        """Width inside the blocks' second half."""
        return self.matrix("blocks.0.fc1.weight")[0]

    def heads_for(self, width: int) -> int:
        """Return the number of heads. Raises RecipeError where the rule of one per 64 features does not come out."""
        if self.heads is not None:
            return self.heads
        if width > 64 and width % 64:
            raise RecipeError(f"{self.source} is {width} wide, not a multiple of 64; state the number of its heads")
        return max(1, width // 64)

    def with_frames(self, frames: int) -> "ClipWeights":
        """Return them with a temporal embedding for `frames` frames.

        Zeros where there is none (an image model, inflated); else the one there is, interpolated linearly along time:
        frame f stands at (f + 1/2) / frames of the clip, and ends continue as they are.
        """
        given = self.state.get("temporal_embedding")
        if given is None:
            given = torch.zeros(frames, self.matrix("positional_embedding")[1])
        elif self.matrix("temporal_embedding")[0] != frames:
            given = nn.functional.interpolate(given.T[None], frames, mode="linear", align_corners=False)[0].T
        return replace(self, state={**self.state, "temporal_embedding": given})

    def fill(self, network: nn.Module) -> None:
        """Load them into `network`. Raises RecipeError naming what is missing, left over, or of another shape."""
        own = network.state_dict()
        missing = sorted(own.keys() - self.state.keys())
        if missing:
            raise RecipeError(f"{self.source} lacks {len(missing)} weights, {missing[0]!r} for one")
        unknown = sorted(self.state.keys() - own.keys())
        if unknown:
            raise RecipeError(f"{self.source} has {len(unknown)} weights too many, {unknown[0]!r} for one")
        for name, value in own.items():
            if self.state[name].shape != value.shape:
                shapes = f"{tuple(self.state[name].shape)}, not {tuple(value.shape)}"
                raise RecipeError(f"{self.source}: {name!r} has shape {shapes}")
        network.load_state_dict(self.state)


def video_weights(weights: str | Path) -> ClipWeights:
    """Return the video side of a checkpoint file of AVION, or of a Hugging Face CLIP name or folder."""
    if _is_checkpoint(weights):
        return avion_weights(read_checkpoint(Path(weights).expanduser()), f"checkpoint {str(weights)!r}")[0]
    return _clip_weights(str(weights), "video")


def text_weights(weights: str | Path) -> ClipWeights:
    """Return the text side of a checkpoint file of AVION, or of a Hugging Face CLIP name or folder."""
    if _is_checkpoint(weights):
        return avion_weights(read_checkpoint(Path(weights).expanduser()), f"checkpoint {str(weights)!r}")[1]
    return _clip_weights(str(weights), "text")


def _is_checkpoint(weights: str | Path) -> bool:
    path = Path(weights).expanduser()
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin") and not path.exists():
        raise RecipeError(f"weights: there is no file {str(path)!r}")
    return path.is_file()


# --- checkpoints of AVION --------------------------------------------------------------------------------------------

_TOP = {
    "visual.conv1.weight": "patches.weight",
    "visual.class_embedding": "class_embedding",
    "visual.positional_embedding": "positional_embedding",
    "visual.temporal_embedding": "temporal_embedding",
    "visual.ln_pre.weight": "ln_pre.weight",
    "visual.ln_pre.bias": "ln_pre.bias",
    "visual.ln_post.weight": "ln_post.weight",
    "visual.ln_post.bias": "ln_post.bias",
    "visual.image_projection": "image_projection",
    "textual.token_embedding.weight": "token_embedding.weight",
    "textual.positional_embedding": "positional_embedding",
    "textual.ln_final.weight": "ln_final.weight",
    "textual.ln_final.bias": "ln_final.bias",
    "textual.text_projection": "text_projection",
}
# Of each block, as nn.MultiheadAttention and as the flash-attention package store it: both stack query, key and value.
_BLOCK = {
    "attn.in_proj_weight": "qkv.weight",
    "attn.in_proj_bias": "qkv.bias",
    "attn.Wqkv.weight": "qkv.weight",
    "attn.Wqkv.bias": "qkv.bias",
    "attn.out_proj.weight": "out.weight",
    "attn.out_proj.bias": "out.bias",
    "mlp.c_fc.weight": "fc1.weight",
    "mlp.c_fc.bias": "fc1.bias",
    "mlp.fc1.weight": "fc1.weight",
    "mlp.fc1.bias": "fc1.bias",
    "mlp.c_proj.weight": "fc2.weight",
    "mlp.c_proj.bias": "fc2.bias",
    "mlp.fc2.weight": "fc2.weight",
    "mlp.fc2.bias": "fc2.bias",
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
}
_BLOCK_KEY = re.compile(r"(visual|textual)\.transformer\.resblocks\.(\d+)\.(.+)")


def avion_weights(checkpoint: Mapping[str, Tensor], source: str) -> tuple[ClipWeights, ClipWeights]:
    """Return the video and the text side of a state_dict of AVION, in whichever layout.

    Args:
        checkpoint: with or without the prefix "module." of DistributedDataParallel; its `logit_scale` is left out.
        source: where it comes from, for messages.

    Raises:
        RecipeError: keys that AVION's models do not have; names some.
    """
    sides: dict[str, dict[str, Tensor]] = {"visual": {}, "textual": {}}
    unknown = []
    for key, value in checkpoint.items():
        plain = key.removeprefix("module.")
        block = _BLOCK_KEY.fullmatch(plain)
        if block and block[3] in _BLOCK:
            side, name = block[1], f"blocks.{int(block[2])}.{_BLOCK[block[3]]}"
        elif plain in _TOP:
            side, name = plain.split(".")[0], _TOP[plain]
        elif plain == "logit_scale":
            continue
        else:
            unknown.append(key)
            continue
        if name in sides[side]:
            raise RecipeError(f"{source} holds {name!r} of the {side} side in two layouts at once")
        sides[side][name] = value.float()
    if unknown:
        examples = ", ".join(repr(key) for key in unknown[:3])
        raise RecipeError(
            f"{source} is no checkpoint of AVION's two-tower models: {len(unknown)} of its {len(checkpoint)} keys are "
            f"unknown, such as {examples}"
        )
    visual, textual = sides["visual"], sides["textual"]
    if "patches.weight" in visual and visual["patches.weight"].dim() == 4:  # (W, 3, p, p), not (W, 3 p p)
        visual["patches.weight"] = visual["patches.weight"].flatten(1)
    frames = visual["temporal_embedding"].shape[0] if "temporal_embedding" in visual else 1
    return ClipWeights(source, visual, "gelu", 1e-6, frames=frames), ClipWeights(source, textual, "gelu", 1e-5)


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Return the state_dict of a checkpoint file, be it the file's whole content or stand under "state_dict".

    Nothing in the file is run: beside tensors, only the plain settings and numbers that AVION's training script saves
    with them are read.

    Raises:
        RecipeError: no such file, or one that holds something else.
    """
    if not path.is_file():
        raise RecipeError(f"checkpoint {str(path)!r}: there is no such file")
    try:
        with kept_warnings(path), torch.serialization.safe_globals(_SETTINGS):
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds an object of the kind {kind[1]}" if kind else "is damaged or no checkpoint of torch"
        raise RecipeError(
            f"checkpoint {str(path)!r} {what}; mmts runs no code of a checkpoint, so save its state_dict alone, where "
            "you trust it: torch.save(checkpoint['state_dict'], file)"
        ) from None
    except Exception as error:  # torch and zipfile raise nearly anything on a damaged file
        reason = (
            shortened(" ".join(str(error).split(". ")[0].split()), 160)
            if isinstance(error, RuntimeError | OSError)
            else "no checkpoint of torch"
        )
        raise RecipeError(
            f"checkpoint {str(path)!r} cannot be read; it is damaged, or was not written by torch.save ({reason})"
        ) from None
    return check_state(content, f"checkpoint {str(path)!r}")


def check_state(content: Any, source: str) -> Mapping[str, Tensor]:
    """Return the state_dict in `content`. Raises RecipeError where it is not names and tensors."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state:
        raise RecipeError(f"{source} holds no state_dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise RecipeError(f"{source} holds no state_dict: {quoted(name)} is no tensor but {type(value).__name__}")
    return state


# AVION saves its command line (a Namespace) and the best score (a numpy number) with the weights; numpy 1 and 2 name
# the latter's maker differently.
_NUMBER = np.float64(0).__reduce__()[0]
_SETTINGS: list[Any] = [
    argparse.Namespace,
    (_NUMBER, "numpy.core.multiarray.scalar"),
    (_NUMBER, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


# --- CLIP models of Hugging Face -------------------------------------------------------------------------------------

_CLIP_TOP = {
    "video": {
        "vision_model.embeddings.patch_embedding.weight": "patches.weight",
        "vision_model.embeddings.class_embedding": "class_embedding",
        "vision_model.embeddings.position_embedding.weight": "positional_embedding",
        "vision_model.pre_layrnorm.weight": "ln_pre.weight",
        "vision_model.pre_layrnorm.bias": "ln_pre.bias",
        "vision_model.post_layernorm.weight": "ln_post.weight",
        "vision_model.post_layernorm.bias": "ln_post.bias",
        "visual_projection.weight": "image_projection",
    },
    "text": {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
        "text_projection.weight": "text_projection",
    },
}
_CLIP_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "out",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}


def _clip_weights(name: str, side: str) -> ClipWeights:
    source = hf.find_source(name, side, ())
    model: Any
    model, _ = hf.load_model(source, ())
    if model.config.model_type != "clip":
        raise RecipeError(f"weights {name!r} are those of a {model.config.model_type} model; only CLIP's fit here")
    config = model.config.vision_config if side == "video" else model.config.text_config
    if config.hidden_act not in ACTIVATIONS:
        raise RecipeError(f"weights {name!r} want the activation {config.hidden_act!r}, which mmts does not have")
    given: dict[str, Tensor] = model.state_dict()
    state = {ours: given[theirs] for theirs, ours in _CLIP_TOP[side].items()}
    prefix = "vision_model" if side == "video" else "text_model"
    for number in range(config.num_hidden_layers):
        layer = f"{prefix}.encoder.layers.{number}"
        for kind in ("weight", "bias"):
            parts = [given[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"blocks.{number}.qkv.{kind}"] = torch.cat(parts)
            for theirs, ours in _CLIP_BLOCK.items():
                state[f"blocks.{number}.{ours}.{kind}"] = given[f"{layer}.{theirs}.{kind}"]
    projection = "image_projection" if side == "video" else "text_projection"
    state[projection] = state[projection].T.contiguous()
    pixels = AVION_PIXELS
    if side == "video":
        state["patches.weight"] = state["patches.weight"].flatten(1)
        pixels = hf.read_preprocessing(source)
    return ClipWeights(
        f"weights {name!r}",
        state,
        config.hidden_act,
        config.layer_norm_eps,
        heads=config.num_attention_heads,
        pixels=pixels,
    )


def square_root(number: int, what: str) -> int:
    """Return the whole square root of `number`. Raises RecipeError where there is none; says `what` was counted."""
    root = math.isqrt(number)
    if root * root != number or not root:
        raise RecipeError(f"{what}: {number} is no square number")
    return root
