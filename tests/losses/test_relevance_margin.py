"""Max-margin with margins scaled by 1 - relevance, against its loop twin and finite differences."""

import pytest
import reference
import torch
from loss_cases import embeddings, graded, loss_and_gradients, some_positives, values

from mmts.losses import max_margin


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("positives", [None, some_positives()])
def test_equals_its_loop_twin_in_loss_and_gradient(ndim: int, positives: torch.Tensor | None) -> None:
    x, y = embeddings()
    margin = (4 * values(ndim=ndim)).detach().requires_grad_()
    fast = max_margin(x, y, margin, positives=positives, relevance=graded())
    slow = reference.relevance_margin(x, y, margin, graded(), positives)
    assert fast > 0
    torch.testing.assert_close(
        loss_and_gradients(fast, x, y, margin), loss_and_gradients(slow, x, y, margin), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("ndim", [0, 1, 2])
def test_passes_gradcheck_over_embeddings_and_margin(ndim: int) -> None:
    x, y = embeddings(4, 3, seed=1)
    relevance = graded(4)
    assert torch.autograd.gradcheck(lambda *a: max_margin(*a, relevance=relevance), (x, y, values(4, ndim)))


@pytest.mark.parametrize("options", [{"negatives": "hardest"}, {"squared": True}])
def test_a_relevance_of_none_for_all_others_is_the_plain_loss(options: dict) -> None:
    x, y = embeddings()
    for margin in (values(), values(ndim=2)):
        plain = max_margin(x, y, margin, **options)
        torch.testing.assert_close(max_margin(x, y, margin, relevance=torch.eye(6), **options), plain)


def test_a_candidate_as_relevant_needs_no_margin() -> None:
    x, y = embeddings()
    torch.testing.assert_close(max_margin(x, y, 0.5, relevance=torch.ones(6, 6)), max_margin(x, y, 0.0))


def test_each_direction_takes_the_querys_margin_and_the_pairs_relevance() -> None:
    x = torch.zeros(2, 2, dtype=torch.float64)  # all similarities 0: every hinge is its margin
    relevance = torch.tensor([[1.0, 0.25], [0.5, 1.0]])
    loss = max_margin(x, x, torch.tensor([0.2, 0.4]), relevance=relevance)
    to_text, to_media = [0.2 * 0.75, 0.4 * 0.5], [0.2 * 0.5, 0.4 * 0.75]
    assert loss.item() == pytest.approx(sum(to_text + to_media) / 4)


def test_one_sample_gives_exactly_zero_and_no_gradient() -> None:
    x, y = embeddings(1)
    for part in loss_and_gradients(max_margin(x, y, 0.2, relevance=torch.ones(1, 1)), x, y):
        assert (part == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_compute_in_float32(dtype: torch.dtype) -> None:
    x, y = embeddings(dtype=dtype)
    loss = max_margin(x, y, 0.5, relevance=graded().to(dtype))
    exact = max_margin(x.double(), y.double(), 0.5, relevance=graded())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_right_is_an_error() -> None:
    x, y = embeddings(3)
    with pytest.raises(ValueError, match=r"relevance is \(2, 2\)"):
        max_margin(x, y, 0.2, relevance=torch.eye(2))
    with pytest.raises(ValueError, match=r"relevance\[0, 0\] is 2.0; it must lie in \[0, 1\]"):
        max_margin(x, y, 0.2, relevance=2 * torch.eye(3))
