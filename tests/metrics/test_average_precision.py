"""Average precision: by hand, the loop twin, scikit-learn where there are no ties, and the graded challenge number."""

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmts.errors import InputError
from mmts.metrics import average_precision, mean_average_precision

SIMILARITY = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.1]])
RELEVANT = torch.tensor([[True, False, True, False], [True, False, True, False], [True, False, False, False]])
# positions 1 and 3: (1/1 + 2/3) / 2; positions 2 and 4: (1/2 + 2/4) / 2; tied with two others: position 3
BY_HAND = [5 / 6, 1 / 2, 1 / 3]


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    Q, C, seed = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(-2, 3, (Q, C), generator=generator) / 2  # few values: many ties
    grades = torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.75], dtype=torch.float64)
    relevance = grades[torch.randint(7, (Q, C), generator=generator)]
    relevance[torch.arange(Q), torch.randint(C, (Q,), generator=generator)] = 1.0
    return similarity, relevance


def test_a_matrix_made_by_hand() -> None:
    assert average_precision(SIMILARITY, RELEVANT).tolist() == pytest.approx(BY_HAND)
    result = mean_average_precision(SIMILARITY, RELEVANT)
    assert result.item() == pytest.approx(sum(BY_HAND) / 3)
    assert result.shape == ()
    assert result.dtype == torch.float64


def test_graded_relevance_is_the_number_of_the_challenge() -> None:
    relevance = torch.tensor([[0.5, 1.0, 0.25, 1.0]])
    # relevance 1 at positions 2 and 4: sums of graded relevance 1.5 and 2.75
    assert average_precision(SIMILARITY[:1], relevance).item() == pytest.approx((1.5 / 2 + 2.75 / 4) / 2)
    # strictly binary beside it: precisions 1/2 and 2/4
    assert average_precision(SIMILARITY[:1], relevance == 1).item() == pytest.approx(0.5)


def test_on_bool_and_on_0_and_1_it_is_the_same() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        assert average_precision(SIMILARITY, RELEVANT.to(dtype)).tolist() == pytest.approx(BY_HAND)


@given(problems())
def test_equals_the_loop_twin(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    similarity, relevance = problem
    for grades in (relevance, relevance == 1):
        wanted = [reference.average_precision(s, r) for s, r in zip(similarity.tolist(), grades.tolist(), strict=True)]
        assert average_precision(similarity, grades).tolist() == pytest.approx(wanted)
        assert mean_average_precision(similarity, grades).item() == pytest.approx(sum(wanted) / len(wanted))


def test_equals_scikit_learn_without_ties() -> None:
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(0)
    similarity = torch.randn(20, 50, generator=generator)
    relevant = torch.rand(20, 50, generator=generator) < 0.2
    wanted = [average_precision_score(r, s) for r, s in zip(relevant.numpy(), similarity.numpy(), strict=True)]
    assert average_precision(similarity, relevant).tolist() == pytest.approx(wanted)


def test_ties_count_against_the_model_wherever_the_relevant_item_stands() -> None:
    relevant = torch.eye(5, dtype=torch.bool)
    assert average_precision(torch.zeros(5, 5), relevant).tolist() == pytest.approx([1 / 5] * 5)
    negative_zero = torch.zeros(5, 5).masked_fill(~relevant, -0.0)
    assert average_precision(negative_zero, relevant).tolist() == pytest.approx([1 / 5] * 5)


def test_a_tie_of_graded_items_counts_against_the_model() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0, 1.0, 1.0]])
    for relevance in ([0, 0, 0, 0.5, 1.0], [0, 0, 0, 1.0, 0.5]):
        assert average_precision(scores, torch.tensor([relevance])).item() == pytest.approx(1 / 4)
    # Where less was gained than 0.5 a position, the item of 0.5 after it; where more, before it.
    late = average_precision(torch.tensor([[9.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.5, 1.0]]))
    assert late.item() == pytest.approx((1 + 2.5 / 3) / 2)


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        (torch.tensor([[1.0, 0, 0, 0], [0.5, 0.9, 0, 0], [1, 0, 0, 0]]), r"relevance\[1\] has no item of relevance 1"),
        (torch.tensor([[1.0, 0, 0, 0], [1, 0, -0.5, 0], [1, 0, 0, 0]]), r"relevance\[1, 2\] is -0.5"),
        (torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [float("nan"), 0, 0, 1]]), r"relevance\[2, 0\] is nan"),
        (torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [float("inf"), 0, 0, 1]]), r"relevance\[2, 0\] is inf"),
        (torch.ones(3, 5), r"relevance is \(3, 5\)"),
    ],
)
def test_what_cannot_be_right_is_an_error(relevance: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mean_average_precision(SIMILARITY, relevance)
