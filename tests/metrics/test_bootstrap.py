"""Bootstrap intervals: the right width where theory knows it, whole clusters, pairs, seeds of a run, the same seed."""

import pytest
import reference
import torch

from mmts.errors import InputError
from mmts.metrics import bootstrap_interval, paired_bootstrap_interval, seeded_bootstrap_interval


def sample(Q: int = 400, seed: int = 0) -> torch.Tensor:
    return torch.randn(Q, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    values = sample()
    low, high = bootstrap_interval(values, num_resamples=4000)
    standard_error = values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - 1.96 * standard_error, abs=0.15 * standard_error)
    assert high == pytest.approx(values.mean().item() + 1.96 * standard_error, abs=0.15 * standard_error)


def test_resamples_equal_the_loop_twin() -> None:
    values, clusters = sample(12), [3, 3, 1, 1, 1, 7, 7, 3, 9, 9, 1, 7]
    draws = torch.randint(4, (50, 4), generator=torch.Generator().manual_seed(5))
    means = sorted(reference.bootstrap_means(values.tolist(), clusters, draws.tolist()))
    low, high = bootstrap_interval(values, clusters=torch.tensor(clusters), num_resamples=50, seed=5, confidence=0.9)
    quantiles = torch.tensor(means, dtype=torch.float64).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
    assert [low, high] == pytest.approx(quantiles.tolist())


def test_repeating_each_value_within_its_cluster_does_not_narrow_the_interval() -> None:
    values = sample(100)
    five = values.repeat_interleave(5)
    owner = torch.arange(100).repeat_interleave(5)
    assert bootstrap_interval(five, clusters=owner) == pytest.approx(bootstrap_interval(values))
    low, high = bootstrap_interval(five)
    wide_low, wide_high = bootstrap_interval(five, clusters=owner)
    assert wide_high - wide_low > 1.8 * (high - low)


def test_the_seed_decides_and_more_confidence_is_wider() -> None:
    values = sample()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    low, high = bootstrap_interval(values, confidence=0.5)
    wide_low, wide_high = bootstrap_interval(values, confidence=0.99)
    assert wide_low < low < high < wide_high


def test_the_paired_interval_leaves_out_what_both_share() -> None:
    first = sample() * 10
    second = first + 0.1 + 0.01 * sample(seed=1)
    low, high = paired_bootstrap_interval(first, second)
    assert 0.09 < low < high < 0.11
    assert paired_bootstrap_interval(second, first) == pytest.approx((-high, -low), abs=2e-4)


def test_bool_values_and_a_single_cluster() -> None:
    assert bootstrap_interval(torch.tensor([True, True])) == (1.0, 1.0)
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), clusters=torch.tensor([4, 4])) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.0, float("nan")], {}, r"values\[1\] is nan"),
        ([], {}, r"values is \(0,\)"),
        ([[1.0]], {}, "values is"),
        ([1.0, 2.0], {"clusters": torch.tensor([0])}, "clusters is"),
        ([1.0, 2.0], {"clusters": torch.tensor([0.0, 1.0])}, "of integers"),
        ([1.0], {"confidence": 1.0}, "confidence"),
        ([1.0], {"num_resamples": 0}, "num_resamples"),
    ],
)
def test_what_cannot_be_right_is_an_error(values: list, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap_interval(torch.tensor(values), **options)


def test_pairs_must_be_the_same_queries() -> None:
    with pytest.raises(InputError, match="first has 2 rows and second 3"):
        paired_bootstrap_interval(torch.ones(2), torch.ones(3))


def test_resamples_over_seeds_equal_the_loop_twin() -> None:
    first, second, clusters = sample(18).reshape(3, 6), sample(12, seed=1).reshape(2, 6), [4, 4, 1, 9, 9, 9]
    generator = torch.Generator().manual_seed(5)
    drawn, of_first, of_second = (torch.randint(n, (50, n), generator=generator).tolist() for n in (3, 3, 2))
    gaps = [
        reference.seeded_difference(first.tolist(), second.tolist(), clusters, *each)
        for each in zip(drawn, of_first, of_second, strict=True)
    ]
    found = seeded_bootstrap_interval(
        first, second, clusters=torch.tensor(clusters), num_resamples=50, seed=5, confidence=0.9
    )
    quantiles = torch.tensor(gaps, dtype=torch.float64).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
    assert list(found) == pytest.approx(quantiles.tolist())


def test_seeds_that_differ_widen_the_interval_and_one_seed_leaves_the_queries() -> None:
    first = sample(200)
    level = torch.tensor([[-1.0], [0.0], [1.0]])
    narrow = seeded_bootstrap_interval(first.expand(3, -1), first.expand(3, -1) + 0.1)
    wide = seeded_bootstrap_interval(first + level, first + level + 0.1)
    assert narrow == pytest.approx((0.1, 0.1))
    assert wide[0] < -0.9
    assert wide[1] > 1.1
    low, high = seeded_bootstrap_interval(first[None], sample(200, seed=1)[None])
    assert (low, high) == pytest.approx(paired_bootstrap_interval(first, sample(200, seed=1)), abs=0.03)


def test_rows_of_seeds_must_be_of_the_same_queries() -> None:
    with pytest.raises(InputError, match="first has 2 columns and second 3"):
        seeded_bootstrap_interval(torch.ones(1, 2), torch.ones(1, 3))
    with pytest.raises(InputError, match=r"second is \(2,\); it must be \(S, Q\)"):
        seeded_bootstrap_interval(torch.ones(1, 2), torch.ones(2))
