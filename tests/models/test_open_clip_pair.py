"""Pairs of open_clip, through a small module that has its documented interface: open_clip itself is not installed."""

import json
import logging
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests_support import draw_shapes
from torch import Tensor, nn

from mmts.errors import RecipeError, RunError
from mmts.export import export_run
from mmts.models.open_clip import open_clip_pair
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import load_model
from mmts.training.run import train
from mmts.training.start import open_pair


class Visual(nn.Module):
    image_mean, image_std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)

    def __init__(self, size: int, resize_mode: str) -> None:
        super().__init__()
        self.image_size: Any = (size, size)
        self.preprocess_cfg = {"resize_mode": resize_mode}
        self.conv1 = nn.Conv2d(3, 8, 8, stride=8)
        self.resblocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.proj = nn.Parameter(torch.randn(8, 6))

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.conv1(pixels).flatten(2).mean(2)
        for block in self.resblocks:
            states = states + block(states).tanh()
        return states @ self.proj


class Clip(nn.Module):
    """open_clip's CLIP in its outer form: the text side lies at the top level, beside `visual` and `logit_scale`."""

    def __init__(self, size: int, bias: bool, resize_mode: str) -> None:
        super().__init__()
        self.visual = Visual(size, resize_mode)
        self.token_embedding = nn.Embedding(50, 8)
        self.resblocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.text_projection = nn.Parameter(torch.randn(8, 6))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(40.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-9.0)) if bias else None

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        return self.visual(image)

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        states = self.token_embedding(text).mean(1)
        for block in self.resblocks:
            states = states + block(states).tanh()
        return states @ self.text_projection


def tokenize(texts: list[str]) -> Tensor:
    return torch.tensor([[49, *(len(word) for word in text.split()[:6]), *[0] * 7][:7] for text in texts])


def make(name: str, pretrained: str | None = None, force_image_size: int | None = None) -> tuple[Clip, None, None]:
    if pretrained == "broken":
        raise RuntimeError("checksum\nmismatch")
    logging.warning("No pretrained weights loaded") if pretrained is None else None
    torch.manual_seed(0 if pretrained else 1)
    model = Clip(force_image_size or 16, name.endswith("SigLIP"), "squash" if name.endswith("SigLIP") else "shortest")
    return model, None, None


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: Any = ModuleType("open_clip")
    module.list_models = lambda: ["ViT-B-32", "ViT-B-16-SigLIP"]
    module.list_pretrained_tags_by_model = lambda name: ["openai", "laion", "broken"]
    module.create_model_and_transforms = make
    module.get_model_config = lambda name: {"embed_dim": 6, "vision_cfg": {"image_size": 16}, "text_cfg": {}}
    module.get_tokenizer = lambda name: tokenize
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return module


def settings(start: str, *more: str) -> list[str]:
    shared = ["concepts={encoder: tfidf, num_concepts: 4}", "train.batch_size=12", "train.trackers=[]"]
    return [*shared, "train.epochs=1", "train.learning_rate=.01", f"model.start={start}", *more]


def test_it_embeds_as_open_clip_does(library: ModuleType) -> None:
    pair = open_pair("open_clip:ViT-B-32/laion").eval()
    own, *_ = make("ViT-B-32", "laion")
    media, text = pair.media_tower, pair.text_tower
    pixels, captions = torch.rand(3, 3, 16, 16), ["a red square", "blue"]
    with torch.no_grad():
        x, y = pair(pixels, text.tokenize(captions))
        seen = (pixels - media.mean[:, None, None]) / media.std[:, None, None]
        assert torch.allclose(x, F.normalize(own.encode_image(seen)), atol=1e-6)
        assert torch.allclose(y, F.normalize(own.encode_text(tokenize(captions))), atol=1e-6)
    assert (media.size, media.resize, media.mean.tolist()) == (16, "crop", pytest.approx([0.4, 0.5, 0.6]))
    assert (pair.width, text.max_length, pair.temperature, pair.logit_bias) == (6, 7, pytest.approx(1 / 40), None)
    assert not {name for name in media.state_dict() if "visual" not in name}
    assert not {name for name in text.state_dict() if "visual" in name or "logit" in name}
    assert media.fingerprint != open_clip_pair("ViT-B-32/laion", 32).media_tower.fingerprint
    sigmoid = open_clip_pair("ViT-B-16-SigLIP/laion", 24)
    assert (sigmoid.media_tower.size, sigmoid.media_tower.resize, sigmoid.logit_bias) == (24, "stretch", -9.0)


@pytest.mark.parametrize("form", ["head", "last-1", "lora"])
def test_a_run_starts_from_it_and_is_rebuilt(
    library: ModuleType, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forms = [f"model.image.train={form}", f"model.text.train={form}"]
    head = [] if form == "head" else ["model.head={kind: none}"]
    recipe = load_recipe("catalogue", settings("open_clip:ViT-B-32/laion", *forms, *head))
    train(recipe.with_data(draw_shapes(tmp_path / "shapes")), tmp_path / "run")
    model, start = load_model(RunDirectory(tmp_path / "run")).eval(), open_pair("open_clip:ViT-B-32/laion").eval()
    pixels, tokens = torch.rand(2, 3, 16, 16), start.text_tower.tokenize(["a red bar"])
    with torch.no_grad():
        (x, y), (before, _) = model(pixels, tokens), start(pixels, tokens)
    assert (x - before).abs().max() > 1e-3
    if form == "last-1":
        training = {name for name, value in model.named_parameters() if value.requires_grad}
        assert {"media_tower.model.visual.proj", "text_tower.model.text_projection"} < training
        assert not any("resblocks.0" in name or "embedding" in name for name in training)
    with pytest.raises(RunError, match="has no module for open_clip:ViT-B-32/laion"):
        export_run(tmp_path / "run", "sentence-transformers", tmp_path / "out")
    if form == "head":
        with pytest.raises(RunError, match=r"--to open_clip: the run's heads are not linear"):
            export_run(tmp_path / "run", "open_clip", tmp_path / "out")
        return
    folder = export_run(tmp_path / "run", "open_clip", tmp_path / "out")
    file = folder / "open_clip_model.safetensors"
    about = json.loads((folder / "open_clip_config.json").read_text())
    assert (about["model_cfg"]["embed_dim"], about["preprocess_cfg"]["resize_mode"]) == (6, "shortest")
    caplog.clear()
    again = open_pair(f"open_clip:ViT-B-32/{file}").eval()
    assert not caplog.records
    monkeypatch.chdir(folder)
    named = load_recipe("clip", [f"model.start=open_clip:ViT-B-32/{file.name}"])
    assert named.model.start == f"open_clip:ViT-B-32/{file}"
    with torch.no_grad():
        for ours, theirs in zip(again(pixels, tokens), (x, y), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
    assert again.temperature == pytest.approx(0.05)  # the fixed temperature of the recipe


def test_what_cannot_be_loaded_is_named(library: ModuleType, tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.ones(8, 6)}, tmp_path / "part.pt")
    (tmp_path / "half.safetensors").write_bytes(b"half")
    for start, says in [
        ("ViT-B-32", "names no weights; it is written open_clip:NAME/TAG"),
        ("ViT-B-23/laion", "open_clip has no model 'ViT-B-23'; did you mean 'ViT-B-32'"),
        ("ViT-B-32/laoin", "no weights 'laoin' of ViT-B-32, and there is no such file; did you mean 'laion'"),
        ("ViT-B-32/broken", "open_clip cannot load it: checksum. Without a network"),
        (f"ViT-B-32/{tmp_path / 'half.safetensors'}", "half.safetensors is damaged: "),
        (f"ViT-B-32/{tmp_path / 'part.pt'}", r"part.pt lacks \d+ weights.*it belongs to another model of open_clip"),
    ]:
        with pytest.raises(RecipeError, match=says):
            open_pair(f"open_clip:{start}")


def test_a_pair_that_is_not_square_or_has_one_side_only(library: Any) -> None:
    model, *_ = make("ViT-B-32", "laion")
    model.visual.image_size = (16, 24)
    library.create_model_and_transforms = lambda *names, **options: (model, None, None)
    with pytest.raises(RecipeError, match=r"takes images of \(16, 24\) pixels; mmts makes only square ones"):
        open_pair("open_clip:ViT-B-32/laion")
    half = SimpleNamespace(float=lambda: SimpleNamespace(eval=lambda: SimpleNamespace(encode_image=None)))
    library.create_model_and_transforms = lambda *names, **options: (half, None, None)
    with pytest.raises(RecipeError, match="does not embed both images and text"):
        open_pair("open_clip:ViT-B-32/laion")


def test_without_open_clip_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(RecipeError, match=r'pip install "open_clip_torch<4".*torchvision.*match the installed torch'):
        open_pair("open_clip:ViT-B-32/laion")
