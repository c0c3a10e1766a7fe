"""Runs small enough for tests: two epochs on drawn shapes, with towers of every kind there is."""

from pathlib import Path

import numpy as np
import torch
from models.tiny_models import tiny_backbone, tiny_clip, tiny_encoder
from tests_support import draw_shapes

from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import load_model
from mmts.training.run import train

SETTINGS = [
    "model.width=16",
    "model.head.hidden=16",
    "concepts={encoder: tfidf, num_concepts: 3}",
    "train.epochs=2",
    "train.batch_size=16",
    "train.learning_rate=0.01",
    "train.trackers=[]",
]
RESNET = "{tower: small-resnet, train: all, size: 16, options: {channels: 8, depth: 1}}"
VIT = "{tower: small-vit, train: all, size: 16, options: {patch: 8, width: 16, depth: 1, heads: 2, resize: pad}}"
WORDS = "{tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2, max_length: 24}}"
BYTES = (
    "{tower: clip-text, train: all, "
    "options: {tokenizer: bytes, width: 16, depth: 1, heads: 2, output_width: 16, context_length: 40}}"
)


def make_run(folder: Path, image: str, text: str, *settings: str) -> Path:
    """Train for a moment on shapes, drawn into folder/shapes, and return the run directory."""
    if not (folder / "shapes").exists():
        draw_shapes(folder / "shapes")
    sides = [f"model.image={image}", f"model.text={text}"]
    train(load_recipe("catalogue", [*SETTINGS, *sides, *settings]).with_data(folder / "shapes"), folder / "run")
    return folder / "run"


def embedded(run: Path, captions: list[str], pixels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the run's own embeddings of captions, and of images if there are any."""
    model = load_model(RunDirectory(run)).eval()
    assert model.text_tower is not None
    with torch.no_grad():
        texts = model.encode_text(model.text_tower.tokenize(captions))
        return texts, texts if pixels is None else model.encode_media(pixels)


def difference(a: object, b: object) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


class Runs:
    """Runs by name, each trained when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Path] = {}

    def __call__(self, name: str) -> Path:
        if name not in self.made:
            folder = self.folder / name
            folder.mkdir()
            self.made[name] = make_run(folder, *_sides(name, folder))
        return self.made[name]


def _sides(name: str, folder: Path) -> tuple[str, ...]:
    """Return the sections of the image and the text tower, and other settings."""
    if name == "words":
        return RESNET, WORDS
    if name == "bytes":
        return VIT, BYTES
    model = folder / "model"
    model.mkdir()
    if name == "clip":
        return (_of(tiny_clip(model)), _of(tiny_clip(model)), "model.head.kind=none", "model.width=12")
    if name == "clip with heads":
        return _of(tiny_clip(model), train="head"), _of(tiny_clip(model))
    if name == "siglip":
        return _of(tiny_clip(model, "siglip"), options="{resize: stretch}"), _of(tiny_clip(model, "siglip"))
    if name == "padded clip":
        return _of(tiny_clip(model), options="{resize: pad}"), _of(tiny_clip(model))
    assert name == "bert"
    (folder / "image").mkdir()
    return _of(tiny_backbone(folder / "image", "resnet"), size="32"), _of(tiny_encoder(model, "bert"))


def _of(folder: Path, train: str = "all", **more: str) -> str:
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    return f"{{tower: '{folder}', train: {train}{rest}}}"
