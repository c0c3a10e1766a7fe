"""ConceptDistribution: labels, counts and captions to sizes, shifts, groups and files."""

import json
import math
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmts.concepts import ConceptDistribution, resolve_num_concepts
from mmts.errors import DataError, InputError, MmtsError

CAPTIONS = [f"{colour} {thing}" for thing in ("shoe", "shirt", "watch") for colour in ("red", "blue", "green", "black")]
CAPTIONS += ["red shoe", "red shoe"]


def words_as_rows(captions):
    """A slow, obvious encoder: one column per thing."""
    return [[float(thing in caption) for thing in ("shoe", "shirt", "watch")] for caption in captions]


# --- labels


def test_from_labels_numbers_concepts_as_they_appear():
    d = ConceptDistribution.from_labels(["b", "a", "b", "c"])
    assert d.labels.tolist() == [0, 1, 0, 2]
    assert d.sizes.tolist() == [2, 1, 1]
    assert d.counts.tolist() == [2, 1, 2, 1]
    assert d.names == ["b", "a", "c"]
    assert d.labels.dtype == d.sizes.dtype == d.counts.dtype == torch.int64
    assert (len(d), d.num_concepts, d.centroids) == (4, 3, None)


def test_python_equality_decides():
    assert ConceptDistribution.from_labels([1, "1", 1.0, True, (1,), None]).labels.tolist() == [0, 1, 0, 0, 2, 3]


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([7, 5, 7]),
        np.array([7, 5, 7]),
        np.array(["7", "5", "7"]),
        [torch.tensor(7), torch.tensor(5), torch.tensor(7)],
        [np.int64(7), 5, np.float32(7)],
        [(np.int64(7), "x"), (5, "x"), (7, "x")],
        (label for label in "757"),
    ],
)
def test_tensors_arrays_and_scalars_are_values(labels):
    assert ConceptDistribution.from_labels(labels).labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "empty"),
        (["a", float("nan")], "row 1 is NaN"),
        (torch.tensor([0.0, 1.0, math.nan]), "row 2 is NaN"),
        ([("a", np.nan)], "row 0 is NaN"),
        ([Decimal("nan")], "row 0 is NaN"),
        (["a", {"b"}], "row 1 is a set"),
        ([torch.zeros(2)], "row 0 is a Tensor"),
        (torch.zeros(2, 2), r"shape \(2, 2\)"),
        ("abc", "one string"),
        (3, "are int"),
    ],
)
def test_wrong_labels_name_the_row(labels, message):
    with pytest.raises(InputError, match=message):
        ConceptDistribution.from_labels(labels)


def test_assign_labels_gives_minus_one_for_unknown():
    d = ConceptDistribution.from_labels(["a", 1, None])
    assert d.assign([1, "1", None, "a", np.int64(1)]).tolist() == [1, -1, 2, 0, 1]
    assert d.assign([]).dtype == torch.int64
    with pytest.raises(InputError, match="row 1 is NaN"):
        d.assign(["a", math.nan])


# --- counts


def test_from_counts_takes_the_sizes_as_given():
    d = ConceptDistribution.from_counts(torch.tensor([500, 3, 500, 40]))
    assert d.counts.tolist() == [500, 3, 500, 40]
    assert sorted(d.sizes.tolist()) == [3, 40, 500]
    assert torch.equal(d.sizes[d.labels], d.counts)
    assert d.assign([3, 500, 9]).tolist() == [d.labels[1], d.labels[0], -1]
    assert ConceptDistribution.from_counts([2.0, np.int32(2)]).sizes.tolist() == [2]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, math.inf, True, "3", None])
def test_wrong_counts_name_the_row(wrong):
    with pytest.raises(InputError, match="row 1"):
        ConceptDistribution.from_counts([5, wrong])
    with pytest.raises(InputError, match="empty"):
        ConceptDistribution.from_counts([])


# --- shift


def slow_shift(counts, low, high, scale):
    distinct = sorted(set(counts))
    out = []
    for n in counts:
        if len(distinct) == 1:
            f = 0.5
        elif scale == "linear":
            f = (n - distinct[0]) / (distinct[-1] - distinct[0])
        elif scale == "log":
            f = (math.log(n) - math.log(distinct[0])) / (math.log(distinct[-1]) - math.log(distinct[0]))
        else:
            f = distinct.index(n) / (len(distinct) - 1)
        out.append(low + (high - low) * f)
    return out


counts_lists = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(counts_lists, st.sampled_from(["linear", "log", "rank"]))
@settings(max_examples=60, deadline=None)
def test_shift_equals_the_formula_written_as_a_loop(counts, scale):
    shift = ConceptDistribution.from_counts(counts).shift(0.05, 0.2, scale)
    assert shift.dtype == torch.float32
    assert shift.tolist() == pytest.approx(slow_shift(counts, 0.05, 0.2, scale), abs=1e-7)
    assert shift.min() >= 0.05 - 1e-8
    assert shift.max() <= 0.2 + 1e-8


def test_shift_of_one_size_is_the_middle():
    for scale in ("linear", "log", "rank"):
        assert ConceptDistribution.from_labels(["a", "b"]).shift(0.1, 0.3, scale).tolist() == pytest.approx([0.2, 0.2])


def test_shift_refuses_nonsense():
    d = ConceptDistribution.from_labels(["a", "b"])
    with pytest.raises(InputError, match="linear, log, rank"):
        d.shift(0, 1, "cubic")
    with pytest.raises(InputError, match="finite"):
        d.shift(0, math.nan)


# --- groups


def slow_groups(sizes_of_samples):
    n = len(sizes_of_samples)
    out = []
    for size in sizes_of_samples:
        share = Fraction(sum(other > size for other in sizes_of_samples), n)
        out.append(0 if share < Fraction(1, 3) else 1 if share < Fraction(2, 3) else 2)
    return out


@given(counts_lists)
@settings(max_examples=100, deadline=None)
def test_groups_equal_the_definition_written_as_a_loop(values):
    labelled = ConceptDistribution.from_labels(values)
    assert labelled.groups().tolist() == slow_groups([Counter(values)[value] for value in values])
    counted = ConceptDistribution.from_counts(values)
    assert counted.groups().tolist() == slow_groups(values)
    assert torch.equal(counted.concept_groups()[counted.labels], counted.groups())


def test_exact_thirds_are_not_head():
    # 1 of 3 samples is in a larger concept: exactly a third, so mid; 2 of 3: exactly two thirds, so tail.
    d = ConceptDistribution.from_counts([9, 5, 1])
    assert d.groups().tolist() == [0, 1, 2]


def test_equal_sizes_are_all_head():
    assert ConceptDistribution.from_labels(["a", "b", "c", "d"]).concept_groups().tolist() == [0, 0, 0, 0]


def test_groups_of_unknown_is_tail():
    d = ConceptDistribution.from_labels(list("aaaabbbcc"))
    assert d.groups_of(torch.tensor([-1, 0, 1, 2, -1])).tolist() == [2, 0, 1, 2, 2]
    assert d.groups_of(torch.empty(0, dtype=torch.int64)).shape == (0,)
    with pytest.raises(InputError, match="concept 3 in row 1"):
        d.groups_of(torch.tensor([0, 3]))
    with pytest.raises(InputError, match="concept -2 in row 0"):
        d.groups_of(torch.tensor([-2]))


# --- captions


def test_from_captions_clusters_and_counts_repeats():
    d = ConceptDistribution.from_captions(CAPTIONS, 3, encoder=words_as_rows)
    assert d.sizes.tolist() == [6, 4, 4]
    assert d.labels[:4].tolist() == [0, 0, 0, 0]
    assert len({tuple(d.labels[i : i + 4].tolist()) for i in (0, 4, 8)}) == 3
    assert d.centroids.shape == (3, 3)
    assert d.names[0].split()[0] == "shoe"
    assert d.assign(["yellow shoe", "a watch"]).tolist() == [0, int(d.labels[8])]
    assert d.assign(CAPTIONS).tolist() == d.labels.tolist()
    assert d.assign([]).shape == (0,)


def test_same_seed_same_concepts():
    first, second = (ConceptDistribution.from_captions(CAPTIONS, 4, encoder="tfidf", seed=3) for _ in range(2))
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.centroids, second.centroids)
    assert first.names == second.names


def test_provenance_says_what_was_done():
    d = ConceptDistribution.from_captions(CAPTIONS, 4, encoder="tfidf", seed=3)
    assert d.provenance["kind"] == "captions"
    assert d.provenance["encoder"] == "tfidf"
    assert (d.provenance["num_concepts"], d.provenance["seed"], d.provenance["num_samples"]) == (4, 3, 14)
    assert {"mmts", "torch", "numpy", "faiss-cpu"} <= d.provenance["versions"].keys()
    json.dumps(d.provenance)


def test_function_sees_all_captions_in_order():
    seen = []

    def features(captions):
        seen.append(captions)
        return torch.tensor(words_as_rows(captions))

    ConceptDistribution.from_captions(CAPTIONS, 2, encoder=features)
    assert seen == [CAPTIONS]


def test_coinciding_rows_give_fewer_concepts_and_say_so(capsys):
    d = ConceptDistribution.from_captions(CAPTIONS, 8, encoder=words_as_rows)
    assert d.num_concepts <= 8
    assert d.sizes.min() > 0
    assert d.provenance["num_dropped"] == 8 - d.num_concepts > 0
    assert f"{8 - d.num_concepts} of 8 concepts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("captions", "num_concepts", "message"),
    [
        ([], 2, "empty"),
        (["a", "  \n"], 1, "row 1 is empty"),
        (["a", ""], 1, "row 1 is empty"),
        (["a", None], 1, "row 1 is NoneType"),
        ("a red shoe", 1, "one string"),
        (["a", "b", "a"], 3, "num_concepts is 3, but there are only 2 distinct captions"),
        (["a", "b"], 0, "positive whole number"),
        (["a", "b"], 1.5, "positive whole number"),
        (["a", "b"], "many", "positive whole number"),
    ],
)
def test_wrong_captions_name_the_row(captions, num_concepts, message):
    with pytest.raises(InputError, match=message):
        ConceptDistribution.from_captions(captions, num_concepts, encoder="tfidf")


def test_assign_refuses_empty_captions():
    d = ConceptDistribution.from_captions(CAPTIONS, 2, encoder="tfidf")
    with pytest.raises(InputError, match="row 1 is empty"):
        d.assign(["shoe", " "])


@pytest.mark.parametrize(("distinct", "expected"), [(2, 2), (19, 2), (35, 3), (1999, 199), (2000, 200), (9000, 200)])
def test_auto_number_of_concepts(distinct, expected):
    captions = [str(i) for i in range(distinct)]
    assert resolve_num_concepts("auto", captions + captions) == expected


def test_auto_needs_two_distinct_captions():
    with pytest.raises(InputError, match="at least 2 distinct"):
        resolve_num_concepts("auto", ["a", "a"])


# --- other training captions


def test_check_captions_refuses_others():
    d = ConceptDistribution.from_captions(CAPTIONS, 2, encoder="tfidf")
    d.check_captions(CAPTIONS)
    with pytest.raises(MmtsError, match="14 samples, but there are 13"):
        d.check_captions(CAPTIONS[1:])
    with pytest.raises(MmtsError, match="other captions"):
        d.check_captions(["pink shoe", *CAPTIONS[1:]])
    with pytest.raises(MmtsError, match="order"):
        d.check_captions(CAPTIONS[::-1])
    with pytest.raises(MmtsError, match="2 samples"):
        ConceptDistribution.from_labels(["a", "b"]).check_captions(["a"])


# --- files


def same(first, second):
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.sizes, second.sizes)
    assert first.names == second.names
    assert first.provenance == second.provenance
    assert first.labels.dtype == second.labels.dtype


def round_trip(d, path):
    d.save(path)
    return ConceptDistribution.load(path)


key = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(st.lists(key, min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_labels_survive_with_their_types(tmp_path_factory, labels):
    d = ConceptDistribution.from_labels(labels)
    loaded = round_trip(d, tmp_path_factory.mktemp("concepts") / "concepts.npz")
    same(d, loaded)
    assert repr(loaded.keys) == repr(d.keys)  # repr tells 1 from 1.0 and True
    assert torch.equal(loaded.assign(labels), d.labels)


def test_names_like_lone_surrogates_survive(tmp_path):
    same(*(lambda d: (d, round_trip(d, tmp_path / "c.npz")))(ConceptDistribution.from_labels(["\ud800", "\0", "日本"])))


def test_other_hashables_work_but_are_not_saved(tmp_path):
    d = ConceptDistribution.from_labels([frozenset("a"), frozenset("b"), frozenset("a")])
    assert d.assign([frozenset("b")]).tolist() == [1]
    with pytest.raises(InputError, match="frozenset"):
        d.save(tmp_path / "c.npz")
    assert list(tmp_path.iterdir()) == []


def test_counts_survive(tmp_path):
    d = ConceptDistribution.from_counts([500, 3, 500])
    loaded = round_trip(d, tmp_path / "c.npz")
    same(d, loaded)
    assert loaded.assign([3]).tolist() == [1]


def test_tfidf_is_saved_whole(tmp_path):
    d = ConceptDistribution.from_captions(CAPTIONS, 3, encoder="tfidf")
    loaded = round_trip(d, tmp_path / "c.npz")
    same(d, loaded)
    new = ["white shoe", "a watch", "quite unknown"]
    assert torch.equal(loaded.assign(new), d.assign(new))
    assert torch.equal(loaded.assign(CAPTIONS), d.labels)
    loaded.check_captions(CAPTIONS)
    with pytest.raises(MmtsError):
        loaded.check_captions(CAPTIONS[::-1])
    same(d, round_trip(loaded, tmp_path / "again.npz"))  # what was loaded can be saved


def test_function_must_be_given_again(tmp_path):
    d = ConceptDistribution.from_captions(CAPTIONS, 3, encoder=words_as_rows)
    loaded = round_trip(d, tmp_path / "c.npz")
    with pytest.raises(MmtsError, match=r"function words_as_rows.*load\(path, encoder=function\)"):
        loaded.assign(["a watch"])
    given_again = ConceptDistribution.load(tmp_path / "c.npz", encoder=words_as_rows)
    assert torch.equal(given_again.assign(CAPTIONS), d.labels)
    narrow = ConceptDistribution.load(tmp_path / "c.npz", encoder=lambda captions: [[1.0]] * len(captions))
    with pytest.raises(InputError, match="width 1"):
        narrow.assign(["a watch"])


def test_no_pickle_in_the_file(tmp_path):
    path = tmp_path / "c.npz"
    ConceptDistribution.from_labels([("a", 1), None]).save(path)
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_load_refuses_other_files(tmp_path, content):
    path = tmp_path / "c.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"c\.npz: not a file of concepts"):
        ConceptDistribution.load(path)


def test_load_refuses_what_save_did_not_write(tmp_path):
    with pytest.raises(DataError, match="does not exist; it must be a file of concepts"):
        ConceptDistribution.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", labels=np.arange(3))
    with pytest.raises(DataError, match=r"not a file of concepts \(it lacks 'meta'\)"):
        ConceptDistribution.load(tmp_path / "other.npz")
    np.save(tmp_path / "plain.npy", np.arange(3))
    with pytest.raises(DataError, match="not a file of concepts"):
        ConceptDistribution.load(tmp_path / "plain.npy")
    meta = np.frombuffer(json.dumps({"format": 99}).encode(), np.uint8)
    np.savez(tmp_path / "newer.npz", meta=meta)
    with pytest.raises(DataError, match="format 99"):
        ConceptDistribution.load(tmp_path / "newer.npz")


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "c.npz"
    ConceptDistribution.from_captions(CAPTIONS, 3, encoder="tfidf").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError):
        ConceptDistribution.load(path)


def test_repr_says_how_long_the_tail_is():
    assert repr(ConceptDistribution.from_labels(list("aab"))) == (
        "ConceptDistribution(3 samples, 2 concepts, sizes 2 down to 1)"
    )
