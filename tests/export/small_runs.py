"""Runs small enough for tests: two epochs on drawn shapes, with towers of every kind there is."""

from pathlib import Path

import numpy as np
import torch
from tests_support import draw_shapes

from mmts.data.records import Medium, Split
from mmts.training.recipe import load_recipe
from mmts.training.run import load_model, train
from mmts.training.run_directory import RunDirectory

SETTINGS = [
    "model.width=16",
    "model.head.hidden=16",
    "concepts={encoder: tfidf, num_concepts: 3}",
    "train.epochs=2",
    "train.batch_size=16",
    "train.learning_rate=0.01",
    "train.trackers=[]",
]
RESNET = "{tower: small-resnet, frozen: false, size: 16, options: {channels: 8, depth: 1}}"
VIT = "{tower: small-vit, frozen: false, size: 16, options: {patch: 8, width: 16, depth: 1, heads: 2, resize: pad}}"
WORDS = "{tower: small-transformer, frozen: false, options: {width: 16, depth: 1, heads: 2, max_length: 24}}"
BYTES = (
    "{tower: clip-text, frozen: false, "
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
    """Return the run's own embeddings of captions, and of images where some are given."""
    directory = RunDirectory(run)
    recipe = directory.recipe()
    model = load_model(directory, recipe, Split("one", [Medium("a", Path("a.png"), ("",))])).eval()
    assert model.text_tower is not None
    with torch.no_grad():
        texts = model.encode_text(model.text_tower.tokenize(captions))
        return texts, texts if pixels is None else model.encode_media(pixels)


def difference(a: object, b: object) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())
