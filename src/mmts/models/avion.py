"""AVION's and MM-TS's published checkpoints as a two-tower model."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mmts.models.base import make_tower
from mmts.models.clip_text import OPENAI_TOKENIZER, ClipText
from mmts.models.clip_weights import avion_weights
from mmts.models.two_tower import TwoTower
from mmts.models.video_towers import SpaceTimeViT


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

    Sizes are read off the weights, in any layout: keys with or without "module.", attention as nn.MultiheadAttention's
    or flash-attention's, patches as a convolution or a matrix. The heads are identities; the checkpoint's temperature
    (`logit_scale`) is not used. Colors are normalized as AVION does, with a mean of red of .4248 (OpenAI's is .4815).

    Args:
        checkpoint: a file, whose code is never run, or a state_dict (or a mapping with one under "state_dict").
        tokenizer: a Hugging Face CLIP name or folder, or "bytes" for tiny models; read when a caption is first
            tokenized.
        frames: F, frames per clip; None is the checkpoint's (1 for an image model). For another number the temporal
            embedding is interpolated linearly; that of an image model is zero.
        sampling, stride: how frames are chosen, as in `mmts.data.media.video.FrameSampling`; "random" as published.
        heads: of the attention of both towers; None is one per 64 features, as in every published model.

    Raises RecipeError, naming some keys, for a file that cannot be read, or keys and shapes that are not AVION's.

    Source: Zhao and Kraehenbuehl, AVION, arXiv 2309.16669; Sheludzko et al., MM-TS, arXiv 2603.08202.
    """
    video, text = avion_weights(checkpoint)
    clip = {"frames": frames, "sampling": sampling, "stride": stride}
    return TwoTower(
        make_tower(SpaceTimeViT, "space-time-vit", pretrained=video, heads=heads, **clip),
        make_tower(ClipText, "clip-text", pretrained=text, heads=heads, tokenizer=tokenizer),
        nn.Identity(),
        nn.Identity(),
    )
