"""Runs whose samples have several concepts, through every command that reads their labels."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests_support import draw_shapes

from mmts.concepts import ConceptDistribution
from mmts.data.read import read_dataset
from mmts.data.records import Split
from mmts.errors import DataError, RunError
from mmts.evaluation.compare import comparison_tables
from mmts.evaluation.results import read_results
from mmts.evaluation.run import evaluate
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.tiny import tiny
from mmts.report import write_report
from mmts.training.concepts import find_concepts
from mmts.training.run import train

MMTS = "objective.temperature={rule: shifted, alpha: 0.08, cycles: 5, low: 0.05, high: 0.2}"
LABEL = "concepts={source: label, label: parts}"
WORDS = "concepts={source: words, min_count: 3}"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw shapes with color and shape as the list `parts`: empty for one of train, absent from one of val."""
    data = draw_shapes(tmp_path_factory.mktemp("several") / "shapes")
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        _, color, shape, *_ = line["captions"][0].split()
        line["labels"] = {} if line["id"] == "6" else {"parts": [] if line["id"] == "8" else [color, shape]}
    (data / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def trained(data: Path, out: Path, *settings: str) -> Path:
    recipe = tiny(load_recipe("catalogue"), ["train.steps=2", "train.trackers=[]", *settings])
    train(recipe.with_data(data), out)
    return out


@pytest.fixture(scope="module")
def run(shapes: Path) -> Path:
    return trained(shapes, shapes.parent / "run", LABEL, MMTS)


def test_a_run_by_a_label_that_is_a_list(shapes: Path, run: Path) -> None:
    concepts = ConceptDistribution.load(RunDirectory(run).concepts_file)
    split = read_dataset(shapes).split("train")
    labels = [split.media[owner].labels["parts"] for owner in split.owner.tolist()]
    assert torch.equal(concepts.labels, ConceptDistribution.from_labels(labels).labels)
    assert concepts.num_bare == 2  # both captions of one picture
    metrics = json.loads(RunDirectory(run).metrics_file.read_text())
    assert sum(group["num_queries"] for group in metrics["groups"].values() if group) == metrics["num_captions"]


def test_a_run_is_evaluated_by_every_value(run: Path) -> None:
    label = evaluate(run, labels=["parts"])["labels"]["parts"]
    split = read_dataset(run.parent / "shapes").split("test")
    own = [medium.labels["parts"] for medium in split.media]
    assert {value: of["num_media"] for value, of in label["classes"].items()} == {
        value: sum(value in parts for parts in own) for value in {value for parts in own for value in parts}
    }
    assert "R@5 by parts" in " ".join(map(str, (table.title for table in comparison_tables(read_results([run])))))
    with pytest.raises(DataError, match=r"medium '7' has 2 values of parts, .*classification, unlike --label, needs"):
        evaluate(run, classify_by="parts")


def test_a_resumed_run_needs_the_same_lists(shapes: Path, run: Path) -> None:
    section, split = load_recipe("catalogue", [LABEL]).concepts, read_dataset(shapes).split("train")
    directory = RunDirectory(run)
    assert find_concepts(section, split, directory).num_bare == 2
    for part in (slice(1, None), slice(1), slice(None, None, -1)):  # less, less, and in another order
        media = [replace(medium, labels={"parts": medium.labels["parts"][part]}) for medium in split.media]
        with pytest.raises(RunError, match="with other labels"):
            find_concepts(section, Split("train", media), directory)


def test_a_run_by_words(shapes: Path, tmp_path: Path) -> None:
    out = trained(shapes, tmp_path / "run", WORDS, MMTS)
    concepts = ConceptDistribution.load(RunDirectory(out).concepts_file)
    assert {"red", "square", "bar", "number"} <= {*concepts.names}
    assert "Concepts are words in the training captions." in write_report([out], tmp_path / "report.html").read_text()
