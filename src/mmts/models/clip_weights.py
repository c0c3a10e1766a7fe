"""Weights for the space-time ViT and CLIP's text transformer: from AVION's checkpoints, and from CLIP models.

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
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmts.data.media.reading import kept_warnings
from mmts.errors import InputError, RecipeError, quoted, shortened
from mmts.models import huggingface as hf

Side = Literal["video", "text"]

# What AVION subtracts from each color and divides it by, in its pre-training, fine-tuning and evaluation: OpenAI's
# values, except for red's mean, which is .4815 there. Its weights were trained with this one, so it must stay.
_AVION_PIXELS = hf.Preprocessing(
    mean=(108.3272985 / 255, 116.7460125 / 255, 104.09373615 / 255),
    std=(68.5005327 / 255, 66.6321579 / 255, 70.32316305 / 255),
)


@dataclass(frozen=True)
class ClipWeights:
    """One side's weights, and the settings that cannot be read off them.

    Attributes:
        source: where they come from, for messages.
        state: tensors by the names of the network they are for.
        activation: "gelu" or "quick_gelu".
        eps: of the layer norms.
        heads: of the attention; None is one per 64 features.
        frames: of the temporal embedding; None if the model knows only images.
        pixels: mean, std and resize that the video side was trained with.
    """

    source: str
    state: dict[str, Tensor]
    activation: str
    eps: float
    heads: int | None = None
    frames: int | None = None
    pixels: hf.Preprocessing = _AVION_PIXELS

    def matrix(self, name: str) -> tuple[int, int]:
        """Return the shape of a matrix. Raises RecipeError if there is no matrix of that name."""
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
        """Width inside the second half of a block."""
        return self.matrix("blocks.0.fc1.weight")[0]

    def heads_for(self, width: int) -> int:
        """Return the number of heads. Raises RecipeError if it is not known, and 64 does not divide the width."""
        if self.heads is not None:
            return self.heads
        if width > 64 and width % 64:
            raise RecipeError(f"{self.source} is {width} wide, not a multiple of 64; state the number of its heads")
        return max(1, width // 64)

    def with_frames(self, frames: int) -> "ClipWeights":
        """Return them with a temporal embedding for `frames` frames.

        An image model, which has none, gets zeros. Another length is interpolated linearly along time: frame f stands
        at (f + 1/2) / frames of the clip, and the ends continue as they are.
        """
        embedding = self.state.get("temporal_embedding")
        if embedding is None:
            embedding = torch.zeros(frames, self.matrix("positional_embedding")[1])
        elif self.matrix("temporal_embedding")[0] != frames:
            embedding = nn.functional.interpolate(embedding.T[None], frames, mode="linear", align_corners=False)[0].T
        return replace(self, state={**self.state, "temporal_embedding": embedding})

    def fill(self, network: nn.Module) -> None:
        """Load them into `network`. Raises RecipeError naming a missing, superfluous or differently shaped weight."""
        own = network.state_dict()
        for names, problem in ((own.keys() - self.state.keys(), "lacks"), (self.state.keys() - own.keys(), "also has")):
            if names:
                raise RecipeError(f"{self.source} {problem} {len(names)} weights, {min(names)!r} for one")
        for name, value in own.items():
            if self.state[name].shape != value.shape:
                shapes = f"{tuple(self.state[name].shape)}, not {tuple(value.shape)}"
                raise RecipeError(f"{self.source}: {name!r} has shape {shapes}")
        network.load_state_dict(self.state)


def agreed(options: Mapping[str, int | None], own: Mapping[str, int], weights: ClipWeights | None) -> dict[str, int]:
    """Return each option's value, or the tower's own size if it is None.

    Raises InputError for an option that contradicts `weights`, whose sizes are then the tower's own.
    """
    for name, value in options.items():
        if weights is not None and value not in (None, own[name]):
            raise InputError(f"{weights.source} has {name} {own[name]}, not {value}; leave the option out")
    return {name: own[name] if value is None else value for name, value in options.items()}


def square_root(number: int, what: str) -> int:
    """Return the square root of `number`. Raises RecipeError if it is not whole; `what` names the number."""
    root = math.isqrt(number)
    if root * root != number or not root:
        raise RecipeError(f"{what}: {number} is not a square number")
    return root


def read_weights(weights: str, side: Side) -> ClipWeights:
    """Return one side of a checkpoint file of AVION, or of a Hugging Face CLIP name or folder."""
    if is_checkpoint(weights):
        video, text = avion_weights(weights)
        return video if side == "video" else text
    return _clip_weights(weights, side)


def is_checkpoint(weights: str) -> bool:
    """Return whether weights are a file. Raises RecipeError for a file that is missing, by its suffix."""
    path = Path(weights).expanduser()
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin") and not path.exists():
        raise RecipeError(f"weights: there is no file {str(path)!r}")
    return path.is_file()


# --- checkpoints of AVION --------------------------------------------------------------------------------------------

# The names of weights outside the blocks are the same as ours, except that of the patches.
_TOP = {
    "visual": {
        "class_embedding",
        "positional_embedding",
        "temporal_embedding",
        "ln_pre.weight",
        "ln_pre.bias",
        "ln_post.weight",
        "ln_post.bias",
        "image_projection",
    },
    "textual": {
        "token_embedding.weight",
        "positional_embedding",
        "ln_final.weight",
        "ln_final.bias",
        "text_projection",
    },
}
# Parts of a block, as nn.MultiheadAttention and as the flash-attention package store them: both stack query, key and
# value.
_BLOCK = {
    "attn.in_proj_": "qkv",
    "attn.Wqkv.": "qkv",
    "attn.out_proj.": "out",
    "mlp.c_fc.": "fc1",
    "mlp.fc1.": "fc1",
    "mlp.c_proj.": "fc2",
    "mlp.fc2.": "fc2",
    "ln_1.": "ln_1",
    "ln_2.": "ln_2",
}
_BLOCK_KEY = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)(weight|bias)")


def avion_weights(checkpoint: str | Path | Mapping[str, Tensor]) -> tuple[ClipWeights, ClipWeights]:
    """Return the video and the text side of a checkpoint of AVION, a file or a state_dict, in any layout.

    Its keys may have the prefix "module." of DistributedDataParallel; its `logit_scale` is left out. Raises RecipeError
    for a file that cannot be read, and for keys that AVION's models do not have; names some.
    """
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint).expanduser()
        source, state = f"checkpoint {str(path)!r}", read_checkpoint(path)
    else:
        source = "the state_dict"
        state = _check_state(checkpoint, source)
    sides: dict[str, dict[str, Tensor]] = {"visual": {}, "textual": {}}
    unknown = []
    for key, value in state.items():
        plain = key.removeprefix("module.")
        side, _, name = plain.partition(".")
        block = _BLOCK_KEY.fullmatch(name)
        if block and block[2] in _BLOCK:
            name = f"blocks.{int(block[1])}.{_BLOCK[block[2]]}.{block[3]}"
        elif name == "conv1.weight":
            name = "patches.weight"
        elif name not in _TOP.get(side, ()):
            side = ""
        if side in sides:
            if name in sides[side]:
                raise RecipeError(f"{source} holds {name!r} of the {side} side in two layouts at once")
            sides[side][name] = value.float()
        elif plain != "logit_scale":
            unknown.append(key)
    if unknown:
        examples = ", ".join(repr(key) for key in unknown[:3])
        raise RecipeError(
            f"{source} is not a checkpoint of AVION's two-tower models: {len(unknown)} of its {len(state)} keys "
            f"are unknown, such as {examples}"
        )
    visual, textual = sides["visual"], sides["textual"]
    if "patches.weight" in visual and visual["patches.weight"].dim() == 4:  # (W, 3, p, p), not (W, 3 p p)
        visual["patches.weight"] = visual["patches.weight"].flatten(1)
    frames = visual["temporal_embedding"].shape[0] if "temporal_embedding" in visual else 1
    return ClipWeights(source, visual, "gelu", 1e-6, frames=frames), ClipWeights(source, textual, "gelu", 1e-5)


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Return the state_dict of a checkpoint file: all of its content, or its value under "state_dict".

    Nothing in the file is run: apart from tensors, only the plain settings and numbers that AVION's training script
    saves with them are read.

    Raises:
        RecipeError: no such file, or a file that holds something else.
    """
    if not path.is_file():
        raise RecipeError(f"checkpoint {str(path)!r}: there is no such file")
    try:
        with kept_warnings(path), torch.serialization.safe_globals(_SETTINGS):
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds an object of the kind {kind[1]}" if kind else "is damaged or not a checkpoint of torch"
        raise RecipeError(
            f"checkpoint {str(path)!r} {what}; mmts runs no code of a checkpoint, so save its state_dict alone, if "
            "you trust it: torch.save(checkpoint['state_dict'], file)"
        ) from None
    except Exception as error:  # torch and zipfile raise nearly anything on a damaged file
        reason = "not a checkpoint of torch"
        if isinstance(error, RuntimeError | OSError):
            reason = shortened(" ".join(str(error).split(". ")[0].split()), 160)
        raise RecipeError(
            f"checkpoint {str(path)!r} cannot be read; it is damaged, or was not written by torch.save ({reason})"
        ) from None
    return _check_state(content, f"checkpoint {str(path)!r}")


def _check_state(content: Any, source: str) -> Mapping[str, Tensor]:
    """Return the state_dict in `content`. Raises RecipeError unless it is names and tensors."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state:
        raise RecipeError(f"{source} holds no state_dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise RecipeError(
                f"{source} holds no state_dict: {quoted(name)} is not a tensor but {type(value).__name__}"
            )
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


def _clip_weights(name: str, side: Side) -> ClipWeights:
    source = hf.find_source(name, side)
    model: Any
    model, _ = hf.load_model(source)
    if model.config.model_type != "clip":
        raise RecipeError(f"weights {name!r} are those of a {model.config.model_type} model; only CLIP's fit here")
    part = "vision" if side == "video" else "text"
    config = getattr(model.config, f"{part}_config")
    theirs: dict[str, Tensor] = model.state_dict()
    state = {name: theirs[their_name] for their_name, name in _CLIP_TOP[side].items()}
    for number in range(config.num_hidden_layers):
        layer = f"{part}_model.encoder.layers.{number}"
        for kind in ("weight", "bias"):
            qkv = [theirs[f"{layer}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            state[f"blocks.{number}.qkv.{kind}"] = torch.cat(qkv)
            for their_name, our_name in _CLIP_BLOCK.items():
                state[f"blocks.{number}.{our_name}.{kind}"] = theirs[f"{layer}.{their_name}.{kind}"]
    projection = "image_projection" if side == "video" else "text_projection"
    state[projection] = state[projection].T.contiguous()
    if side == "video":
        state["patches.weight"] = state["patches.weight"].flatten(1)
    return ClipWeights(
        f"weights {name!r}",
        state,
        config.hidden_act,
        config.layer_norm_eps,
        heads=config.num_attention_heads,
        pixels=hf.read_preprocessing(source) if side == "video" else _AVION_PIXELS,
    )
