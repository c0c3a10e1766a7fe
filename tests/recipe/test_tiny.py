"""Every shipped recipe runs end to end on a drawn data set in the true format of its own."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mmts.evaluation.run import evaluate
from mmts.examples import draw_example
from mmts.files import cache_root
from mmts.recipe.recipe import load_recipe, shipped_recipes
from mmts.recipe.tiny import example_data, tiny
from mmts.training.run import train
from mmts.training.start import open_pair

FAST = {"siglip": "image", "flickr30k-mmts": "image", "ek100-mmts": "video", "ek100-features": "video"}
SLOW = sorted(set(shipped_recipes()) - set(FAST))


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run a recipe with --tiny, as the command line does, and return its metrics."""
    recipe = tiny(load_recipe(name))
    return train(recipe.with_data(example_data(recipe, folder / "data")), folder / "run")


def check(metrics: dict[str, Any], folder: Path, kind: str) -> None:
    for direction in (f"{kind}_to_text", f"text_to_{kind}"):
        assert 0 <= metrics[direction]["R@1"] <= metrics[direction]["R@10"] <= 100
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert json.loads((folder / "run" / "metrics.json").read_text()) == metrics


@pytest.mark.parametrize(("name", "kind"), FAST.items())
def test_an_image_a_video_and_a_feature_recipe_run_end_to_end(name: str, kind: str, tmp_path: Path) -> None:
    metrics = run(name, tmp_path)
    check(metrics, tmp_path, kind)
    if name.startswith("ek100"):
        assert {"mAP", "nDCG", "binary_mAP"} <= set(metrics["video_to_text"])
        assert metrics["relevance"] == "graded"


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_other_recipe_runs_end_to_end(name: str, tmp_path: Path) -> None:
    kind = "video" if load_recipe(name).model.video is not None else "image"
    metrics = run(name, tmp_path)
    check(metrics, tmp_path, kind)
    assert ("coverage" in metrics) == name.startswith(("youcook2", "clips"))
    assert ("folds" in metrics) == name.startswith("coco")


@pytest.mark.slow
def test_a_run_is_evaluated_zero_shot_on_other_data(tmp_path: Path) -> None:
    run("cc3m-mmts", tmp_path)
    for dataset, captions in (("flickr30k", "test"), ("coco", "test")):
        metrics = evaluate(tmp_path / "run", draw_example(dataset, tmp_path / dataset))
        assert metrics["split"] == captions
        assert metrics["relevance"] == "own"
    assert len(list((tmp_path / "run" / "evaluations").glob("*.json"))) == 2


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_tiny_recipe_needs_no_weights_and_keeps_its_rule(name: str) -> None:
    full = load_recipe(name)
    small = tiny(full)
    assert small.objective == full.objective
    assert small.concepts.source == full.concepts.source
    assert (small.data.relevance, small.data.captions) == (full.data.relevance, full.data.captions)
    assert (small.train.micro_batch is None) == (full.train.micro_batch is None)
    media = small.model.media
    if full.model.start is not None:
        assert Path(str(small.model.start)).parent == cache_root() / "tiny"
        assert (small.model.head, media.train) == (full.model.head, full.model.media.train)
        return
    assert media.tower in ("small-vit", "small-resnet", "frames", "space-time-vit", "features")
    assert small.model.text.tower in ("small-transformer", "clip-text")


def test_settings_stay_as_set() -> None:
    small = tiny(load_recipe("ek100-mmts", SET := ["train.steps=3", "train.batch_size=8", "model.video.size=16"]), SET)
    assert (small.train.steps, small.train.batch_size) == (3, 8)
    assert small.model.video is not None
    assert (small.model.video.size, small.model.video.frames) == (16, 4)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_small_random_pair_stands_in_for_a_pretrained_one(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(load_recipe(name))
    assert f"a small random {name} stands in for " in capsys.readouterr().out
    pair = open_pair(str(recipe.model.start))
    assert pair.temperature == pytest.approx(0.1)
    assert pair.logit_bias == (-10.0 if name == "siglip" else None)
    ids = pair.text_tower.tokenize(["a red square", "a red circle"])["input_ids"]
    assert ids[0, 0] == 256
    assert ids[0].argmax() == 13
    x, y = pair.eval()(torch.rand(2, 3, 32, 32), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert (y[0] - y[1]).abs().max() > 1e-3
    assert torch.isfinite(x).all()


def test_a_run_on_videos_that_is_started_from_becomes_small_towers(tmp_path: Path) -> None:
    model = "{video: {train: lora, lora: {rank: 2}}, start: some/run}"
    recipe = tiny(load_recipe("catalogue", [f"model={model}"]))
    assert (recipe.model.start, recipe.model.video.tower, recipe.model.head.kind) == (None, "frames", "linear")
