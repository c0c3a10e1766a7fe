"""Embedding on a Ray cluster against one process on the same cores, and a sweep by joblib against a plain pool."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path

import torch
import yaml

from benchmarks.measure import Comparison, compare
from benchmarks.towers import some_captions
from mmts.console import quiet
from mmts.examples import draw_example
from mmts.recipe.recipe import Recipe
from mmts.sweep import run_sweep
from mmts.sweep.sweep_file import load_sweep
from mmts.training.run import train

CORES = 2
SWEEP = {
    "recipe": "catalogue",
    "trials": 1,
    "seeds": {"test": [0, 1, 2, 3]},
    "set": {"concepts": {"encoder": "tfidf", "num_concepts": 4}, "train.epochs": 300, "train.batch_size": 24},
    "variants": {"fixed": {}},
}


def run() -> Iterator[Comparison]:
    """Compare whole commands, each once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_example("flickr30k", folder / "drawn")
        yield _embed(folder, 20_000)
        yield _sweep(folder)


def _embed(folder: Path, captions: int) -> Comparison:
    from ray.cluster_utils import Cluster

    model = folder / "model"
    _mmts("train", "catalogue", "--data", folder / "drawn", "--out", model, "--set", "train.epochs=1")
    data, texts, outs = folder / "data", some_captions(captions), count()
    data.mkdir()
    shutil.copy(next((folder / "drawn").rglob("*.jpg")), data / "0.jpg")
    lines = [{"id": str(at), "image": "0.jpg", "captions": texts[at : at + 100]} for at in range(0, captions, 100)]
    (data / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def embed(*options: object) -> None:
        _mmts("embed", data, "--model", model, "--rows", 1_000, "--out", folder / f"rows-{next(outs)}", *options)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CORES, "include_dashboard": False})
    try:
        setting = f"{captions:,} captions by minilm, {CORES} cores, against one process"
        ours = lambda: embed("--ray", cluster.address)  # noqa: E731
        return compare("mmts embed --ray", setting, ours, embed, 1, (captions, "captions"), warm=True)
    finally:
        cluster.shutdown()


def _sweep(folder: Path) -> Comparison:
    file, data = folder / "sweep.yaml", folder / "drawn"
    file.write_text(yaml.safe_dump(SWEEP))
    sweep, outs = load_sweep(file, data), count()

    def plain() -> None:
        context = multiprocessing.get_context("spawn")
        recipes = [sweep.recipe("fixed", {}, seed).with_data(data) for seed in sweep.file.seeds.test]
        folders = [folder / f"plain-{next(outs)}" for _ in recipes]
        with ProcessPoolExecutor(CORES, context) as pool:
            list(pool.map(_train, recipes, folders))

    def ours() -> None:
        with quiet():
            run_sweep(file, data, folder / f"sweep-{next(outs)}", CORES)

    setting = f"{len(sweep.file.seeds.test)} runs in {CORES} processes, against concurrent.futures"
    return compare("mmts sweep", setting, ours, plain, 1, warm=True)


def _train(recipe: Recipe, out: Path) -> None:
    torch.set_num_threads(1)
    with quiet():
        train(recipe, out)


def _mmts(*arguments: object) -> None:
    command = [sys.executable, "-m", "mmts.cli", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"})
