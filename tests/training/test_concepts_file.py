"""Concepts found beforehand: a recipe takes them for its own training captions, and for no others."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmts.concepts import ConceptDistribution
from mmts.data.records import Medium, Split
from mmts.errors import MmtsError, RecipeError
from mmts.recipe.recipe import load_recipe
from mmts.recipe.section import validated
from mmts.recipe.sections import Concepts
from mmts.recipe.tiny import tiny
from mmts.training.concepts import build_distribution, concepts_of_queries

CAPTIONS = ["red shoe", "blue shoe", "my shoe", "sun hat", "straw hat"]
TRAIN = Split("train", [Medium(str(i), Path(f"{i}.jpg"), (caption,)) for i, caption in enumerate(CAPTIONS)])


def from_file(file: Path) -> Concepts:
    return validated(Concepts, {"source": "file", "file": str(file)}, "concepts")


def test_a_file_gives_the_concepts_that_clustering_gave(tmp_path: Path) -> None:
    made = ConceptDistribution.from_captions(CAPTIONS, 2, encoder="tfidf")
    made.save(tmp_path / "concepts.npz")
    section = from_file(tmp_path / "concepts.npz")
    found = build_distribution(section, TRAIN)
    assert torch.equal(found.labels, made.labels)
    assert all(torch.equal(ids, made.labels) for ids in concepts_of_queries(section, found, TRAIN, "graded"))


def test_an_unusable_concepts_file_is_refused_before_training(tmp_path: Path) -> None:
    file = tmp_path / "concepts.npz"
    ConceptDistribution.from_labels(CAPTIONS).save(file)
    with pytest.raises(RecipeError, match=re.escape(f"{file} holds no clusters of captions but labels")):
        build_distribution(from_file(file), TRAIN)
    ConceptDistribution.from_captions(CAPTIONS[::-1], 2, encoder="tfidf").save(file)
    with pytest.raises(RecipeError, match="from other captions"):
        build_distribution(from_file(file), TRAIN)
    ConceptDistribution.from_embeddings(torch.eye(5), 2, captions=CAPTIONS).save(file)
    with pytest.raises(RecipeError, match="of an unknown encoder"):
        build_distribution(from_file(file), TRAIN)


def test_a_recipe_stores_the_absolute_path_of_its_concepts_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("catalogue", ["concepts.source=file", "concepts.file=made.npz"])
    assert recipe.concepts.file == tmp_path / "made.npz"
    assert tiny(recipe).concepts.source == "captions"
    for wrong in ("concepts.source=file", "concepts.file=made.npz"):
        with pytest.raises(RecipeError, match="`file` names the file to read"):
            load_recipe("catalogue", [wrong])


def lengths(captions: Sequence[str]) -> np.ndarray:
    """Encode short captions as (1, 0) and long ones as (0, 1)."""
    return np.array([[len(each) < 6, len(each) >= 6] for each in captions], dtype=np.float32)


def test_a_file_of_embeddings_in_another_order_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "concepts.npz"
    captions = ["shoe", "hat", "a bowl of rice", "fried rice", "cooked rice"]
    split = Split("train", [Medium(str(i), Path(f"{i}.jpg"), (caption,)) for i, caption in enumerate(captions)])
    load = ConceptDistribution.load
    monkeypatch.setattr(ConceptDistribution, "load", lambda path: load(path, encoder=lengths))
    ConceptDistribution.from_embeddings(lengths(captions), 2, encoder=lengths).save(file)
    assert build_distribution(from_file(file), split).sizes.tolist() == [3, 2]
    ConceptDistribution.from_embeddings(lengths(captions)[::-1].copy(), 2, encoder=lengths).save(file)
    with pytest.raises(RecipeError, match=r"of 5 training captions only 1 are in the concept .* in another order"):
        build_distribution(from_file(file), split)


def test_words_in_a_file_of_entries_and_in_the_captions_are_concepts(tmp_path: Path) -> None:
    (tmp_path / "entries.txt").write_text("\ufeffShoe\n\n  red shoe \nboat\nshoe\n")
    section = validated(Concepts, {"source": "words", "file": str(tmp_path / "entries.txt")}, "concepts")
    found = build_distribution(section, TRAIN)
    assert (found.names, found.sizes.tolist()) == (["red shoe", "shoe", "no concept"], [1, 3, 2])
    assert found.labels.tolist() == [0, 1, 1, 2, 2]
    assert torch.equal(concepts_of_queries(section, found, TRAIN, "graded")[1], found.labels)
    mined = validated(Concepts, {"source": "words", "min_count": 2, "of": "commonest"}, "concepts")
    assert build_distribution(mined, TRAIN).sizes.tolist() == [3, 2]
    found.save(tmp_path / "concepts.npz")
    assert torch.equal(build_distribution(from_file(tmp_path / "concepts.npz"), TRAIN).labels, found.labels)


@pytest.mark.parametrize(
    ("content", "section", "message"),
    [
        (None, {"file": "entries.txt"}, r"cannot read .*entries\.txt: No such file"),
        (b" \n", {"file": "entries.txt"}, r"concepts\.file: .*entries\.txt is empty; it needs one word"),
        (b"shoe\n\xff\n", {"file": "entries.txt"}, r"entries\.txt, line 2: byte 1 is not UTF-8"),
        (b"boat\n", {"file": "entries.txt"}, r"concepts\.file: no caption contains an entry"),
        (None, {"min_count": 9}, r"concepts\.min_count: no word, except stop words, is in 9 of the 5 captions"),
    ],
)
def test_unusable_entries_are_refused(
    content: bytes | None, section: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("entries.txt").write_bytes(content)
    with pytest.raises(MmtsError, match=message):
        build_distribution(validated(Concepts, {"source": "words", **section}, "concepts"), TRAIN)
