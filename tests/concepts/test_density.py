"""Density without clusters: neighbours counted as the loop does, in line with the sizes of clear clusters."""

import math

import numpy as np
import pytest
import reference
import torch

import mmts.concepts.density
from mmts.concepts import ConceptDistribution, density_shift, neighbour_counts
from mmts.concepts.kmeans import Rows
from mmts.errors import InputError


def unit_rows(N: int, D: int = 6, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def count_rows(rows: Rows, k: int = 10, **options: float) -> list[int]:
    """Neighbours of rows, each with a caption of its own."""
    return neighbour_counts([f"caption {i}" for i in range(len(rows))], k, lambda _: rows, **options).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 3, 29])
def test_equals_its_loop(k: int) -> None:
    rows = unit_rows(30)
    assert count_rows(rows, k) == reference.neighbour_counts(rows.astype(float).tolist(), k)


def test_repeated_captions_count_as_often_as_they_stand_there() -> None:
    rng = np.random.default_rng(1)
    distinct = unit_rows(12)
    which = rng.integers(0, 12, size=40)
    captions = [f"caption {i}" for i in which]
    for k in (1, 4, 15, 39):
        counts = neighbour_counts(captions, k, lambda _: distinct[which])
        assert counts.dtype == torch.int64
        assert counts.tolist() == reference.neighbour_counts(distinct[which].astype(float).tolist(), k)
    assert all(n >= captions.count(caption) for n, caption in zip(counts.tolist(), captions, strict=True))


def test_half_of_the_captions_have_k_others_or_more() -> None:
    for seed in range(3):
        counts = torch.tensor(count_rows(unit_rows(101, seed=seed), k=7))
        assert (counts - 1 >= 7).sum() == 51


def test_blocks_and_the_order_of_captions_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(50)
    whole = count_rows(rows, 5)
    monkeypatch.setattr(mmts.concepts.density, "BLOCK_BYTES", 4 * 50 * 7)  # 7 rows at a time, the last block 1
    assert count_rows(rows, 5) == whole
    order = np.random.default_rng(0).permutation(50)
    assert count_rows(rows[order], 5) == [whole[i] for i in order]


def test_clear_clusters_give_their_sizes_and_their_order() -> None:
    sizes = [40, 25, 12, 5, 1]
    cluster = np.repeat(np.arange(5), sizes)
    rows = np.eye(5, 8, dtype=np.float32)[cluster] + np.random.default_rng(0).normal(0, 0.02, (83, 8)).astype(
        np.float32
    )
    captions = [f"caption {i}" for i in range(83)]
    tight = neighbour_counts(captions, encoder=lambda _: rows, threshold=0.9)
    assert tight.tolist() == np.array(sizes)[cluster].tolist()
    # With the radius from the data counts follow the sizes, on average, from cluster to cluster and in the shift.
    counts = neighbour_counts(captions, 10, lambda _: rows)
    shifts = ConceptDistribution.from_counts(counts).shift(0.05, 0.2, "log")
    for values in (counts.double(), shifts):
        means = [values[torch.from_numpy(cluster == c)].mean().item() for c in range(5)]
        assert means == sorted(means, reverse=True)
        assert means[0] > means[-1]


def test_threshold_counts_what_is_as_near_as_that() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], np.float32)
    assert count_rows(rows, threshold=1.0) == [2, 2, 1, 1]
    assert count_rows(rows, threshold=0.6) == [3, 3, 3, 1]
    assert count_rows(rows, threshold=-1.0) == [4, 4, 4, 4]


def test_a_caption_of_no_known_word_and_one_alone_still_count_themselves() -> None:
    assert count_rows(np.zeros((3, 2), np.float32), threshold=0.5) == [1, 1, 1]
    assert neighbour_counts(["one"], encoder=lambda _: [[1.0]], threshold=0.5).tolist() == [1]
    assert neighbour_counts(["same"] * 4, 3, lambda texts: [[1.0]] * len(texts)).tolist() == [4, 4, 4, 4]


def test_runs_with_a_named_encoder() -> None:
    captions = ["red shoe", "blue shoe", "my red shoe", "sun hat", "red shoe"]
    counts = neighbour_counts(captions, 2, "tfidf")
    assert counts[0] == counts[4] >= counts[3] >= 1


@pytest.mark.parametrize(
    ("captions", "options", "message"),
    [
        ([], {}, "captions are empty"),
        (["a", " "], {"k": 1}, "caption in row 1 is empty"),
        (["a", "b"], {"k": 2}, "k is 2; it must be a whole number from 1 to 1"),
        (["a", "b"], {"k": 0}, "k is 0"),
        (["a", "b"], {"k": 1.0}, r"k is 1\.0"),
        (["a", "b"], {"k": True}, "k is True"),
        (["a", "b"], {"threshold": 1.5}, r"threshold is 1\.5"),
        (["a", "b"], {"threshold": math.nan}, "threshold is nan"),
    ],
)
def test_what_cannot_be_right_is_an_error(captions: list[str], options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        neighbour_counts(captions, encoder=lambda texts: [[1.0, 0.0]] * len(texts), **options)


@pytest.mark.parametrize(
    ("scale", "exponent"),
    [("linear", None), ("log", None), ("rank", None), ("power", 0.5), ("power", -0.25), ("power", 3.0)],
)
@pytest.mark.parametrize(("low", "high"), [(0.05, 0.2), (0.2, 0.05)])
def test_shifts_of_real_densities_are_those_of_the_loop(scale, exponent, low: float, high: float) -> None:  # type: ignore[no-untyped-def]
    density = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.01
    density[3] = density[7]
    wanted = reference.shift(density.tolist(), low, high, scale, exponent or 1.0)
    torch.testing.assert_close(density_shift(density, low, high, scale, exponent), torch.tensor(wanted))
    assert density_shift(torch.full((2,), 0.3), low, high, scale, exponent).tolist() == pytest.approx([0.125, 0.125])


@pytest.mark.parametrize("scale", ["linear", "log", "rank"])
def test_counts_as_densities_and_as_concepts_are_the_same_shift(scale) -> None:  # type: ignore[no-untyped-def]
    counts = torch.tensor([5, 100, 3, 3, 17])
    concepts = ConceptDistribution.from_counts(counts)
    assert torch.equal(concepts.shift(0.05, 0.2, scale), density_shift(counts, 0.05, 0.2, scale))


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (torch.tensor([1.0, 0.0]), r"density\[1\] is 0"),
        (torch.tensor([math.nan]), r"density\[0\] is nan"),
        (torch.tensor([1.0, math.inf]), r"density\[1\] is inf"),
        (torch.ones(2, 2), r"density is \(2, 2\)"),
        (torch.ones(0), "N >= 1"),
    ],
)
def test_a_density_that_cannot_be_right_is_refused(density: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        density_shift(density, 0.05, 0.2)


def test_powers_lie_between_the_linear_and_the_log_map_and_do_not_overflow() -> None:
    n = torch.tensor([1.0, 40.0, 500.0, 1e300], dtype=torch.float64)
    assert density_shift(n, 0.0, 1.0, "power", 9.0).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert density_shift(n, 0.0, 1.0, "power", -9.0).tolist() == pytest.approx([0.0, 1.0, 1.0, 1.0])
    n = n[:3]
    log, linear = (density_shift(n, 0.0, 1.0, scale) for scale in ("log", "linear"))
    torch.testing.assert_close(density_shift(n, 0.0, 1.0, "power", 1e-20), log)
    torch.testing.assert_close(density_shift(n, 0.0, 1.0, "power", 1.0), linear)


@pytest.mark.parametrize(
    ("scale", "exponent", "message"),
    [
        ("power", None, "exponent is None and scale is 'power', with which it must be a finite number that is not 0"),
        ("power", 0.0, "exponent is 0.0 and scale is 'power', with which it must be a finite"),
        ("power", float("nan"), "exponent is nan"),
        ("log", 0.5, "exponent is 0.5 and scale is 'log', with which it must be left out"),
    ],
)
def test_an_exponent_belongs_to_powers(scale, exponent: float | None, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        density_shift(torch.tensor([1.0, 2.0]), 0.0, 1.0, scale, exponent)
