"""Ranks, recall, median and mean rank: by hand, the loop twin, and ties, which count against the model."""

from functools import partial

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmts.errors import InputError
from mmts.metrics import mean_rank, median_rank, ranks, recall_at_k, rows

SIMILARITY = torch.tensor(
    [
        [0.9, 0.5, 0.1, 0.0],  # relevant first
        [0.9, 0.5, 0.1, 0.0],  # relevant third
        [0.5, 0.5, 0.5, 0.5],  # all tied
        [-0.9, -0.5, -0.1, -0.3],  # negative scores are scores like any other
        [0.1, 0.8, 0.9, 0.2],  # two relevant: the better one counts, the other is not in its way
        [0.8, 0.8, 0.3, 0.1],  # two relevant that tie
    ]
)
RELEVANT = torch.tensor(
    [
        [True, False, False, False],
        [False, False, True, False],
        [False, True, False, False],
        [False, True, False, False],
        [False, True, False, True],
        [True, True, False, False],
    ]
)
RANKS = [1, 3, 4, 3, 2, 1]


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    Q, C, seed = draw(st.integers(1, 8)), draw(st.integers(1, 9)), draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(-2, 3, (Q, C), generator=generator) / 2  # few values: many ties
    relevant = torch.rand(Q, C, generator=generator) < 0.4
    relevant[torch.arange(Q), torch.randint(C, (Q,), generator=generator)] = True
    return similarity, relevant


def test_ranks_of_a_matrix_made_by_hand() -> None:
    result = ranks(SIMILARITY, RELEVANT)
    assert result.tolist() == RANKS
    assert result.dtype == torch.int64


def test_recall_median_and_mean_of_a_matrix_made_by_hand() -> None:
    recalls = [recall_at_k(SIMILARITY, RELEVANT, k).item() for k in (1, 2, 3, 4, 100)]
    assert recalls == pytest.approx([2 / 6, 3 / 6, 5 / 6, 1, 1])
    assert median_rank(SIMILARITY, RELEVANT).item() == 2.5  # 1 1 2 | 3 3 4
    assert median_rank(SIMILARITY[:5], RELEVANT[:5]).item() == 3  # 1 2 3 3 4
    assert mean_rank(SIMILARITY, RELEVANT).item() == pytest.approx(14 / 6)
    for result in (f(SIMILARITY, RELEVANT) for f in (partial(recall_at_k, k=1), median_rank, mean_rank)):
        assert result.shape == ()
        assert result.dtype == torch.float64


@given(problems())
def test_equals_the_loop_twin(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    similarity, relevant = problem
    wanted = [reference.rank(s, r) for s, r in zip(similarity.tolist(), relevant.tolist(), strict=True)]
    assert ranks(similarity, relevant).tolist() == wanted
    assert median_rank(similarity, relevant).item() == reference.median(wanted)
    assert mean_rank(similarity, relevant).item() == pytest.approx(reference.mean(wanted))
    assert recall_at_k(similarity, relevant, 2).item() == pytest.approx(sum(r <= 2 for r in wanted) / len(wanted))


@given(problems(), st.randoms())
def test_only_the_order_counts_and_the_order_of_candidates_does_not(problem, order) -> None:  # type: ignore[no-untyped-def]
    similarity, relevant = problem
    expected = ranks(similarity, relevant)
    assert torch.equal(ranks(similarity.exp() * 3 - 100, relevant), expected)
    columns = torch.tensor(order.sample(range(similarity.shape[1]), similarity.shape[1]))
    assert torch.equal(ranks(similarity[:, columns], relevant[:, columns]), expected)


def test_a_constant_model_scores_nothing() -> None:
    similarity, relevant = torch.zeros(3, 10), torch.eye(10, dtype=torch.bool)[:3]
    assert ranks(similarity, relevant).tolist() == [10, 10, 10]
    assert recall_at_k(similarity, relevant, 5).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    assert ranks(SIMILARITY.to(dtype), RELEVANT).tolist() == RANKS


def test_rows_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 8)  # two rows at a time
    assert ranks(SIMILARITY, RELEVANT).tolist() == RANKS
    broken = SIMILARITY.clone()
    broken[4, 1] = float("nan")
    with pytest.raises(InputError, match=r"similarity\[4, 1\] is nan"):
        ranks(broken, RELEVANT)


@pytest.mark.parametrize(
    ("similarity", "relevant", "message"),
    [
        (
            SIMILARITY,
            RELEVANT & torch.tensor([[True], [True], [True], [False], [True], [True]]),
            r"relevant\[3\] has no",
        ),
        (SIMILARITY, RELEVANT.float(), "must be bool"),
        (SIMILARITY, RELEVANT[:, :3], r"relevant is \(6, 3\) and similarity is \(6, 4\)"),
        (SIMILARITY[0], RELEVANT[0], "similarity is"),
        (SIMILARITY[:0], RELEVANT[:0], "not empty"),
        (SIMILARITY.long(), RELEVANT, "floating point"),
    ],
)
def test_what_cannot_be_right_is_an_error(similarity, relevant, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        ranks(similarity, relevant)


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_wrong_k_is_an_error(k) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="k is"):
        recall_at_k(SIMILARITY, RELEVANT, k)
