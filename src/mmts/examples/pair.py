"""A small random CLIP or SigLIP, as a folder that transformers loads: it stands for a pretrained pair in tiny runs."""

import math
from pathlib import Path
from typing import Any, Literal

import torch

from mmts.files import atomic_folder, locked, write_json
from mmts.models.clip_text import ByteTokenizer
from mmts.models.huggingface import Preprocessing

_SIZE, _LENGTH = 32, 48  # pixels of an image, tokens (bytes) of a caption


def made_pair(folder: Path, kind: Literal["clip", "siglip"]) -> Path:
    """Return `folder`, with a CLIP or SigLIP of random weights for 32 px images and captions in bytes.

    Its temperature is .1, and a SigLIP's logit bias -10. A folder that was made before stays as it is.
    """
    with locked(folder.with_suffix(".lock"), wait=True):
        if not folder.exists():
            with atomic_folder(folder) as new:
                _write(new, kind)
    return folder


def _write(folder: Path, kind: Literal["clip", "siglip"]) -> None:
    import transformers  # takes seconds

    shared = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
    sides = {
        "text_config": {**shared, **ends, "vocab_size": 258, "max_position_embeddings": _LENGTH},
        "vision_config": {**shared, "image_size": _SIZE, "patch_size": 8},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "clip":
            model = transformers.CLIPModel(transformers.CLIPConfig(**sides, projection_dim=64))
        else:
            model = transformers.SiglipModel(transformers.SiglipConfig(**sides))
            model.logit_bias.data.fill_(-10.0)
    model.logit_scale.data.fill_(math.log(10))
    model.save_pretrained(folder)
    bytes_ = ByteTokenizer.backend()
    bytes_.add_special_tokens(["[START]", "[END]"])  # 256 and 257
    names = {"bos_token": "[START]", "eos_token": "[END]", "pad_token": "[END]", "unk_token": "[END]"}
    options: dict[str, Any] = {"tokenizer_object": bytes_, "model_max_length": _LENGTH, **names}
    transformers.PreTrainedTokenizerFast(**options).save_pretrained(folder)
    pixels = Preprocessing(_SIZE, (0.5,) * 3, (0.5,) * 3, "crop" if kind == "clip" else "stretch")
    write_json(folder / "preprocessor_config.json", pixels.to_config())
