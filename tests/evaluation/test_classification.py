"""Zero-shot classification: classes and prompts, figures by hand, whole runs against plain loops, runs side by side."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from tests_support import draw_shapes
from training.test_start import from_pair

from mmts.console import console
from mmts.data.records import Label, Medium, Split
from mmts.errors import DataError, MmtsError, RecipeError
from mmts.evaluation import run as evaluation
from mmts.evaluation.class_results import ClassResults
from mmts.evaluation.classification import (
    Classes,
    class_embeddings,
    classification_figures,
    find_classes,
    read_prompts,
)
from mmts.evaluation.compare import comparison_as_mapping, comparison_tables
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.pretrained import evaluate_pretrained
from mmts.evaluation.results import read_results
from mmts.evaluation.run import evaluate
from mmts.models import embed_media, embed_text
from mmts.training.run import train
from mmts.training.start import open_pair

TEMPLATES = ("{}", "a photo of a {}.")


def labeled(name: str, *values: Label | None) -> Split:
    """Return a split of media with these values of the label `fruit`, two captions each."""
    labels: list[dict[str, Label]] = [{} if value is None else {"fruit": value} for value in values]
    media = [Medium(f"{name}{i}", Path(f"{i}.png"), ("a", "b"), each) for i, each in enumerate(labels)]
    return Split(name, media)


def classes_of(target: Sequence[int], num_training: Sequence[int]) -> Classes:
    names = [f"class {at}" for at in range(len(num_training))]
    return Classes("fruit", TEMPLATES, names, num_training, torch.tensor(target))


# --- classes and prompts ---------------------------------------------------------------------------------------------


def test_classes_are_the_values_of_train_and_of_the_judged_media() -> None:
    classes = find_classes(
        "fruit", TEMPLATES, labeled("train", "fig", "fig", "plum_tart"), labeled("test", "kiwi", None, "fig")
    )
    assert classes.names == ["fig", "kiwi", "plum_tart"]
    assert classes.num_training == [2, 0, 1]  # media, not captions
    assert classes.target.tolist() == [1, -1, 0]
    assert classes.prompts[4:] == ["plum tart", "a photo of a plum tart."]


def test_a_list_of_one_value_is_that_class_and_an_empty_list_none() -> None:
    classes = find_classes("fruit", TEMPLATES, labeled("train", ["fig"], []), labeled("test", ["kiwi"], [], "fig"))
    assert (classes.names, classes.num_training, classes.target.tolist()) == (["fig", "kiwi"], [1, 0], [1, -1, 0])


def test_train_may_lack_the_label() -> None:
    for train_split in (labeled("train", None), None):
        classes = find_classes("fruit", TEMPLATES, train_split, labeled("test", "fig"))
        assert classes.num_training == [0]
        assert classes.groups.tolist() == [2]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((None, None), "classify, test: the data has no label 'fruit'"),
        (("fig", ["fig", "plum"]), "medium 'test1' has 2 values of fruit, 'fig', 'plum'; classification"),
        (("fig", " _"), "medium 'test1' has the fruit ' _', which no prompt can say"),
        (("star_fruit", "star fruit"), "fruit has the values 'star fruit' and 'star_fruit', which a prompt says alike"),
    ],
)
def test_labels_that_name_no_classes_are_refused(values: tuple[Label | None, ...], says: str) -> None:
    with pytest.raises((RecipeError, DataError), match=says):
        find_classes("fruit", TEMPLATES, labeled("train", "fig"), labeled("test", *values))


def test_groups_follow_imagenet_lt() -> None:
    assert classes_of([0], [0, 19, 20, 100, 101]).groups.tolist() == [2, 2, 1, 1, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a {}\na photo\n", r"prompts.txt, line 2: 'a photo': a template contains \{\} exactly once"),
        (b"{} and {}", "prompts.txt, line 1: '{} and {}'"),
        (b"\n \n", r"prompts.txt is empty; it needs a template per line, such as: a photo of a \{\}\."),
        (b"\xff{}", "prompts.txt is not UTF-8 text"),
        (None, "prompts.txt does not exist"),
    ],
)
def test_wrong_prompts_name_the_line(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(RecipeError, match=says):
        read_prompts(tmp_path / "prompts.txt")


def test_prompts_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("\ufeffein Bild: {}\r\n\r\n {0} {} {name!r} \n".encode())
    templates = read_prompts(tmp_path / "prompts.txt")
    assert templates == ("ein Bild: {}", "{0} {} {name!r}")  # no format, which could look into objects
    assert Classes("fruit", templates, ["{}"], [1], torch.tensor([0])).prompts == ["ein Bild: {}", "{0} {} {name!r}"]


def test_the_embedding_of_a_class_equals_the_loop_twin() -> None:
    prompts = 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    expected = [reference.class_embedding(prompts[at : at + 2].tolist()) for at in (0, 2, 4)]
    assert torch.allclose(class_embeddings(prompts, 2), torch.tensor(expected), atol=1e-6)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_figures_made_by_hand() -> None:
    # Classes 0 (many) and 1 to 3 (few); class 3 has no judged medium; the last medium has no class.
    classes = classes_of([0, 0, 0, 0, 1, 1, 2, -1], [500, 3, 2, 0])
    top = torch.tensor([[0, 1], [0, 1], [0, 2], [1, 0], [0, 1], [0, 1], [2, 0], [-1, -1]])
    figures = classification_figures(classes, top)
    assert (figures["num_classes"], figures["num_media"], figures["num_unlabeled"]) == (4, 7, 1)
    assert figures["top1"] == pytest.approx(400 / 7)
    assert figures["top5"] == pytest.approx(600 / 7 + 100 / 7)
    assert figures["mean_per_class"] == pytest.approx((75 + 0 + 100) / 3)
    assert figures["groups"]["many"]["mean_per_class"] == pytest.approx(75)
    assert figures["groups"]["medium"] is None
    assert (figures["groups"]["few"]["num_classes"], figures["groups"]["few"]["mean_per_class"]) == (2, 50.0)
    for place in (figures["intervals"]["mean_per_class"], figures["groups"]["few"]["interval"]):
        assert 0 <= place[0] < 50 < place[1] <= 100
    assert figures["classes"]["class 0"] == {"num_training": 500, "num_media": 4, "accuracy": 75.0, "mostly": "class 1"}
    assert figures["classes"]["class 1"]["mostly"] == "class 0"
    assert figures["classes"]["class 3"] == {"num_training": 0, "num_media": 0, "accuracy": None, "mostly": None}
    json.dumps(figures)


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("data") / "shapes", count=50)


def change_lines(data: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = data / "captions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        change(line)
    file.write_text("\n".join(map(json.dumps, lines)))
    return data


@pytest.mark.parametrize("form", ["head", "all"])
def test_step_0_classifies_as_the_pair_does(form: str, shapes: Path, clip: Path, tmp_path: Path) -> None:
    """Text features of a frozen tower come from the cache, those of one that trains from the tower itself."""
    (tmp_path / "prompts.txt").write_text("{}\na {} in red\n")
    forms = [f"model.image.train={form}", f"model.text.train={form}"]
    by = ["evaluation.classify=shape", f"evaluation.prompts={tmp_path / 'prompts.txt'}"]
    metrics = train(from_pair(clip, shapes, *forms, *by, "train.steps=0"), tmp_path / "run")
    lines = [json.loads(line) for line in (shapes / "captions.jsonl").open()]
    judged = [line for line in lines if line["split"] == "test"]
    names, pair = sorted({line["labels"]["shape"] for line in lines}), open_pair(str(clip))
    media = embed_media(pair, [Medium("x", shapes / line["image"], ("x",)) for line in judged])
    towards = [reference.class_embedding(embed_text(pair, [name, f"a {name} in red"]).tolist()) for name in names]
    scores = (media.double() @ torch.tensor(towards).double().T).tolist()
    true = [names.index(line["labels"]["shape"]) for line in judged]
    right = [float(reference.is_among_best(row, at, 1)) for row, at in zip(scores, true, strict=True)]
    result = metrics["classification"]
    assert result["top1"] == pytest.approx(100 * reference.mean(right))
    assert result["mean_per_class"] == pytest.approx(100 * reference.mean_per_class(right, true))
    for name in names:
        number = sum(line["split"] == "train" and line["labels"]["shape"] == name for line in lines)
        assert result["classes"][name]["num_training"] == number
    stored = Judged.load(tmp_path / "run")
    assert stored.classes is not None
    assert [*stored.classes.names] == names
    for row, top in zip(scores, stored.class_top.tolist(), strict=True):
        assert [row[at] for at in top] == sorted(row, reverse=True)


def test_a_run_is_classified_again_as_before(
    shapes: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    plain = train(from_pair(clip, shapes, "train.steps=1"), out)
    assert "classification" not in plain
    (tmp_path / "prompts.txt").write_text("the {}\n")
    capsys.readouterr()
    metrics = evaluate(out, classify_by="shape", prompts=tmp_path / "prompts.txt")
    assert {key: metrics[key] for key in plain} == plain
    printed = capsys.readouterr().out
    assert "classified by shape: 6 media; percent" in printed
    assert max(map(len, printed[printed.index("classified by") :].split("metrics:")[0].splitlines())) <= 80
    (tmp_path / "prompts.txt").unlink()
    assert evaluate(out) == metrics
    assert metrics["classification"]["prompts"] == ["the {}"]
    assert json.loads((out / "metrics.json").read_text()) == metrics
    again = evaluate(out, classify_by="shape")
    assert len(again["classification"]["prompts"]) == 6
    monkeypatch.setattr(
        evaluation, "load_model", lambda *_: pytest.fail("the model was loaded before the label was checked")
    )
    with pytest.raises(RecipeError, match="did you mean 'shape'"):
        evaluate(out, classify_by="shap")
    with pytest.raises(RecipeError, match="--prompts is for --classify LABEL"):
        evaluate(out, prompts=tmp_path / "prompts.txt")


def test_other_data_are_classified_by_what_train_counts(
    shapes: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(shapes, tmp_path / "other")

    def relabel(line: dict[str, Any]) -> None:
        value = line["labels"]["shape"]
        line["labels"] = {"form": value} if line["id"] == "7" else {"shape": f"{value}_new", "form": value}

    change_lines(other, relabel)
    out = tmp_path / "run"
    train(from_pair(clip, shapes, "train.steps=0"), out)
    by_shape = evaluate(out, other, classify_by="shape")["classification"]
    assert by_shape["num_classes"] == 6  # three of train, three of the other data, which train lacks
    assert by_shape["num_unlabeled"] == 1
    assert by_shape["classes"]["bar_new"]["num_training"] == 0
    assert by_shape["groups"]["many"] is None
    assert "no label form" not in capsys.readouterr().out
    by_form = evaluate(out, other, classify_by="form")["classification"]
    assert f"the training data have no label form, so train of {other}" in capsys.readouterr().out
    assert by_form["classes"]["bar"]["num_training"] > 0
    assert evaluate(out, other)["classification"] == by_form


def test_pairs_without_training_are_classified_and_embeddings_are_not(shapes: Path, clip: Path, tmp_path: Path) -> None:
    before = evaluate_pretrained(str(clip), shapes, tmp_path / "before", classify_by="shape")
    after = train(from_pair(clip, shapes, "train.steps=0", "evaluation.classify=shape"), tmp_path / "run")
    assert before["classification"] == after["classification"]
    without = shutil.copytree(shapes, tmp_path / "without")
    change_lines(without, lambda line: line.update(split="test"))
    (tmp_path / "prompts.txt").write_text("my {}\n")
    prompts = tmp_path / "prompts.txt"
    evaluate_pretrained(str(clip), shapes, tmp_path / "mine", classify_by="shape", prompts=prompts)
    both = read_results([tmp_path / "before", tmp_path / "mine"]).groups
    assert [group.name for group in both] == ["before", "mine"]
    all_few = evaluate_pretrained(str(clip), without, tmp_path / "few", classify_by="shape")["classification"]
    assert (all_few["groups"]["medium"], all_few["groups"]["few"]["num_classes"]) == (None, 3)
    evaluate(tmp_path / "run", embeddings_file=tmp_path / "rows.npz")
    with pytest.raises(RecipeError, match=r"rows\.npz holds embeddings; --classify needs a model to embed prompts"):
        evaluate_pretrained(str(tmp_path / "rows.npz"), shapes, tmp_path / "rows", classify_by="shape")


def test_tuning_is_compared_with_the_start(
    shapes: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["train.steps=2", "train.learning_rate=.1", "evaluation.classify=shape"]
    metrics = train(from_pair(clip, shapes, *settings), tmp_path / "run")
    start = evaluate_pretrained(str(clip), shapes, tmp_path / "before", classify_by="shape")
    assert metrics["before"]["classification"] == start["classification"]
    assert "classified by shape, and the difference to before" in " ".join(capsys.readouterr().out.split())
    classes = ClassResults.of(read_results([tmp_path / "run"]).groups)
    assert classes is not None
    gap = classes.gap(1, "top1")
    assert gap is not None
    assert gap.mean == pytest.approx(metrics["classification"]["top1"] - start["classification"]["top1"])
    shutil.rmtree(tmp_path / "run" / "evaluations")
    alone = read_results([tmp_path / "run"])
    assert [len(group.runs) for group in alone.groups] == [1]
    assert "without the scores before training, since there is no" in alone.notes[0]


def test_a_run_that_is_resumed_with_a_label_classifies_its_start_too(shapes: Path, clip: Path, tmp_path: Path) -> None:
    train(from_pair(clip, shapes, "train.steps=2"), tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()  # as if it had been interrupted before the end
    recipe = from_pair(clip, shapes, "train.steps=2", "evaluation.classify=shape")
    metrics = train(recipe, tmp_path / "run", resume=True)
    start = evaluate_pretrained(str(clip), shapes, tmp_path / "before", classify_by="shape")
    assert metrics["before"]["classification"] == start["classification"]


def test_training_refuses_a_label_before_it_builds_a_model(shapes: Path, clip: Path, tmp_path: Path) -> None:
    for settings, says in (
        (["evaluation.classify=shap"], "did you mean 'shape'"),
        (["evaluation={classify: shape, prompts: nowhere.txt}"], "nowhere.txt does not exist"),
    ):
        with pytest.raises(MmtsError, match=says):
            train(from_pair(clip, shapes, *settings), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="prompts are for classify, which names a label and is missing"):
        from_pair(clip, shapes, "evaluation.prompts=x.txt")


# --- side by side ----------------------------------------------------------------------------------------------------


def changed(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the arrays, and the description under "meta", of a run's judgement.npz."""
    file = run / "judgement.npz"
    with np.load(file) as stored:
        arrays: dict[str, Any] = {name: stored[name] for name in stored.files}
    arrays["meta"] = json.loads(str(arrays["meta"]))
    change(arrays)
    arrays["meta"] = np.array(json.dumps(arrays["meta"]))
    np.savez_compressed(file, **arrays)
    return run


def classified(path: Path, source: Path, answers: Sequence[int], seed: int = 0, steps: int = 0) -> Path:
    """Copy a run; its test media, of classes 0 0 1 1 2 2, get these answers."""
    shutil.copytree(source, path)
    recipe = (path / "recipe.yaml").read_text()
    (path / "recipe.yaml").write_text(
        recipe.replace("\n  seed: 0\n  trackers", f"\n  seed: {seed}\n  trackers").replace(
            "steps: 0", f"steps: {steps}"
        )
    )

    def set_answers(arrays: dict[str, Any]) -> None:
        arrays["class_target"] = np.array([0, 0, 1, 1, 2, 2])
        arrays["class_top"] = np.array(answers)[:, None]
        arrays["meta"]["classes"] |= {"num_training": [300, 30, 3]}

    return changed(path, set_answers)


@pytest.fixture(scope="module")
def source(shapes: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "source"
    train(from_pair(clip, shapes, "evaluation.classify=shape", "train.steps=0"), out)
    return out


def test_runs_are_compared_medium_by_medium(source: Path, tmp_path: Path) -> None:
    first = classified(tmp_path / "a", source, [0, 0, 1, 0, 0, 0])
    seeds = [
        classified(tmp_path / "b0", source, [0, 1, 1, 0, 2, 0], steps=1),
        classified(tmp_path / "b1", source, [0, 1, 1, 1, 2, 2], seed=1, steps=1),
    ]
    results = read_results([first, *seeds])
    classes = ClassResults.of(results.groups)
    assert classes is not None
    assert [str(classes.figure(1, name)) for name in ("top1", "few")] == ["66.7 ± 23.6", "75.0 ± 35.4"]
    assert classes.gap(0, "top1") is None
    for measure, mean in (("top1", 100 / 6), ("mean_per_class", 100 / 6), ("many", -50), ("medium", 25), ("few", 75)):
        gap = classes.gap(1, measure)
        assert gap is not None
        assert gap.mean == pytest.approx(mean)
        assert gap.low <= gap.mean <= gap.high
    assert classes.of_class(1, "stripe") == classes.figure(1, "few")
    with console.capture() as captured:
        for table in comparison_tables(results):
            console.print(table)
    printed = captured.get()
    assert max(map(len, printed.splitlines())) <= 80
    assert "few (< 20)" in printed
    assert "+75.0" in printed
    mapping = comparison_as_mapping(results)["groups"]
    assert mapping[1]["classification"]["few"]["gap"]["mean"] == pytest.approx(75)
    assert mapping[0]["classification"]["few"]["gap"] is None


def test_runs_with_other_classes_are_left_out_and_named(source: Path, tmp_path: Path) -> None:
    first = classified(tmp_path / "a", source, [0] * 6)
    other = classified(tmp_path / "b", source, [0] * 6, steps=1)
    bare = classified(tmp_path / "c", source, [0] * 6, steps=2)
    changed(other, lambda arrays: arrays["meta"]["classes"].update(names=["bar", "ring", "stripe"]))
    changed(bare, lambda arrays: arrays["meta"].pop("classes"))
    results = read_results([first, other, bare])
    classes = ClassResults.of(results.groups)
    assert classes is not None
    assert classes.left_out == ["b", "c"]
    asked_otherwise = classified(tmp_path / "d", source, [0] * 6, steps=3)
    changed(asked_otherwise, lambda arrays: arrays["meta"]["classes"].update(templates=["my {}"]))
    results = read_results([first, other, bare, asked_otherwise])
    with console.capture() as captured:
        console.print(comparison_tables(results)[-1])
    assert "not classified, or with other classes: b, c" in captured.get()
    assert "classified with other templates than the first: d" in captured.get()
    assert ClassResults.of(read_results([bare]).groups) is None
