"""Labels in parquet tables are joined by the ids of the media, and what is missing or there twice is named."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmts.concepts import ConceptDistribution
from mmts.data import keyed_labels
from mmts.data.keyed_labels import read_labels
from mmts.data.pair_table import PairTable, TableSplit, write_pair_table
from mmts.data.records import Medium, Split
from mmts.errors import DataError, RecipeError
from mmts.recipe.recipe import load_recipe
from mmts.recipe.section import validated
from mmts.recipe.sections import Concepts
from mmts.recipe.tiny import tiny
from mmts.training.concepts import build_distribution, concepts_of_queries

LABELS = ["shoe", "hat", "shoe", "cup", "shoe"]
TRAIN = Split(
    "train", [Medium(f"m{i}", Path(f"{i}.jpg"), ("a", "b"), {"object": label}) for i, label in enumerate(LABELS)]
)


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_labels, "_ROWS", 2)


def write(file: Path, ids: list[Any], labels: Any, **names: str) -> Path:
    pq.write_table(pa.table({names.get("key", "id"): ids, names.get("column", "concept"): labels}), file)
    return file


def tables(folder: Path) -> Concepts:
    """Write labels in another order, in two tables, with those of another medium."""
    write(folder / "1.parquet", ["m4", "x", "m1"], ["shoe", "boat", "hat"])
    write(folder / "2.parquet", ["m0", "m3", "m2"], pa.array(["shoe", "cup", "shoe"]).dictionary_encode())
    return validated(Concepts, {"source": "parquet", "file": str(folder)}, "concepts")


def test_joined_labels_give_the_concepts_that_labels_of_the_data_give(tmp_path: Path) -> None:
    section = tables(tmp_path)
    given = build_distribution(section, TRAIN)
    wanted = build_distribution(validated(Concepts, {"source": "label", "label": "object"}, "concepts"), TRAIN)
    assert given.keys == wanted.keys == ["shoe", "hat", "cup"]
    assert torch.equal(given.labels, wanted.labels)
    assert given.labels.tolist() == [0, 0, 1, 1, 0, 0, 2, 2, 0, 0]


def test_another_split_gets_the_concepts_of_its_own_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    section = tables(tmp_path)
    other = Split("test", [Medium(name, Path("1.jpg"), ("a",)) for name in ("m1", "new", "x")])
    concepts = ConceptDistribution.from_labels(LABELS)
    assert concepts_of_queries(section, concepts, other)[0].tolist() == [1, -1, -1]
    assert "1 sample of test without a label 'concept': counted as tail" in capsys.readouterr().out


def test_a_table_of_pairs_is_joined_by_its_ids_and_numbers_are_labels(tmp_path: Path) -> None:
    pairs = [(f"{at:03}", "a cat", "0.tar", "train", (512, 7)) for at in range(5)]
    write_pair_table(tmp_path / "pairs", tmp_path, ["train"], pairs)
    table = PairTable(tmp_path / "pairs")
    split = TableSplit("train", table, torch.tensor([4, 0, 2]).numpy())
    file = write(tmp_path / "a.parquet", [f"{at:03}" for at in range(5)], [7, 8, 9, 7, 7], key="uid", column="group")
    assert read_labels(file, "group", "uid", split) == ["7", "7", "9"]


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        (["m0", "m1", "m2", "m3"], ["a"] * 4, "medium 'm4' has no concept in .*a.parquet"),
        (["m0", "m1", "m2", "m3", "m4"], ["a", "a", None, "a", "a"], "medium 'm2' has no concept in"),
        (["m0", "m0", "m1"], ["a"] * 3, "a.parquet: the id 'm0' is there twice"),
        (["m0", "m1", "m2", "m1"], ["a"] * 4, "a.parquet: the id 'm1' is there twice"),
        (["m0"], [["a", "b"]], "a.parquet: concept cannot be read as labels"),
    ],
)
def test_what_is_missing_or_there_twice_is_named(
    ids: list[str], labels: list[Any], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.parquet", ids, labels)
    with pytest.raises(DataError, match=message):
        build_distribution(validated(Concepts, {"source": "parquet", "file": str(file)}, "concepts"), TRAIN)


def test_files_that_are_no_such_tables_are_named(tmp_path: Path) -> None:
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "b.parquet", ["m0"], ["a"], column="topic")
    wrong = {
        "nowhere": "nowhere does not exist; it must hold labels",
        "empty": r"empty has no \*.parquet",
        "damaged.parquet": "damaged.parquet: not a parquet file, or damaged",
        "b.parquet": "b.parquet has no column 'concept'",
    }
    for name, message in wrong.items():
        with pytest.raises(DataError, match=message):
            read_labels(tmp_path / name, "concept", "id", TRAIN)
    twins = Split("train", [TRAIN.media[0], TRAIN.media[0]])
    with pytest.raises(DataError, match="two media with the id 'm0'"):
        read_labels(write(tmp_path / "c.parquet", ["m0"], ["a"]), "concept", "id", twins)


def test_a_recipe_names_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("catalogue", ["concepts={source: parquet, file: labels, column: topic, key: uid}"])
    assert recipe.concepts.file == tmp_path / "labels"
    assert tiny(recipe).concepts.source == "captions"
    for wrong in ("concepts={source: parquet}", "concepts={source: label, label: a, key: uid}"):
        with pytest.raises(RecipeError, match="when `source` is"):
            load_recipe("catalogue", [wrong])
