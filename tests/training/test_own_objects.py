"""mmts.train in Python: data, models and objectives given as objects; a user's own policy on two processes."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed.together import together
from torch import Tensor, nn

import mmts
from mmts.data.read import read_dataset
from mmts.errors import InputError, RecipeError, RunError
from mmts.evaluation.results import read_results
from mmts.evaluation.run import evaluate
from mmts.objectives import InfoNCE, MaxMargin
from mmts.policies import Fixed, Learned
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training import run as runs

CONTENT = {
    "concepts": {"encoder": "tfidf", "num_concepts": 4},
    "train": {"epochs": 2, "batch_size": 12, "log_every": 1, "trackers": []},
}


class Bytes(nn.Module):
    """A linear layer on inputs of `width` numbers, and the mean of one vector per byte of the caption."""

    image_size = 8
    frames = 2

    def __init__(self, width: int = 3 * 8 * 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pixels, self.bytes = nn.Linear(width, 16), nn.EmbeddingBag(256, 16)
        self.shapes: set[tuple[int, ...]] = set()

    def tokenize(self, captions: list[str]) -> Tensor | dict[str, Tensor]:
        return torch.tensor([list(caption.encode()[:40].ljust(40)) for caption in captions])

    def embed_media(self, media: Tensor) -> Tensor:
        assert media.dtype == torch.float32
        assert 0 <= media.min() <= media.max() <= 1
        self.shapes.add(tuple(media.shape[1:]))
        return self.pixels(media.flatten(1))  # type: ignore[no-any-return]

    def embed_text(self, tokens: Any) -> Tensor:
        return self.bytes(tokens)  # type: ignore[no-any-return]


class Mapped(Bytes):
    """The same with tokens in a mapping."""

    def tokenize(self, captions: list[str]) -> dict[str, Tensor]:
        return {"ids": super().tokenize(captions)}  # type: ignore[dict-item]

    def embed_text(self, tokens: Any) -> Tensor:
        return super().embed_text(tokens["ids"])


def log(run: Path) -> list[dict[str, Any]]:
    return list(RunDirectory(run).log_lines())


def test_a_model_takes_the_place_of_a_pretrained_pair(shapes: Path, tmp_path: Path) -> None:
    content = {**CONTENT, "model": {"start": "openai/clip-vit-base-patch32"}}
    metrics = mmts.train(content, tmp_path / "run", data=shapes, model=Bytes())
    assert "before" not in metrics
    assert not (tmp_path / "run" / "checkpoints" / "start.pt").exists()


def test_a_model_an_objective_and_a_dataset_are_trained_and_leave_a_run(shapes: Path, tmp_path: Path) -> None:
    model, run = Bytes(), tmp_path / "run"
    before = model.pixels.weight.clone()
    metrics = mmts.train(CONTENT, run, data=read_dataset(shapes), model=model, objective=MaxMargin(Fixed(0.3)))
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert (metrics["split"], metrics["data"]) == ("test", str(shapes / "captions.jsonl"))
    assert [line["margin"]["mean"] for line in log(run)] == pytest.approx([0.3] * len(log(run)))
    assert model.shapes == {(3, 8, 8)}
    assert not torch.equal(model.pixels.weight.cpu(), before)
    assert RunDirectory(run).own_objects() == {
        "model": f"{__name__}:Bytes",
        "objective": "mmts.objectives.max_margin:MaxMargin",
    }
    assert RunDirectory(run).recipe().name == "recipe with Bytes and MaxMargin"
    with pytest.raises(RunError, match=r"on a model given as an object .*:Bytes.* cannot rebuild"):
        evaluate(run)
    again = tmp_path / "again"
    mmts.train(CONTENT, again, data=shapes, model=Mapped(), objective=MaxMargin(Fixed(0.3)))
    assert log(again) == log(run)
    assert len(read_results([run, again]).groups) == 2


def test_an_objective_alone_leaves_a_run_that_can_be_evaluated(shapes: Path, tmp_path: Path) -> None:
    recipe = load_recipe("from-scratch", ["train.steps=3", "train.trackers=[]", "concepts.encoder=tfidf"])
    metrics = mmts.train(recipe, tmp_path / "run", data=shapes, objective=InfoNCE(Learned(0.2)))
    assert log(tmp_path / "run")[0]["temperature"]["mean"] == pytest.approx(0.2)
    assert evaluate(tmp_path / "run") == metrics


def test_a_run_on_objects_resumes_with_objects_of_the_same_classes(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(runs, "load_weights", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(OSError, match="gone"):
            mmts.train(CONTENT, run, data=shapes, model=Bytes())
    with pytest.raises(RunError, match=r"with the model .*:Bytes, and is resumed with no objects of the caller"):
        mmts.train(CONTENT, run, data=shapes, resume=True)
    with pytest.raises(RunError, match=r"resumed with the model .*:Mapped; resume it by mmts\.train"):
        mmts.train(CONTENT, run, data=shapes, model=Mapped(), resume=True)
    with pytest.raises(RunError, match="already holds a run"):
        mmts.train(CONTENT, run, data=shapes, model=Bytes())
    assert mmts.train(CONTENT, run, model=Bytes(), resume=True)["split"] == "test"


def test_clips_and_features_reach_the_model_in_the_shapes_that_are_documented(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    lines = []
    for i in range(12):
        np.save(tmp_path / "rows" / f"{i}.npy", np.random.default_rng(i).random(5, dtype=np.float32))
        split = "val" if i > 8 else "train"
        lines.append({"id": str(i), "image": f"rows/{i}.npy", "captions": [f"row {i}"], "split": split})
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = Bytes(width=5)
    content = {**CONTENT, "concepts": {"encoder": "tfidf", "num_concepts": 2}}
    mmts.train(content, tmp_path / "run", data=tmp_path, model=model)
    assert model.shapes == {(5,)}
    clips = tmp_path / "clips"
    for i in range(12):
        for frame in range(1, 5):
            draw_frame(clips / str(i) / f"frame_{frame:010d}.jpg", 20 * i)
        lines[i] |= {"video": str(i)}
        del lines[i]["image"]
    (clips / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = Bytes(width=2 * 3 * 8 * 8)
    mmts.train(content, tmp_path / "run-clips", data=clips, model=model)
    assert model.shapes == {(2, 3, 8, 8)}


def draw_frame(path: Path, level: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(path)


def test_what_a_model_lacks_is_named(shapes: Path, tmp_path: Path) -> None:
    class NoTokens(Bytes):
        tokenize = property()  # type: ignore[assignment]

    with pytest.raises(InputError, match=r"NoTokens has no tokenize, which these data need; help\(mmts\.train\)"):
        mmts.train(CONTENT, tmp_path / "run", data=shapes, model=NoTokens())
    frozen = Bytes().requires_grad_(False)
    with pytest.raises(RecipeError, match="nothing trains"):
        mmts.train(CONTENT, tmp_path / "run", data=shapes, model=frozen)
    assert not (tmp_path / "run").exists()


def test_the_example_of_the_page_runs(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(shapes)
    [block] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(block.replace('"catalogue"', repr(CONTENT)), "docs/recipes.md", "exec"), {"__name__": "page"})
    assert Path("runs/bytes/metrics.json").exists()


# --- code of a user's own on several processes ------------------------------------------------------------------------

COOLING = """
import torch
from mmts.policies import Policy


class Cooling(Policy):
    \"\"\"From `start` down by the share of the run that is done, more for pairs that fit already.

    start: where it starts.
    \"\"\"

    uses_similarity = True

    def __init__(self, start: float = 0.3) -> None:
        super().__init__()
        self.start = start

    def forward(self, progress, index, similarity=None):
        return self.start * (1 - 0.5 * progress) + 0.05 * similarity.diagonal() + 1e-3 * (index % 3)
"""
RECIPE = """
model:
  image: {tower: small-vit, train: all, size: 16, options: {patch: 8, width: 16, depth: 1, heads: 2, dropout: 0}}
  text: {tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2, dropout: 0}}
  head: {hidden: 16, dropout: 0}
  width: 16
objective: {temperature: {rule: "cooling.py:Cooling"}}
concepts: {encoder: tfidf, num_concepts: 4}
train: {epochs: 2, batch_size: 9, trackers: [], log_every: 1}
"""


def train_by_file(recipe: Path, out: Path, data: Path, cache: Path) -> dict[str, Any]:
    os.environ["MMTS_CACHE"] = str(cache)
    return mmts.train(recipe, out, data=data)


@pytest.mark.slow
def test_a_policy_beside_the_recipe_trains_alike_on_one_process_and_on_two(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "cooling.py").write_text(COOLING)
    (tmp_path / "my.yaml").write_text(RECIPE)
    mmts.train(tmp_path / "my.yaml", tmp_path / "one", data=shapes)
    first, second = together(2, train_by_file, tmp_path / "my.yaml", tmp_path / "two", shapes, tmp_path / "cache")
    assert first == second
    one, two = ([line["loss"] for line in log(tmp_path / name)] for name in ("one", "two"))
    assert len(one) > 4
    assert two == pytest.approx(one, abs=1e-6)
