"""Whole runs on small folders of drawn images: train, judge, judge again, resume; and what goes wrong."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_support import draw_shapes

from mmts.errors import DataError, Interrupted, MmtsError, RecipeError, RunError
from mmts.evaluation import run as evaluation
from mmts.evaluation.run import evaluate
from mmts.recipe.recipe import Recipe, load_recipe
from mmts.training import run as runs
from mmts.training.run import train

SCRATCH = [
    "model.image.tower=small-resnet",
    "model.image.train=all",
    "model.image.size=16",
    "model.image.options={channels: 8, depth: 1}",
    "model.text.tower=small-transformer",
    "model.text.train=all",
    "model.text.options={width: 16, depth: 1, heads: 2}",
    "model.head.hidden=16",
    "model.width=16",
    "concepts.encoder=tfidf",
    "concepts.num_concepts=4",
    "train.epochs=2",
    "train.batch_size=12",
    "train.trackers=[]",
    "train.log_every=1",
]


def scratch(data: Path, *settings: str) -> Recipe:
    return load_recipe("catalogue", [*SCRATCH, *settings]).with_data(data)


def test_a_run_from_scratch_leaves_what_is_documented(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    metrics = train(scratch(shapes, "objective.temperature.rule=shifted"), out)
    assert {each.name for each in out.iterdir()} == {
        "recipe.yaml", "log.jsonl", "checkpoints", "concepts.npz", "vocabulary.json", "metrics.json", "judgement.npz",
    }  # fmt: skip
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["split"] == "test"
    assert metrics["num_captions"] == 2 * metrics["num_media"]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {"step", "progress", "loss", "lr", "temperature", "groups", "val"} <= set(lines[-1])
    assert set(lines[-1]["val"]) == {"text_to_image", "image_to_text", "groups"}

    again = evaluate(out)
    assert again == metrics
    assert "replaced" not in capsys.readouterr().out
    assert evaluate(out, checkpoint="last")["num_media"] == metrics["num_media"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"replaced those of the best checkpoint; `mmts evaluate {out} --checkpoint best` writes those" in said


def test_a_run_is_scored_by_labels_which_later_evaluations_keep(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(shapes, other)
    lines = [json.loads(line) for line in (other / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        line["labels"] = {} if line["id"] == "7" else {"shape": line["labels"]["shape"], "colour": "unseen"}
    (other / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    plain = train(scratch(shapes, "train.epochs=1"), out)
    capsys.readouterr()
    metrics = evaluate(out, labels=["shape"])
    assert "by shape, 3 values in training" in capsys.readouterr().out
    assert {key: metrics[key] for key in plain} == plain
    shape = metrics["labels"]["shape"]
    training = [line for line in map(json.loads, (shapes / "captions.jsonl").open()) if line["split"] == "train"]
    for value, figures in shape["classes"].items():
        assert figures["num_training"] == sum(2 for line in training if line["labels"]["shape"] == value)
    assert sum(figures["num_media"] for figures in shape["classes"].values()) == plain["num_media"]
    assert evaluate(out) == metrics
    # Other data are divided by the counts of the training data, which have no colour.
    assert evaluate(out, other, "test", labels=["shape"])["labels"]["shape"]["num_unlabeled"] == 1
    monkeypatch.setattr(
        evaluation, "noting_unreadable", lambda *_: pytest.fail("media were decoded before labels were checked")
    )
    with pytest.raises(RecipeError, match="--label, train: the data has no label 'colour'"):
        evaluate(out, other, "test", labels=["colour"])
    with pytest.raises(RecipeError, match="did you mean 'shape'"):
        evaluate(out, labels=["shap"])


def test_frozen_towers_are_cached_and_not_in_the_checkpoint(shapes: Path, tmp_path: Path) -> None:
    settings = ["model.text.tower=minilm", "model.text.train=head", "model.text.options={}"]
    settings += ["model.image.tower=efficientnet-lite0", "model.image.train=head", "model.image.size=32"]
    recipe = scratch(shapes, *settings, "model.image.options={}")
    train(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "best.pt").stat().st_size < 300_000
    first = (tmp_path / "run" / "metrics.json").read_text()
    embeddings = tmp_path / "embeddings.npz"
    evaluate(tmp_path / "run", embeddings_file=embeddings)
    assert (tmp_path / "run" / "metrics.json").read_text() == first
    with np.load(embeddings) as stored:
        np.testing.assert_allclose(np.linalg.norm(stored["media"], axis=1), 1, rtol=1e-5)
        assert len(stored["text"]) == len(stored["owner"]) == 2 * len(stored["media"])


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(shapes: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(scratch(shapes, f"train.seed={seed}"), tmp_path / name)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in "abc"]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize("sampling", ["null", "{power: 0, start: 0.5}"])
def test_an_interrupted_run_resumes_exactly(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampling: str
) -> None:
    recipe = scratch(shapes, "data.workers=1", f"data.sampling={sampling}")
    train(recipe, tmp_path / "whole")
    batches = runs.training_batches

    def interrupting(*arguments: Any) -> Any:
        original = batches(*arguments)

        def of_epoch(epoch: int, first: int) -> Any:
            for at, batch in enumerate(original(epoch, first)):
                if (epoch, at) == (1, 0):
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

        return of_epoch

    monkeypatch.setattr(runs, "training_batches", interrupting)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / "metrics.json").exists()
    # Judging it on the way does not end it.
    assert evaluate(tmp_path / "stopped", checkpoint="last")["stopped_at"] == {"step": 3, "total_steps": 4}
    train(recipe, tmp_path / "stopped", resume=True)
    for name in ("log.jsonl", "metrics.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "stopped" / name).read_text()


def test_other_data_and_splits_go_to_evaluations(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(scratch(shapes), out)
    before = (out / "metrics.json").read_text()
    other = draw_shapes(tmp_path / "other", 30)
    evaluate(out, other)
    evaluate(out, split_name="val")
    namesake = draw_shapes(tmp_path / "elsewhere" / "other", 30)
    evaluate(out, namesake)
    names = sorted(re.sub("-[0-9a-f]{6}-", "-#-", each.name) for each in (out / "evaluations").iterdir())
    figures = ["other-#-test.json", "other-#-test.json", "shapes-val.json"]
    assert names == sorted([*figures, *(name.replace("json", "npz") for name in figures)])
    assert (out / "metrics.json").read_text() == before


def test_concepts_can_come_from_a_label(shapes: Path, tmp_path: Path) -> None:
    label = ["concepts={source: label, label: shape}"]
    metrics = train(scratch(shapes, *label), tmp_path / "run")
    queries = [part["num_queries"] for part in metrics["groups"].values() if part is not None]
    assert sum(queries) == metrics["num_captions"]
    with pytest.raises(RecipeError, match=r"no label 'shap'; did you mean 'shape'"):
        train(scratch(shapes, "concepts={source: label, label: shap}"), tmp_path / "wrong")


def test_data_without_val_or_test_says_what_counts_instead(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    lines = (data / "captions.jsonl").read_text().replace('"val"', '"train"').replace('"test"', '"train"')
    (data / "captions.jsonl").write_text(lines)
    metrics = train(scratch(data), tmp_path / "run")
    assert metrics["split"] == "train"
    said = capsys.readouterr().out
    assert "the last checkpoint counts as the best" in said
    assert "evaluated on train" in said
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert evaluate(tmp_path / "run") == metrics


def test_a_few_unreadable_images_are_left_out_and_named(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    (data / "images" / "1.png").write_bytes(b"")
    (data / "images" / "7.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: is empty"):
        train(scratch(data), tmp_path / "refused")
    assert "1.png\tis empty" in (tmp_path / "refused" / "unreadable.txt").read_text()
    metrics = train(scratch(data, "data.max_unreadable=0.5"), tmp_path / "run")
    named = (tmp_path / "run" / "unreadable.txt").read_text()
    assert "1.png\tis empty" in named
    assert "7.png\tdoes not exist" in named
    assert metrics["num_media"] == sum(1 for i in range(48) if i % 6 and i % 7 == 0) - 1


def test_a_folder_that_holds_another_run_is_refused(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(scratch(shapes), out)
    with pytest.raises(RunError, match="already holds a run; add --resume"):
        train(scratch(shapes), out)
    assert train(scratch(shapes), out, resume=True)["split"] == "test"
    with pytest.raises(RunError, match=r"another recipe: train\.seed \(0 there, 3 now\)"):
        train(scratch(shapes, "train.seed=3"), out, resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="holds files that are not a run's"):
        train(scratch(shapes), tmp_path / "full")
    with pytest.raises(RunError, match="is a file"):
        train(scratch(shapes), tmp_path / "full" / "letter.txt")


def test_a_run_that_never_trained_leaves_its_folder_free(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(MmtsError, match="5000"):
        train(scratch(shapes, "concepts.num_concepts=5000"), tmp_path / "run")
    assert train(scratch(shapes), tmp_path / "run")["split"] == "test"


def test_data_without_the_label_of_the_concepts_count_as_tail(shapes: Path, tmp_path: Path) -> None:
    train(scratch(shapes, "concepts={source: label, label: shape}"), tmp_path / "run")
    bare = draw_shapes(tmp_path / "bare")
    lines = (bare / "captions.jsonl").read_text().replace('"shape":', '"form":')
    (bare / "captions.jsonl").write_text(lines)
    metrics = evaluate(tmp_path / "run", bare)
    assert metrics["groups"]["head"] is None
    assert metrics["groups"]["tail"]["num_queries"] == metrics["num_captions"]


def test_mistakes_found_before_training_leave_no_run_behind(shapes: Path, tmp_path: Path) -> None:
    wrong = [(scratch(tmp_path / "nowhere"), DataError), (load_recipe("catalogue", SCRATCH), DataError)]
    for recipe, error in wrong:
        with pytest.raises(error):
            train(recipe, tmp_path / "run")
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["concepts.num_concepts=5000"], "5000"),
        (["model.image.train=head"], "starts from random weights"),
        (["model.head.kind=none", "model.width=7"], "keeps the tower's width"),
    ],
)
def test_recipes_that_cannot_work_say_why(shapes: Path, tmp_path: Path, settings: list[str], says: str) -> None:
    with pytest.raises(MmtsError, match=says):
        train(scratch(shapes, *settings), tmp_path / "run")


def test_one_sample_cannot_be_trained_on(tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "one", 1)
    (data / "captions.jsonl").write_text((data / "captions.jsonl").read_text().replace('"val"', '"train"'))
    with pytest.raises(MmtsError, match="at least 2 media"):
        train(scratch(data), tmp_path / "run")


def test_a_lost_best_checkpoint_is_an_error(shapes: Path, tmp_path: Path) -> None:
    train(scratch(shapes), tmp_path / "run")
    before = (tmp_path / "run" / "metrics.json").read_text()
    (tmp_path / "run" / "checkpoints" / "best.pt").unlink()
    with pytest.raises(RunError, match="--checkpoint last takes the last one"):
        evaluate(tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").read_text() == before


def test_a_resumed_run_knows_its_data(shapes: Path, tmp_path: Path) -> None:
    metrics = train(scratch(shapes), tmp_path / "run")
    assert train(load_recipe("catalogue", SCRATCH), tmp_path / "run", resume=True) == metrics


def test_evaluate_refuses_anything_but_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(RunError, match="best, last or interpolated"):
        evaluate(tmp_path, checkpoint="first")


def test_a_resume_may_change_settings_that_affect_no_step_with_a_note(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(scratch(shapes), tmp_path / "whole")

    def stop(*_: Any) -> Any:
        raise DataError("the disk is away")

    monkeypatch.setattr(runs, "load_weights", stop)  # everything is trained, nothing is evaluated
    with pytest.raises(DataError, match="away"):
        train(scratch(shapes), tmp_path / "run")
    monkeypatch.undo()
    for setting in ("train.batch_size=6", "train.epochs=3"):
        with pytest.raises(
            RunError, match=r"another recipe: train\.\w+ \(\d+ there, \d now\); the progress .* would jump"
        ):
            train(scratch(shapes, setting), tmp_path / "run", resume=True)
    capsys.readouterr()
    metrics = train(scratch(shapes, "data.workers=1", "train.on_nan=skip"), tmp_path / "run", resume=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "other settings: data.workers (0 there, 1 now); train.on_nan ('stop' there, 'skip' now)" in said
    assert metrics == json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.workers == 1
    train(scratch(shapes, "data.workers=2"), tmp_path / "run", resume=True)  # it is finished: nothing is noted
    assert load_recipe(tmp_path / "run" / "recipe.yaml").data.workers == 1


def test_a_folder_with_only_a_half_written_file_is_free(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.yaml.abcd_123.tmp").write_text("half")
    train(scratch(shapes), tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))
