"""nDCG: by hand, the loop twin, and scikit-learn where there are no ties and k is the same."""

import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_average_precision import problems

from mmts.errors import InputError
from mmts.metrics import ndcg, ndcg_per_query

SIMILARITY = torch.tensor([[0.9, 0.8, 0.7, 0.6]])


@pytest.mark.parametrize(
    ("relevance", "wanted"),
    [
        ([1.0, 0.5, 0.0, 0.0], 1.0),
        ([0.5, 1.0, 0.0, 0.0], (0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3))),
        ([0.0, 0.0, 1.0, 0.0], 0.0),  # one relevant item: only position 1 is looked at
        ([0.0, 0.5, 1.0, 0.0], (0.5 / math.log2(3)) / (1 + 0.5 / math.log2(3))),
        ([0.2, 0.2, 0.2, 0.2], 1.0),
    ],
)
def test_matrices_made_by_hand(relevance: list[float], wanted: float) -> None:
    result = ndcg(SIMILARITY, torch.tensor([relevance], dtype=torch.float64))
    assert result.item() == pytest.approx(wanted)
    assert result.shape == ()
    assert result.dtype == torch.float64


@given(problems())
def test_equals_the_loop_twin(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    similarity, relevance = problem
    wanted = [reference.ndcg(s, r) for s, r in zip(similarity.tolist(), relevance.tolist(), strict=True)]
    result = ndcg_per_query(similarity, relevance)
    assert result.tolist() == pytest.approx(wanted)
    assert (result >= 0).all()
    assert (result <= 1 + 1e-12).all()
    assert ndcg(similarity, relevance).item() == pytest.approx(sum(wanted) / len(wanted))


@given(seed=st.integers(0, 10**6))
def test_equals_scikit_learn_without_ties(seed: int) -> None:
    from sklearn.metrics import ndcg_score

    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(1, 12, generator=generator)
    relevance = torch.rand(1, 12, generator=generator) * (torch.rand(1, 12, generator=generator) < 0.5)
    relevance[0, 0] = 0.7
    k = int((relevance > 0).sum())
    assert ndcg(similarity, relevance).item() == pytest.approx(
        ndcg_score(relevance.double().numpy(), similarity.numpy(), k=k)
    )


def test_among_equal_scores_the_less_relevant_comes_first() -> None:
    relevance = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert ndcg(torch.zeros(1, 4), relevance[:, order]).item() == 0.0


def test_a_perfect_order_scores_one_and_bool_relevance_is_taken() -> None:
    relevance = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) + 0.01
    assert ndcg(relevance, relevance).item() == pytest.approx(1.0)
    assert ndcg(SIMILARITY, torch.tensor([[True, True, False, False]])).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ([0.0, 0.0, 0.0, 0.0], r"relevance\[0\] has no relevant item"),
        ([1.0, -1.0, 0.0, 0.0], r"relevance\[0, 1\] is -1"),
        ([1.0, 0.0, float("nan"), 0.0], r"relevance\[0, 2\] is nan"),
    ],
)
def test_what_cannot_be_right_is_an_error(relevance: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ndcg(SIMILARITY, torch.tensor([relevance]))
