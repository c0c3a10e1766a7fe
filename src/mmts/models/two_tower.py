"""The two-tower model, also AVION's: media and captions to unit embeddings in one space; no temperature inside."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import RecipeError, RunError, check_one_of
from mmts.losses.normalize import unit
from mmts.models.base import MediaTower, TextTower, Tower, hash_weights, is_frozen, make_tower, misfit
from mmts.models.clip import avion_weights
from mmts.models.clip_text import OPENAI_TOKENIZER, ClipText
from mmts.models.video_towers import SpaceTimeViT

Tokens = Mapping[str, Tensor]


class TwoTower(nn.Module):
    """Two towers, each followed by its head: x = unit(media_head(media_tower(media))), and y of text likewise.

    A tower without a parameter that requires a gradient is frozen: it stays in evaluation mode and records no graph.
    If a tower is None, the input already is that tower's feature row (B, W). The heads map (B, W) to (B, D).
    """

    def __init__(
        self, media_tower: MediaTower | None, text_tower: TextTower | None, media_head: nn.Module, text_head: nn.Module
    ) -> None:
        super().__init__()
        self.temperature: float | None = None  # a pretrained pair's own: 1 / its logit scale
        self.logit_bias: float | None = None  # a SigLIP's own
        self.frozen_hash: str | None = None  # see `hash_frozen`; a run's checkpoints keep it
        self.media_tower, self.text_tower = media_tower, text_tower
        self.media_head, self.text_head = media_head, text_head
        self.train()  # frozen towers refuse

    def train(self, mode: bool = True) -> "TwoTower":
        """Set the mode; frozen towers and heads stay in evaluation mode."""
        super().train(mode)
        for head in (self.media_head, self.text_head):
            if is_frozen(head):
                head.eval()
        return self

    def forward(self, media: Tensor, text: Tensor | Tokens) -> tuple[Tensor, Tensor]:
        """Return the unit embeddings of media and captions, both (B, D)."""
        return self.encode_media(media), self.encode_text(text)

    def encode_media(self, media: Tensor) -> Tensor:
        """Return the unit embeddings (B, D) of images or clips in [0, 1], or of feature rows (B, W)."""
        return _encode(self.media_tower, self.media_head, media)

    def encode_text(self, text: Tensor | Tokens) -> Tensor:
        """Return the unit embeddings (B, D) of the output of the text tower's `tokenize`, or of feature rows (B, W)."""
        return _encode(self.text_tower, self.text_head, text)

    @property
    def width(self) -> int:
        """D, the width of the embeddings."""
        assert self.text_tower is not None
        device = next((value.device for value in self.parameters()), None)
        tokens = {name: value.to(device) for name, value in self.text_tower.tokenize(["a"]).items()}
        was_training = self.training
        with torch.no_grad():
            width = int(self.eval().encode_text(tokens).shape[1])
        self.train(was_training)
        return width

    def drop_frozen(self) -> None:
        """Drop frozen towers to free their memory; their inputs are then feature rows."""
        for side in ("media_tower", "text_tower"):
            tower = getattr(self, side)
            if tower is not None and is_frozen(tower):
                setattr(self, side, None)

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return the state of the heads and of what trains in the towers; it is the same after `drop_frozen`.

        The buffers of a tower are kept if any of its parameters trains.
        """
        towers = [(name, inner) for name, inner in self.named_modules() if isinstance(inner, Tower)]
        frozen = tuple(f"{name}." for name, tower in towers if is_frozen(tower))
        own = ((f"{name}.{key}", value) for name, tower in towers for key, value in tower.named_parameters())
        fixed = {name for name, value in own if not value.requires_grad}
        state = self.state_dict()
        return {name: value for name, value in state.items() if not name.startswith(frozen) and name not in fixed}

    def hash_frozen(self) -> str:
        """Return a hash of the weights that `trainable_state_dict` leaves out; call it before `drop_frozen`."""
        trained = self.trainable_state_dict()
        return hash_weights({name: value for name, value in self.state_dict().items() if name not in trained})

    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a `trainable_state_dict`. Raises RunError, naming a weight, for the state of another model."""
        if problem := misfit(state, self.trainable_state_dict()):
            raise RunError(f"the saved model {problem}; it belongs to a model of another shape")
        self.load_state_dict(dict(state), strict=False)


def _encode(tower: Tower | None, head: nn.Module, inputs: Any) -> Tensor:
    if tower is not None:
        with torch.no_grad() if is_frozen(tower) else nullcontext():
            inputs = tower(inputs)
    return unit(head(inputs))


def build_head(
    kind: str,
    in_width: int,
    out_width: int,
    *,
    hidden: int = 512,
    input_dropout: float = 0.0,
    dropout: float = 0.0,
    layer_norm: bool = True,
) -> nn.Module:
    """Return a head (B, in_width) -> (B, out_width).

    kind: "linear" is one affine map; "two-layer" is linear, GELU, dropout, linear, with `hidden` units between;
        "residual" adds such a two-layer map to the features, see `Residual`; "none" passes features through.
    input_dropout, dropout: shares of the (normalized) features, and of the hidden units, that training drops.
    layer_norm: normalize each feature row first; not for "none".

    Raises RecipeError for "residual" or "none" with two different widths.

    >>> build_head("linear", 384, 256, layer_norm=False)
    Sequential(
      (0): Linear(in_features=384, out_features=256, bias=True)
    )
    """
    check_one_of("kind", kind, ("linear", "two-layer", "residual", "none"))
    if kind in ("residual", "none"):
        if in_width != out_width:
            widths = f"the tower's width {in_width}, but the model's width is {out_width}; set width to {in_width}"
            raise RecipeError(f"head {kind!r} keeps {widths}, or use a linear or two-layer head")
        if kind == "none":
            return nn.Identity()
    layers: list[nn.Module] = [nn.LayerNorm(in_width)] if layer_norm else []
    layers += [nn.Dropout(input_dropout)] if input_dropout else []
    if kind != "linear":
        layers += [nn.Linear(in_width, hidden), nn.GELU(), nn.Dropout(dropout)]
        in_width = hidden
    layers.append(nn.Linear(in_width, out_width))
    return Residual(*layers) if kind == "residual" else nn.Sequential(*layers)


class Residual(nn.Sequential):
    """A head that starts as the identity: f + rms(f) g(f), g's last layer at zero (docs/method.md, 8.5)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        for parameter in self[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings (B, D), of any norm, of features (B, D)."""
        scale = features.square().mean(dim=1, keepdim=True).sqrt()
        change: Tensor = super().forward(features)  # type: ignore[no-untyped-call]
        return features + scale * change


def build_two_tower(media: MediaTower | int, text: TextTower, *, width: int = 256, **head: Any) -> TwoTower:
    """Return a two-tower model with new heads, whose random weights come from torch's global generator.

    media: the media tower, or the width of media given as feature rows. width: D, of the embeddings.
    head: the options of `build_head`, the same for both sides; the default kind is "two-layer".
    """
    head = {"kind": "two-layer", **head}
    tower, media_width = (None, media) if isinstance(media, int) else (media, media.width)
    media_head, text_head = (build_head(in_width=side, out_width=width, **head) for side in (media_width, text.width))
    return TwoTower(tower, text, media_head, text_head)


def pretrained_pair(image: MediaTower, text: TextTower, whole: Any) -> TwoTower:
    """Return the sides of a pretrained model as a pair, computed in float32, with its temperature and logit bias."""
    pair = TwoTower(image, text, nn.Identity(), nn.Identity())
    image.exact = text.exact = True
    scale, bias = getattr(whole, "logit_scale", None), getattr(whole, "logit_bias", None)
    if scale is not None:
        if not abs(log_scale := float(scale.detach())) < 9 * math.log(10):
            raise RecipeError(f"{image.name} is damaged: its logit scale is exp({log_scale:g})")
        pair.temperature = math.exp(-log_scale)
    if bias is not None:
        pair.logit_bias = float(bias.detach())
    return pair


def load_avion(
    checkpoint: str | Path | Mapping[str, Tensor],
    *,
    tokenizer: str = OPENAI_TOKENIZER,
    frames: int | None = None,
    sampling: str = "random",
    stride: int = 4,
    heads: int | None = None,
) -> TwoTower:
    """Return the model of a checkpoint of AVION or MM-TS: clips and captions to unit embeddings of its output width.

    Sizes are read off the weights, in any layout of AVION's. The heads are identities; the checkpoint's temperature
    (`logit_scale`) is not used. Colors are normalized as AVION does, with a mean of red of .4248 (OpenAI's is .4815).

    checkpoint: a file, whose code is never run, or a state_dict (or a mapping with one under "state_dict").
    tokenizer: a Hugging Face CLIP name or folder, or "bytes" for tiny models; read when a caption is first tokenized.
    frames: F, frames per clip; None is the checkpoint's (1 for an image model). The temporal embedding is interpolated
        linearly to another number; that of an image model is zero.
    sampling, stride: as in `mmts.data.media.video.FrameSampling`.
    heads: of the attention of both towers; None is one per 64 features, as in every published model.

    Raises RecipeError, naming some keys, for a file that cannot be read, or keys and shapes that are not AVION's.

    Source: Zhao and Kraehenbuehl, AVION, arXiv 2309.16669; Sheludzko et al., MM-TS, arXiv 2603.08202.
    """
    image, text = avion_weights(checkpoint)
    clip = {"frames": frames, "sampling": sampling, "stride": stride}
    media_tower = make_tower(SpaceTimeViT, "space-time-vit", pretrained=image, heads=heads, **clip)
    text_tower = make_tower(ClipText, "clip-text", pretrained=text, heads=heads, tokenizer=tokenizer)
    return TwoTower(media_tower, text_tower, nn.Identity(), nn.Identity())
