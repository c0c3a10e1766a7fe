"""A sweep's figures: by split, direction and part, averaged over concepts, and divided by labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_sweep import row, rows, write_sweep

from mmts.concepts import ConceptDistribution
from mmts.data.read import read_dataset
from mmts.errors import RecipeError
from mmts.evaluation.judgement_file import Judged
from mmts.sweep import run_sweep


def test_every_variant_is_tuned_on_val_and_evaluated_on_test_with_other_seeds(finished: Path) -> None:
    splits = {
        str(file.parent.relative_to(finished)): json.loads(file.read_text())["split"]
        for file in finished.rglob("metrics.json")
    }
    assert splits == {
        **{f"trials/{variant}/{number}/seed-100": "val" for variant in ("fixed", "mm-ts") for number in (0, 1)},
        **{f"runs/{variant}/seed-{seed}": "test" for variant in ("fixed", "mm-ts") for seed in (0, 1)},
    }
    assert {(line["stage"], line["split"]) for line in rows(finished)} == {("trial", "val"), ("test", "test")}
    metrics = json.loads((finished / "runs" / "fixed" / "seed-1" / "metrics.json").read_text())
    recall = row(finished, "text_to_image", "mid", seed="1")["R@5"]
    assert float(recall) == pytest.approx(metrics["groups"]["mid"]["text_to_image"]["R@5"], abs=1e-3)
    page = (finished / "leaderboard.md").read_text()
    assert "2 trials with seed 100" in page
    assert "Differences are to fixed" in page
    assert (finished / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_recall_averaged_over_concepts_is_that_of_loops(finished: Path) -> None:
    with np.load(finished / "runs" / "fixed" / "seed-0" / "judgement.npz") as stored:
        concepts, ranks, owner = (stored[name].tolist() for name in ("text_concepts", "text_ranks", "owner"))
        media_ranks = stored["media_ranks"].tolist()
    of_media = [next(c for c, o in zip(concepts, owner, strict=True) if o == at) for at in range(len(media_ranks))]
    for direction, these, own in (("text_to_image", ranks, concepts), ("image_to_text", media_ranks, of_media)):
        by_concept: dict[int, list[bool]] = {}
        for rank, concept in zip(these, own, strict=True):
            by_concept.setdefault(concept, []).append(rank <= 5)
        expected = sum(100 * sum(hits) / len(hits) for hits in by_concept.values()) / len(by_concept)
        assert float(row(finished, direction, "average")["R@5"]) == pytest.approx(expected, abs=1e-3)


def test_queries_are_divided_by_labels_too(shapes: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, trials=1, labels=["shape"], variants={"only": {}}, seeds={"test": [0]})
    run_sweep(file, shapes, tmp_path / "out", 1)
    assert not (tmp_path / "out" / "trials").exists()  # there is nothing to choose
    assert "nothing was tuned" in (tmp_path / "out" / "leaderboard.md").read_text()
    run = tmp_path / "out" / "runs" / "only" / "seed-0"
    lines = map(json.loads, (shapes / "captions.jsonl").read_text().splitlines())
    shape_of = {line["id"]: line["labels"]["shape"] for line in lines}
    with np.load(run / "judgement.npz") as stored:
        meta, ranks = json.loads(str(stored["meta"])), stored["media_ranks"].tolist()
    by_shape: dict[str, list[float]] = {}
    for name, rank in zip(meta["media_ids"], ranks, strict=True):
        by_shape.setdefault(shape_of[name], []).append(sum(rank <= k for k in (1, 5, 10)) / 3)
    expected = sum(100 * sum(values) / len(values) for values in by_shape.values()) / len(by_shape)
    line = row(tmp_path / "out", "image_to_text", "shape average", variant="only")
    assert float(line["mean recall"]) == pytest.approx(expected, abs=1e-3)


def test_queries_are_divided_by_other_concepts_and_by_the_hardest_of_them(shapes: Path, tmp_path: Path) -> None:
    by = {"other": {"encoder": "tfidf", "num_concepts": 20, "seed": 7}, "kind": {"source": "label", "label": "shape"}}
    variants = {"a": {}, "b": {"set": {"train.epochs": 1}}}
    file = write_sweep(tmp_path, trials=1, divisions=by, variants=variants, seeds={"test": [0]})
    run_sweep(file, shapes, tmp_path / "out", 1)
    train, test = (read_dataset(shapes).split(name) for name in ("train", "test"))
    concepts = ConceptDistribution.from_captions(train.captions, 20, "tfidf", seed=7)
    of_query = concepts.assign(test.captions)
    folders = {name: tmp_path / "out" / "runs" / name / "seed-0" for name in variants}
    scores = {name: Judged.load(folder).sides[0].scores("mean recall") for name, folder in folders.items()}
    tail = concepts.groups_of(of_query) == 2
    of_tail = 100 * float(scores["a"][tail].mean())
    line = row(tmp_path / "out", "text_to_image", "other tail", variant="a")
    assert float(line["mean recall"]) == pytest.approx(of_tail, abs=1e-3)
    average = {
        int(concept): {name: float(score[of_query == concept].mean()) for name, score in scores.items()}
        for concept in of_query.unique()
    }
    hardest = sorted(average, key=lambda concept: sum(average[concept].values()))[: round(len(average) / 10)]
    expected = 100 * sum(average[concept]["a"] for concept in hardest) / len(hardest)
    line = row(tmp_path / "out", "text_to_image", "other hardest tenth", variant="a")
    assert float(line["mean recall"]) == pytest.approx(expected, abs=1e-3)
    assert row(tmp_path / "out", "image_to_text", "kind tail", variant="a")


@pytest.mark.parametrize(("key", "value"), [("labels", ["concept"]), ("divisions", {"concept": {}})])
def test_a_reserved_name_of_a_division_is_an_error(shapes: Path, tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(RecipeError, match="'concept' already names the division by the concepts of the first run"):
        run_sweep(write_sweep(tmp_path, **{key: value}), shapes, tmp_path / "out", 1)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("labels", ["shap"], "labels: "),
        ("divisions", {"kind": {"source": "label", "label": "shap"}}, r"divisions\.kind: "),
    ],
)
def test_an_unknown_label_is_an_error_before_anything_runs(
    shapes: Path, tmp_path: Path, key: str, value: object, named: str
) -> None:
    with pytest.raises(RecipeError, match=rf"{named}.*the data has no label 'shap'.*shape"):
        run_sweep(write_sweep(tmp_path, **{key: value}), shapes, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
