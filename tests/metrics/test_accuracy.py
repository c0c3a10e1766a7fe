"""Top-k accuracy and the mean per class: by hand, the loop twins, ties, and what is refused."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmts.errors import InputError
from mmts.metrics import mean_per_class, per_class_bootstrap_interval, rows, top_classes, top_k_accuracy

SIMILARITY = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [-0.3, -0.2, -0.9]])
TARGET = torch.tensor([0, 2, 1, 1])


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    M, K, seed = draw(st.integers(1, 9)), draw(st.integers(1, 7)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(-2, 3, (M, K), generator=generator) / 2  # few values: many ties
    return similarity, torch.randint(K, (M,), generator=generator)


def test_a_matrix_made_by_hand() -> None:
    assert top_classes(SIMILARITY, TARGET, 3).tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 1], [1, 0, 2]]
    assert [top_k_accuracy(SIMILARITY, TARGET, k).item() for k in (1, 2, 3, 9)] == [0.5, 0.5, 1.0, 1.0]


@given(problems(), st.integers(1, 4))
def test_accuracy_equals_the_loop_twins(problem: tuple[torch.Tensor, torch.Tensor], k: int) -> None:
    similarity, target = problem
    right = [
        reference.is_among_best(scores, true, k)
        for scores, true in zip(similarity.tolist(), target.tolist(), strict=True)
    ]
    best = top_classes(similarity, target, k)
    assert (best == target[:, None]).any(dim=1).tolist() == right
    for scores, chosen in zip(similarity, best, strict=True):
        assert scores[chosen].tolist() == sorted(scores.tolist(), reverse=True)[:k]
        assert len({*chosen.tolist()}) == len(chosen)
    assert top_k_accuracy(similarity, target, k).item() == pytest.approx(reference.mean(right))
    values = torch.tensor(right)
    assert mean_per_class(values, target).item() == pytest.approx(reference.mean_per_class(right, target.tolist()))


def test_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity = torch.randint(4, (50, 6), generator=torch.Generator().manual_seed(0)).float()
    target = torch.arange(50) % 6
    whole = top_classes(similarity, target, 5)
    monkeypatch.setattr(rows, "CHUNK", 12)
    assert torch.equal(top_classes(similarity, target, 5), whole)


def test_rare_classes_count_as_much_as_common_ones() -> None:
    values, target = torch.tensor([1.0] * 98 + [0.0, 0.0]), torch.tensor([7] * 98 + [3, 5])
    assert mean_per_class(values, target).item() == pytest.approx(1 / 3)


def test_what_cannot_be_scored_is_named() -> None:
    nan = SIMILARITY.clone()
    nan[1, 2] = torch.nan
    for similarity, target, k, says in (
        (nan, TARGET, 1, r"similarity\[1, 2\] is nan"),
        (SIMILARITY, torch.tensor([0, 2, 3, 0]), 1, r"target\[2\] is 3; it must be a class from 0 to 2"),
        (SIMILARITY, torch.tensor([0, -1, 1, 0]), 1, r"target\[1\] is -1"),
        (SIMILARITY, TARGET[:3], 1, r"target is \(3,\) torch.int64 and similarity is \(4, 3\)"),
        (SIMILARITY, TARGET, 0, "k is 0"),
    ):
        with pytest.raises(InputError, match=says):
            top_classes(similarity, target, k)
    with pytest.raises(InputError, match=r"values is \(3,\) and target \(4,\)"):
        mean_per_class(torch.ones(3), TARGET)


def test_resamples_equal_the_loop_twin() -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randint(2, (12,), generator=generator).double()
    classes = torch.tensor([3, 3, 1, 1, 1, 7, 7, 3, 9, 8, 1, 7])
    draws = torch.randint(12, (40, 12), generator=torch.Generator().manual_seed(5))
    means = reference.per_class_bootstrap_means(values.tolist(), classes.tolist(), draws.tolist())
    expected = torch.tensor(means, dtype=torch.float64).quantile(torch.tensor([0.1, 0.9], dtype=torch.float64))
    result = per_class_bootstrap_interval(values, classes, num_resamples=40, seed=5, confidence=0.8)
    assert list(result) == pytest.approx(expected.tolist())


def test_the_interval_holds_the_figure_even_if_rare_classes_are_the_hard_ones() -> None:
    """Averaged over the classes that a resample holds, it would begin above the figure."""
    classes = torch.cat([torch.arange(20).repeat_interleave(40), torch.arange(20, 100)])
    values = (classes < 20).double()
    figure = mean_per_class(values, classes).item()
    low, high = per_class_bootstrap_interval(values, classes)
    assert figure == pytest.approx(0.2)
    assert low < figure < high
    assert (low + high) / 2 == pytest.approx(figure, abs=0.02)


def test_classes_of_one_medium_have_the_interval_of_a_mean() -> None:
    """Each class is then one draw of its own: half of 400 right has a standard error of 2.5 points."""
    values = (torch.arange(400) % 2).double()
    low, high = per_class_bootstrap_interval(values, torch.arange(400))
    assert (high - low) / 2 == pytest.approx(1.96 * 0.025, rel=0.3)
    with pytest.raises(InputError, match=r"classes is \(3,\) torch.int64; it must be \(400,\)"):
        per_class_bootstrap_interval(values, torch.arange(3))
