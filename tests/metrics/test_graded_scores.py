"""All graded figures from one sort: by hand, the loop twins to 1e-9, ties, views, and in little memory."""

import pytest
import reference
import torch
from hypothesis import given
from test_average_precision import problems
from torch import Tensor

from mmts.errors import InputError
from mmts.metrics import GradedScores, average_precision, graded_scores, ndcg_per_query, rows


def twins(similarity: Tensor, relevance: Tensor) -> list[list[float]]:
    pairs = list(zip(similarity.tolist(), relevance.tolist(), strict=True))
    return [
        [reference.average_precision(scores, grades) for scores, grades in pairs],
        [reference.average_precision(scores, [float(grade == 1) for grade in grades]) for scores, grades in pairs],
        [reference.ndcg(scores, grades) for scores, grades in pairs],
    ]


def epic_like(Q: int, C: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Long-tailed verbs and nouns: relevance 0, 1/4, 1/2, 1, mostly 0, one of 1 in each row and column."""
    generator = torch.Generator().manual_seed(seed)
    verb, noun = ((20 * torch.rand(max(Q, C), generator=generator) ** 2).long() for _ in range(2))
    same_verb, same_noun = verb[:Q, None] == verb[None, :C], noun[:Q, None] == noun[None, :C]
    close = (noun[:Q, None] // 2 == noun[None, :C] // 2) & ~same_noun
    similarity = torch.randn(Q, C, generator=generator)
    return similarity, same_verb / 2 + same_noun.double() / 2 + close * ~same_verb / 4


def test_a_row_made_by_hand() -> None:
    scores = graded_scores(torch.tensor([[0.9, 0.8, 0.7, 0.6]]), torch.tensor([[0.5, 1.0, 0.25, 1.0]]))
    assert isinstance(scores, GradedScores)
    assert scores.average_precision.item() == pytest.approx((1.5 / 2 + 2.75 / 4) / 2)
    assert scores.binary_average_precision.item() == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert scores.ndcg.item() == pytest.approx(reference.ndcg([0.9, 0.8, 0.7, 0.6], [0.5, 1.0, 0.25, 1.0]))
    assert all(each.shape == (1,) and each.dtype == torch.float64 for each in scores)


@given(problems())
def test_equals_the_loop_twins_with_many_ties(problem: tuple[Tensor, Tensor]) -> None:
    similarity, relevance = problem
    for ours, wanted in zip(graded_scores(similarity, relevance), twins(similarity, relevance), strict=True):
        assert ours.tolist() == pytest.approx(wanted, rel=0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])  # bfloat16: ties in every row
def test_equals_the_loop_twins_in_both_directions_of_an_epic_like_matrix(dtype: torch.dtype) -> None:
    similarity, relevance = epic_like(50, 40)
    relevance.fill_diagonal_(1.0)
    relevance[40:, 0] = 1.0
    similarity = similarity.to(dtype)
    for scores, grades in ((similarity, relevance), (similarity.T, relevance.T)):
        for ours, wanted in zip(graded_scores(scores, grades), twins(scores, grades), strict=True):
            assert ours.tolist() == pytest.approx(wanted, rel=0, abs=1e-9)


def test_equals_the_separate_metrics_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity, relevance = epic_like(9, 7)
    relevance[:, 3] = 1.0
    wanted = [
        average_precision(similarity, relevance),
        average_precision(similarity, relevance == 1),
        ndcg_per_query(similarity, relevance),
    ]
    monkeypatch.setattr(rows, "CHUNK", 14)  # two rows at a time, the last by itself
    for ours, theirs in zip(graded_scores(similarity, relevance), wanted, strict=True):
        assert torch.equal(ours, theirs)
    broken = relevance.clone()
    broken[8] = 0.5
    with pytest.raises(InputError, match=r"relevance\[8\] has no item of relevance 1"):
        graded_scores(similarity, broken)
    broken[5, 2] = float("nan")
    with pytest.raises(InputError, match=r"relevance\[5, 2\] is nan"):
        graded_scores(similarity, broken)
    similarity[6, 1] = float("nan")
    with pytest.raises(InputError, match=r"similarity\[6, 1\] is nan"):
        graded_scores(similarity, relevance)


def test_a_tie_counts_against_the_model_wherever_the_right_item_stands() -> None:
    relevance = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        for zeros in (torch.zeros(1, 4), torch.tensor([[0.0, -0.0, 0.0, -0.0]])):
            scores = graded_scores(zeros, relevance[:, order])
            assert [each.item() for each in scores] == [1 / 3, 1 / 4, 0.0]


def test_infinite_scores_have_their_place() -> None:
    infinity = float("inf")
    scores = graded_scores(torch.tensor([[-infinity, infinity, 0.0]]), torch.tensor([[0.0, 1.0, 0.5]]))
    assert [each.item() for each in scores] == [1.0, 1.0, 1.0]
