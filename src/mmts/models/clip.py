"""CLIP's transformers, for clips and captions: their blocks, and their weights in AVION's checkpoints and CLIP models.

Whatever layout weights were saved in, they come out under the names of our own networks; sizes are read off them.
"""

import argparse
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmts.data.media.reading import kept_warnings
from mmts.errors import InputError, RecipeError, first_line, quoted, shortened
from mmts.models import huggingface as hf
from mmts.models.base import Checkpointed, check_heads, default_heads, misfit

Side = Literal["image", "text"]

# What AVION subtracts from each color and divides it by, in its pre-training, fine-tuning and evaluation: OpenAI's
# values, except for red's mean, which is .4815 there. Its weights were trained with this one, so it must stay.
_AVION_PIXELS = hf.Preprocessing(
    mean=(108.3272985 / 255, 116.7460125 / 255, 104.09373615 / 255),
    std=(68.5005327 / 255, 66.6321579 / 255, 70.32316305 / 255),
)

OPEN_CLIP_NAMES = {
    "transformer.resblocks.": "blocks.",
    "attn.in_proj_": "qkv.",
    "attn.out_proj.": "out.",
    "mlp.c_fc.": "fc1.",
    "mlp.c_proj.": "fc2.",
    "conv1.": "patches.",
}
"""Parts of the names of weights in open_clip, and what our networks call them."""
# The same for a checkpoint of AVION and transformers' CLIP. AVION stores attention as nn.MultiheadAttention or as the
# flash-attention package does; both stack query, key and value.
_OUR_NAMES = {
    "self_attn.out_proj.": "out.",
    **OPEN_CLIP_NAMES,
    "attn.Wqkv.": "qkv.",
    "mlp.": "",
    "vision_model.": "",
    "text_model.": "",
    "embeddings.patch_embedding.": "patches.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.": "",
    "pre_layrnorm.": "ln_pre.",
    "post_layernorm.": "ln_post.",
    "final_layer_norm.": "ln_final.",
    "encoder.layers.": "blocks.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "visual_projection.weight": "image_projection",
    "text_projection.weight": "text_projection",
}


@dataclass(frozen=True)
class ClipWeights:
    """One side's weights, and the settings that cannot be read off them."""

    source: str  # where they come from, for messages
    side: Side
    state: dict[str, Tensor]  # by the names of the network they are for
    activation: str  # "gelu" or "quick_gelu"
    eps: float  # of the layer norms
    heads: int | None = None  # of the attention; None is one per 64 features
    frames: int | None = None  # of the temporal embedding; None if the model knows only images
    pixels: hf.Preprocessing = _AVION_PIXELS  # mean, std and resize that the image side was trained with

    def matrix(self, name: str) -> tuple[int, int]:
        """Return the shape of a matrix. Raises RecipeError if there is no matrix of that name."""
        shape = self.state[name].shape if name in self.state else ()
        if len(shape) != 2:
            raise RecipeError(f"{self.source} has no matrix {name!r}")
        return shape[0], shape[1]

    def sizes(self) -> dict[str, int]:
        """Return the sizes of the network, as its constructor names them. Raises RecipeError as `matrix` does."""
        width, output_width = self.matrix(f"{self.side}_projection")
        depth = len({name.split(".")[1] for name in self.state if name.startswith("blocks.")})
        sizes = {"width": width, "depth": depth, "output_width": output_width}
        positions = self.matrix("positional_embedding")[0]
        if self.side == "text":
            words = self.matrix("token_embedding.weight")[0]
            return {**sizes, "context_length": positions, "vocabulary_size": words}
        patch = math.isqrt(self.matrix("patches.weight")[1] // 3) or 1  # `fill` reports what is not square
        return {**sizes, "patch": patch, "size": patch * math.isqrt(positions - 1)}

    def fill(self, network: nn.Module) -> None:
        """Load them into `network`. Raises RecipeError naming a missing, superfluous or differently shaped weight.

        A temporal embedding is interpolated linearly to another number of frames; frame f stands at (f + 1/2) / frames
        of the clip. An image model, which has none, gets zeros.
        """
        own, state = network.state_dict(), dict(self.state)
        if "temporal_embedding" in own:
            frames, width = own["temporal_embedding"].shape
            embedding = state.setdefault("temporal_embedding", torch.zeros(frames, width))
            if embedding.dim() == 2 and len(embedding) != frames:
                resized = F.interpolate(embedding.T[None], frames, mode="linear", align_corners=False)
                state["temporal_embedding"] = resized[0].T
        if problem := misfit(state, own):
            raise RecipeError(f"{self.source} {problem}")
        network.load_state_dict(state)


def agreed(weights: ClipWeights | None, defaults: dict[str, int], *options: int | None) -> dict[str, int]:
    """Return the sizes of a network, from its weights or options (as in `defaults`). InputError if they contradict."""
    sizes = defaults if weights is None else weights.sizes()
    chosen = {name: value for name, value in zip(defaults, options, strict=True) if value is not None}
    for name, value in chosen.items():
        if weights is not None and value != sizes[name]:
            raise InputError(f"{weights.source} has {name} {sizes[name]}, not {value}; leave the option out")
    return sizes | chosen


def read_weights(weights: str, side: Side) -> ClipWeights:
    """Return one side of a checkpoint file of AVION, or of a Hugging Face CLIP name or folder."""
    if is_checkpoint(weights):
        return avion_weights(weights)[("image", "text").index(side)]
    source = hf.find_source(weights, f"{'video' if side == 'image' else side} tower")
    model, _ = hf.load_model(source)
    if model.config.model_type != "clip":
        raise RecipeError(f"weights {weights!r} are those of a {model.config.model_type} model; only CLIP's fit here")
    pixels = hf.read_preprocessing(source) if side == "image" else _AVION_PIXELS
    return clip_weights(model, side, f"weights {weights!r}", pixels)


def clip_weights(model: Any, side: Side, source: str, pixels: hf.Preprocessing = _AVION_PIXELS) -> ClipWeights:
    """Return one side of a CLIPModel of transformers, which stays as it is. source: for messages."""
    model = hf.shared_copy(model)
    hf.keep_side(model, side, own_pooling=True)
    state: dict[str, Tensor] = {_our_name(name): value for name, value in model.state_dict().items()}
    for query in [name for name in state if "self_attn.q_proj" in name]:
        qkv = [state.pop(query.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        state[query.replace("self_attn.q_proj", "qkv")] = torch.cat(qkv)
    state[f"{side}_projection"] = state[f"{side}_projection"].T.contiguous()
    if side == "image":
        state["patches.weight"] = state["patches.weight"].flatten(1)
    config = model.config.vision_config if side == "image" else model.config.text_config
    settings = (config.hidden_act, config.layer_norm_eps, config.num_attention_heads)
    return ClipWeights(source, side, state, *settings, pixels=pixels)


def _our_name(name: str) -> str:
    for part, ours in _OUR_NAMES.items():
        name = name.replace(part, ours)
    return name


def is_checkpoint(weights: str) -> bool:
    """Return whether weights are a file. Raises RecipeError for a file that is missing, by its suffix."""
    path = Path(weights).expanduser()
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin") and not path.exists():
        raise RecipeError(f"weights: there is no file {str(path)!r}")
    return path.is_file()


def avion_weights(checkpoint: str | Path | Mapping[str, Tensor]) -> tuple[ClipWeights, ClipWeights]:
    """Return the image and the text side of a checkpoint of AVION, a file or a state_dict, without its `logit_scale`.

    Raises RecipeError for a file that cannot be read, and for keys of neither side; names some.
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
        if side in sides:
            sides[side][_our_name(name)] = value.float()
        elif plain != "logit_scale":
            unknown.append(key)
    if unknown:
        keys = f"{len(unknown)} of its {len(state)} keys are unknown, such as {', '.join(map(repr, unknown[:3]))}"
        raise RecipeError(f"{source} is not a checkpoint of AVION's two-tower models: {keys}")
    visual, textual = sides["visual"], sides["textual"]
    if "patches.weight" in visual and visual["patches.weight"].dim() == 4:  # (W, 3, p, p), not (W, 3 p p)
        visual["patches.weight"] = visual["patches.weight"].flatten(1)
    frames = visual["temporal_embedding"].shape[0] if "temporal_embedding" in visual else 1
    image = ClipWeights(source, "image", visual, "gelu", 1e-6, frames=frames)
    return image, ClipWeights(source, "text", textual, "gelu", 1e-5)


def read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Return the state_dict of a checkpoint file, whose code is never run. Raises RecipeError for another file."""
    if not path.is_file():
        raise RecipeError(f"checkpoint {str(path)!r}: there is no such file")
    try:
        with kept_warnings(path), torch.serialization.safe_globals(_SETTINGS):
            content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds an object of the kind {kind[1]}" if kind else "is damaged or not a checkpoint of torch"
        way = "save its state_dict alone, if you trust it: torch.save(checkpoint['state_dict'], file)"
        raise RecipeError(f"checkpoint {str(path)!r} {what}; mmts runs no code of a checkpoint, so {way}") from None
    except Exception as error:  # torch and zipfile raise nearly anything on a damaged file
        why = f"it is damaged, or was not written by torch.save ({shortened(first_line(error), 160)})"
        raise RecipeError(f"checkpoint {str(path)!r} cannot be read; {why}") from None
    return _check_state(content, f"checkpoint {str(path)!r}")


def _check_state(content: Any, source: str) -> Mapping[str, Tensor]:
    """Return the state_dict in `content`. Raises RecipeError unless it is names and tensors."""
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state:
        raise RecipeError(f"{source} holds no state_dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            what = f"{quoted(name)} is not a tensor but {type(value).__name__}"
            raise RecipeError(f"{source} holds no state_dict: {what}")
    return state


# AVION saves its command line (a Namespace) and the best score (a numpy number) with the weights; numpy 1 and 2 name
# the latter's maker differently.
_SCALAR = np.float64(0).__reduce__()[0]
_SCALARS = [(_SCALAR, f"numpy.{package}.multiarray.scalar") for package in ("core", "_core")]
_NUMBERS = [np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]
_SETTINGS: list[Any] = [argparse.Namespace, *_SCALARS, *_NUMBERS]


def _quick_gelu(x: Tensor) -> Tensor:
    """Approximate GELU as OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": _quick_gelu}


class _ClipBlock(Checkpointed):
    """The pre-norm block of CLIP's transformers, with query, key and value in one matrix (in this order).

    x + out(attention(qkv(ln_1(x)))), then x + fc2(activation(fc1(ln_2(x))))
    """

    def __init__(self, width: int, heads: int, inner: int, activation: str, eps: float, causal: bool) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads, self.causal, self.activation = heads, causal, _ACTIVATIONS[activation]
        self.ln_1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        for linear in (self.qkv, self.out, self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        B, L, width = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(B, L, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # (B, heads, L, width / heads)
        x = x + self.out(attended.transpose(1, 2).reshape(B, L, width))
        return x + self.fc2(self.activation(self.fc1(self.ln_2(x))))  # type: ignore[no-any-return]


class ClipBlocks(nn.ModuleList):
    """The blocks of one of CLIP's transformers. An option that is None follows the weights, or CLIP without weights."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int | None,
        activation: str | None,
        weights: ClipWeights | None,
        eps: float,
        causal: bool = False,
    ) -> None:
        if weights is None:
            self.activation, self.eps, inner = activation or "gelu", eps, 4 * width
        else:
            self.activation, self.eps = activation or weights.activation, weights.eps
            inner, heads = weights.matrix("blocks.0.fc1.weight")[0], heads or weights.heads
            if heads is None and width > 64 and width % 64:
                raise InputError(f"{weights.source} is {width} wide, not a multiple of 64; state the number of heads")
        self.heads = heads or default_heads(width)
        if self.activation not in _ACTIVATIONS:
            raise InputError(f"the weights need the activation {self.activation!r}, which mmts does not have")
        super().__init__(_ClipBlock(width, self.heads, inner, self.activation, self.eps, causal) for _ in range(depth))

    def forward(self, states: Tensor) -> Tensor:
        """Return the last states (B, L, width)."""
        for block in self:
            states = block(states)
        return states

    def _settings(self) -> tuple[str, ...]:
        return (str(self.heads), self.activation, str(self.eps))
