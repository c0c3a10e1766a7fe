"""A run small enough for tests, and what several of them do with it."""

from pathlib import Path

from tests_support import draw_shapes

from mmts.recipe.recipe import load_recipe
from mmts.training.run import train

SETTINGS = [
    "model.image={tower: small-resnet, train: all, size: 16, options: {channels: 8, depth: 1}}",
    "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
    "model.head.hidden=16",
    "model.width=16",
    "concepts={encoder: tfidf, num_concepts: 3}",
    "train.epochs=1",
    "train.batch_size=16",
    "train.trackers=[]",
]


def make_run(folder: Path, *settings: str) -> Path:
    """Draw shapes into folder/shapes, train on them for a moment, and return the run directory."""
    if not (folder / "shapes").exists():
        draw_shapes(folder / "shapes")
    run = folder / f"run{len(settings)}"
    train(load_recipe("catalogue", [*SETTINGS, *settings]).with_data(folder / "shapes"), run)
    return run
