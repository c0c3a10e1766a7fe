"""How runs begin and end: nothing to train, no steps, failed starts, the measure of the best, what is kept of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests_support import draw_shapes

from mmts.apps.analysis import write_captions
from mmts.errors import MmtsError, RecipeError, RunError
from mmts.evaluation.measures import measured
from mmts.evaluation.results import read_results
from mmts.evaluation.run import evaluate
from mmts.recipe.recipe import Recipe, load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.report import write_report
from mmts.training import run as runs
from mmts.training.checkpoint import load_checkpoint
from mmts.training.run import train

SETTINGS = [
    "model.image={tower: small-resnet, train: all, size: 16, options: {channels: 4, depth: 1}}",
    "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
    "model.head={hidden: 16}",
    "model.width=16",
    "concepts={encoder: tfidf, num_concepts: 4}",
    "train={epochs: 2, batch_size: 12, trackers: [], log_every: 1}",
]
AS_IT_IS = ["model.head.kind=none"]


def small(data: Path, *settings: str) -> Recipe:
    return load_recipe("catalogue", [*SETTINGS, *settings]).with_data(data)


@pytest.mark.parametrize(
    "settings",
    [["objective.temperature=0.07"], ["objective={loss: sogclr}"], ["objective={loss: max_margin}"], ["train.steps=3"]],
)
def test_a_recipe_in_which_nothing_trains_is_refused(settings: list[str]) -> None:
    says = r"nothing trains: .*model\.image\.train or model\.text\.train to all, or model\.head\.kind to linear"
    with pytest.raises(RecipeError, match=says):
        load_recipe("catalogue", [*AS_IT_IS, *settings])


@pytest.mark.parametrize(
    "setting",
    ["objective.temperature.rule=learned", "objective={loss: siglip}", "objective={loss: tempnet}", "train.epochs=0",
     "model.text.train=all", "model.head.kind=linear"],
)  # fmt: skip
def test_one_thing_that_trains_or_no_step_is_enough(setting: str) -> None:
    load_recipe("catalogue", [*AS_IT_IS, setting])


@pytest.mark.parametrize("length", ["epochs", "steps"])
def test_zero_steps_evaluate_the_model_as_it_is(shapes: Path, tmp_path: Path, length: str) -> None:
    out = tmp_path / "run"
    recipe = small(shapes, f"train.{length}=0", "train.trackers=[tensorboard]")
    metrics = train(recipe, out)
    assert {each.name for each in (out / "checkpoints").iterdir()} == {"best.pt", "last.pt"}
    assert not (out / "log.jsonl").exists()
    assert evaluate(out) == metrics
    assert train(recipe, out, resume=True) == metrics
    (out / "metrics.json").unlink()  # as if it had been stopped while it was judged
    assert train(recipe, out, resume=True) == metrics
    assert read_results([out]).groups
    assert write_report([out], tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["model.image.tower=nowhere/nothing"], MmtsError),
        (["model.image.options={chanels: 4}"], MmtsError),
        (["concepts={source: label, label: colour}"], MmtsError),
        (["concepts.num_concepts=5000"], MmtsError),
        (["data.captions=relevant"], MmtsError),
        (["train.gradient_checkpointing=true", "model.image.train=head"], MmtsError),
    ],
)
def test_a_failed_start_leaves_no_folder(
    shapes: Path, tmp_path: Path, settings: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(small(shapes, *settings), tmp_path / "runs" / "run")
    assert not (tmp_path / "runs" / "run").exists()


def test_a_place_below_a_file_is_named_at_once(shapes: Path, tmp_path: Path) -> None:
    file = shapes / "captions.jsonl"
    for write in (
        lambda: train(small(shapes), file / "run"),
        lambda: write_captions(shapes, file / "captions.txt"),
    ):
        with pytest.raises(NotADirectoryError, match=f"so that there is no place for {file}/") as error:
            write()
        assert error.value.filename == str(file)


def test_captions_are_not_written_over_the_data(shapes: Path) -> None:
    file = shapes / "captions.jsonl"
    with pytest.raises(MmtsError, match="is the data itself; --captions must name a new file"):
        write_captions(file, file)


def test_a_file_given_as_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(b"")
    with pytest.raises(RunError, match=r"mine\.npz is a file, not a run directory"):
        evaluate(tmp_path / "mine.npz")


@pytest.mark.parametrize(
    ("concepts", "changed", "why"),
    [
        ("{encoder: tfidf, num_concepts: 4}", "number 11", "other captions"),
        ("{source: label, label: shape}", '"stripe"', "with other labels"),
    ],
)
def test_a_run_resumes_if_its_data_have_moved_but_not_on_other_data(
    tmp_path: Path, concepts: str, changed: str, why: str
) -> None:
    old, new, out = draw_shapes(tmp_path / "old"), tmp_path / "new", tmp_path / "run"
    settings = [f"concepts={concepts}", "train.epochs=1"]
    metrics = train(small(old, *settings), out)
    (out / "metrics.json").unlink()
    old.rename(new)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "images").symlink_to(new / "images")
    lines = (new / "captions.jsonl").read_text()
    (tmp_path / "other" / "captions.jsonl").write_text(lines.replace(changed, changed.replace("1", "x").upper()))
    with pytest.raises(RunError, match=f"{out} began with other training data .*{why}"):
        train(small(tmp_path / "other", *settings), out, resume=True)
    assert RunDirectory(out).recipe().data.path == old
    assert train(small(new, *settings), out, resume=True) == {**metrics, "data": str(new)}
    assert RunDirectory(out).recipe().data.path == new
    with pytest.raises(RunError, match=r"another recipe: data\.path"):  # it is finished, and its figures are of `new`
        train(small(tmp_path / "other", *settings), out, resume=True)


@pytest.mark.parametrize("stops", ["prepare_inputs", "build_plan"])
def test_ctrl_c_before_training_leaves_the_folder_as_it_was(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: str
) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, stops, stop)
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "run", tmp_path / "mine"):
        with pytest.raises(KeyboardInterrupt):
            train(small(shapes, "train.trackers=[tensorboard]"), out)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_failed_second_start_leaves_files_that_are_not_its_own(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(MmtsError):
        train(small(shapes, "concepts.num_concepts=5000"), out)
    train(small(shapes), out)
    kept = {each.name: each.stat().st_mtime_ns for each in out.iterdir()}
    with pytest.raises(RunError):
        train(small(shapes, "concepts.num_concepts=5000"), out, resume=True)
    assert {each.name: each.stat().st_mtime_ns for each in out.iterdir()} == kept


def test_the_best_checkpoint_is_chosen_by_the_measure(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks([(90, 10), (80, 30), (70, 20)])
    monkeypatch.setattr(runs, "validation", lambda *_: looks)
    for measure, step in (("R@1", 2), ("tail R@5", 4)):
        out = tmp_path / measure
        train(small(shapes, "train.epochs=3", f"train.best={measure}", "data.relevance=own"), out)
        state = load_checkpoint(out / "checkpoints" / "best.pt")
        assert state["step"] == step
    with pytest.raises(RunError, match=r"another recipe: train\.best \('tail R@5' there, 'R@1' now\)"):
        train(small(shapes, "train.epochs=3", "data.relevance=own"), tmp_path / "tail R@5", resume=True)


class Looks:
    """Figures on val, look by look: R@1 of all queries, and R@5 of tail."""

    def __init__(self, looks: list[tuple[int, int]]) -> None:
        self.looks = looks
        self.count = 0

    def __call__(self, *_: Any) -> dict[str, Any]:
        whole, tail = self.looks[self.count % len(self.looks)]
        self.count += 1
        both = ("text_to_image", "image_to_text")
        sides = {side: {"R@1": float(whole)} for side in both}
        return {**sides, "groups": {"tail": {"num_queries": 4, **{side: {"R@5": float(tail)} for side in both}}}}


def test_measures_are_means_of_both_directions() -> None:
    side = {"R@1": 10.0, "R@5": 20.0, "R@10": 60.0, "mAP": 5.0}
    other = {"R@1": 30.0, "R@5": 40.0, "R@10": 80.0, "mAP": 6.0}
    group = {"num_queries": 3, "text_to_video": side, "video_to_text": None}
    figures = {"text_to_video": side, "video_to_text": other, "groups": {"head": group, "mid": None}}
    assert [measured(figures, name) for name in ("R@5", "mean recall", "mAP")] == [30.0, 40.0, 5.5]
    assert [measured(figures, name) for name in ("head R@1", "mid R@1")] == [None, None]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["train.best=mAP"], "train.best is 'mAP', which needs data.relevance graded"),
        (["train.best=tail nDCG"], "train.best is 'tail nDCG', which needs data.relevance graded"),
        (["train.best=tail R@3"], r"unknown measure 'tail R@3'; did you mean 'tail R@"),
        (["train.best=recall"], "unknown measure 'recall'; did you mean 'mean recall'"),
        (["train.best=5"], r"train\.best is 5; it must be text"),
    ],
)
def test_a_wrong_measure_is_refused_before_anything_is_read(settings: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe("catalogue", settings)


def test_choosing_by_a_group_without_queries_in_val_is_refused_early(shapes: Path, tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "shapes")
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["labels"] = {"shape": "rare" if line["split"] == "train" and number > 40 else "common"}
    (data / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ["concepts={source: label, label: shape}", "train.best=tail R@5"]
    with pytest.raises(RecipeError, match=r"train.best is 'tail R@5', and val has no queries of tail concepts"):
        train(small(data, *settings), tmp_path / "run")


def test_trackers_get_val_by_group_and_test(shapes: Path, tmp_path: Path) -> None:
    metrics = train(small(shapes, "train.trackers=[tensorboard]"), tmp_path / "run")
    val = list(RunDirectory(tmp_path / "run").log_lines())[-1]["val"]
    group = next(name for name in ("tail", "mid", "head") if val["groups"][name] and metrics["groups"][name])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"val/text_to_image/R@1", f"val/groups/{group}/text_to_image/R@5", f"val/groups/{group}/num_queries"} <= tags
    [point] = events.Scalars(f"test/groups/{group}/text_to_image/R@1")
    assert point.step == 4
    assert point.value == pytest.approx(metrics["groups"][group]["text_to_image"]["R@1"])
    assert not any("intervals" in tag for tag in tags)
    assert val["groups"][group]["num_queries"] > 0


def test_embeddings_are_saved_with_ids_and_captions(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small(shapes, "train.epochs=0"), out)
    evaluate(out, split_name="val", embeddings_file=tmp_path / "val.npz")
    with np.load(tmp_path / "val.npz", allow_pickle=False) as stored:
        assert stored["media_id"].tolist() == [str(i) for i in range(0, 48, 6)]
        assert stored["text_id"].tolist()[:3] == ["0#0", "0#1", "6#0"]
        assert stored["caption"].tolist()[1:3] == ["square in white", "a red square number 6"]
        assert len(stored["media"]) == 8
        assert len(stored["text"]) == len(stored["text_id"]) == len(stored["caption"]) == len(stored["owner"]) == 16
        words = {name: str(stored[name]) for name in ("split", "run", "recipe", "checkpoint", "relevance")}
    right = {"split": "val", "run": str(out), "recipe": "catalogue", "checkpoint": "best", "relevance": "text"}
    assert words == right
