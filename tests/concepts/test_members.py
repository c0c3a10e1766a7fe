"""Samples with several concepts, by labels that are lists and by words in captions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmts.concepts import ConceptDistribution
from mmts.concepts.members import OF, Of
from mmts.errors import DataError, InputError

rows = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=4), min_size=1, max_size=12)
LABELS = [["cup", "dog"], ["dog"], [], ["dog", "hat", "dog"], "cup"]


@given(rows, st.sampled_from(OF))
@settings(max_examples=60, deadline=None)
def test_sizes_counts_and_groups_equal_the_slow_twin(labels: list[list[str]], of: Of) -> None:
    d = ConceptDistribution.from_labels(labels, of)
    sizes = dict(zip(d.names, d.sizes.tolist(), strict=True))
    each = [{*row} or {"no concept"} for row in labels]
    assert sizes == {name: sum(name in own for own in each) for name in sizes}
    slow = [reference.size_of_several([sizes[name] for name in own], of) for own in each]
    assert d.counts.tolist() == slow
    assert all(d.names[label] in own for label, own in zip(d.labels.tolist(), each, strict=True))
    by = "rarest" if of == "mean" else of
    deciding = [reference.size_of_several([sizes[name] for name in own], by) for own in each]
    assert d.groups().tolist() == [reference.group_of_size(n, deciding) for n in deciding]
    assert d.concept_groups().tolist() == [reference.group_of_size(n, deciding) for n in d.sizes.tolist()]
    assert d.shift(0.1, 0.2, "log").tolist() == pytest.approx(reference.shift(slow, 0.1, 0.2, "log"))
    assert torch.equal(d.assign(labels), d.labels)


def test_one_label_per_list_is_one_label() -> None:
    one, lists = (ConceptDistribution.from_labels(labels) for labels in (list("abbc"), [["a"], ["b"], "b", ["c"]]))
    for name in ("labels", "sizes", "counts"):
        assert torch.equal(getattr(one, name), getattr(lists, name))
    assert (one.several, lists.names) == (None, one.names)
    assert all(map(torch.equal, one.members, lists.members))


def test_an_empty_list_and_what_is_repeated() -> None:
    d = ConceptDistribution.from_labels(LABELS)
    assert (d.names, d.sizes.tolist()) == (["cup", "dog", "no concept", "hat"], [2, 3, 1, 1])
    assert (d.labels.tolist(), d.num_bare) == ([0, 1, 2, 3, 0], 1)
    assert ConceptDistribution.from_labels(["cup"]).num_bare == 0


@pytest.mark.parametrize(("of", "concepts"), [("rarest", [0, -1, -1, -1]), ("commonest", [1, 1, -1, -1])])
def test_an_unknown_label_is_the_rarest_of_all(of: Of, concepts: list[int]) -> None:
    d = ConceptDistribution.from_labels([["cup", "dog"], ["dog"]], of)
    assert d.assign([["dog", "cup"], ["dog", "vase"], ["vase"], []]).tolist() == concepts
    assert d.groups_of(d.assign([["vase"]])).tolist() == [2]


@pytest.mark.parametrize(
    ("labels", "of", "message"),
    [
        (["a", ["b", ["c"]]], "rarest", "row 1 is a list, not one value that can be hashed"),
        ([["a"], ["b", float("nan")]], "rarest", "row 1 is NaN"),
        ([["a"]], "largest", "of is 'largest'; it must be one of rarest, commonest, mean"),
    ],
)
def test_wrong_rows_are_named(labels: list[Any], of: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConceptDistribution.from_labels(labels, of)


# --- words


@given(
    st.lists(st.text("ab,.( C", min_size=1, max_size=12).filter(str.strip), max_size=4), st.text("abc, ", max_size=3)
)
@settings(max_examples=80, deadline=None)
def test_words_equal_the_slow_twin(captions: list[str], entry: str) -> None:
    captions, entries = [*captions, "c"], ["a", "b a", "A.", "c", entry]
    d = ConceptDistribution.from_words(captions, entries)
    for at, caption in enumerate(captions):
        own = d.members.ids[d.members.offsets[at] : d.members.offsets[at + 1]].tolist()
        slow = reference.entries_in(caption, entries)
        assert {d.names[concept] for concept in own} == (slow or {"no concept"})


def test_words_are_found_in_other_captions_too(tmp_path: Path) -> None:
    d = ConceptDistribution.from_words(["A dog, a hot dog", "A DOG!", "two cats"], ["dog", "hot dog", "mouse"])
    assert (d.names, d.sizes.tolist()) == (["dog", "hot dog", "no concept"], [2, 1, 1])
    d.save(tmp_path / "c.npz")
    for known in (d, ConceptDistribution.load(tmp_path / "c.npz")):
        assert known.assign(["The hot dog.", "dogs", "a mouse"]).tolist() == [1, 2, 2]
        known.check_captions(["A dog, a hot dog", "A DOG!", "two cats"])
        with pytest.raises(InputError, match="other captions"):
            known.check_captions(["two cats", "A DOG!", "A dog, a hot dog"])
        with pytest.raises(InputError, match="row 1 is empty"):
            known.assign(["a", " "])


def test_frequent_words_leave_out_stop_words_and_punctuation() -> None:
    captions = ["The red cup, on a hat. 7", "the red (hat). 7", "the cup ? ! 7"]
    assert ConceptDistribution.from_words(captions, min_count=2).names == ["red", "cup", "hat"]
    assert ConceptDistribution.from_words(captions, min_count=1).num_bare == 0
    with pytest.raises(InputError, match="no word, except stop words, is in 4 of the 3 captions"):
        ConceptDistribution.from_words(captions, min_count=4)
    with pytest.raises(InputError, match="no caption contains an entry"):
        ConceptDistribution.from_words(captions, ["dog"])
    with pytest.raises(InputError, match="words are empty"):
        ConceptDistribution.from_words([], ["dog"])


# --- files


@pytest.mark.parametrize("of", OF)
def test_members_survive(of: Of, tmp_path: Path) -> None:
    d = ConceptDistribution.from_labels(LABELS, of)
    d.save(tmp_path / "c.npz")
    loaded = ConceptDistribution.load(tmp_path / "c.npz")
    assert (loaded.of, loaded.keys, loaded.num_bare) == (of, d.keys, 1)
    for name in ("labels", "sizes", "counts"):
        assert torch.equal(getattr(loaded, name), getattr(d, name))
    assert torch.equal(loaded.assign([["cup", "dog"]]), d.assign([["cup", "dog"]]))


def _changed(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({name: np.array(value)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_changed("offsets", [0, 2, 3]), "every sample must have concepts"),
        (_changed("offsets", [0, 2, 2, 4, 6, 7]), "every sample must have concepts"),
        (_changed("ids", [0, 1, 1, 2, 1, 9, 0]), "every sample must have concepts, in"),
        (_changed("ids", [0, 1, 1, 2, 1, 1, 0]), "must have the sizes and labels of the file"),
        (_changed("labels", [1, 1, 2, 3, 0]), "must have the sizes and labels of the file"),
        (lambda arrays: arrays.pop("offsets"), "it lacks 'offsets'"),
        (_changed("of", "largest"), "every sample must have concepts"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.npz"
    ConceptDistribution.from_labels(LABELS).save(file)
    with np.load(file) as stored:
        arrays = dict(stored)
    change(arrays)
    if "of" in arrays:
        meta = json.loads(arrays["meta"].tobytes()) | {"of": str(arrays.pop("of"))}
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=message):
        ConceptDistribution.load(file)
