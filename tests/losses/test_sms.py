"""SMS against its loop twin, finite differences, its symmetries, and the batches that break others."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import embeddings, graded, loss_and_gradients, values

from mmts.losses import max_margin, sms


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("widths", [{}, {"slack": 0.0, "eps": 0.0}, {"slack": 0.3, "eps": 0.3}])
def test_equals_its_loop_twin_in_loss_and_gradient(ndim: int, widths: dict) -> None:
    x, y = embeddings()
    margin = (3 * values(ndim=ndim)).detach().requires_grad_()
    fast = loss_and_gradients(sms(x, y, graded(), margin, **widths), x, y, margin)
    slow = loss_and_gradients(reference.sms(x, y, graded(), margin, **widths), x, y, margin)
    assert fast[0] > 0
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


def test_the_cases_reach_all_three_branches() -> None:
    gap = graded().diagonal()[:, None] - graded()
    off_diagonal = ~torch.eye(6, dtype=torch.bool)
    for branch in (gap > 0, gap < 0, (gap == 0) & off_diagonal):
        assert branch.any()


@pytest.mark.parametrize("ndim", [0, 1, 2])
def test_passes_gradcheck_over_embeddings_and_margin(ndim: int) -> None:
    x, y = embeddings(4, 3, seed=1)
    relevance = graded(4)
    assert torch.autograd.gradcheck(lambda x, y, m: sms(x, y, relevance, m), (x, y, values(4, ndim)))


def test_defaults_are_the_published_settings() -> None:
    x, y = embeddings()
    wanted = reference.sms(x, y, graded(), torch.tensor(0.6, dtype=torch.float64), 0.1, 1.1 / 240)
    torch.testing.assert_close(sms(x, y, graded()), wanted)


def test_with_nothing_else_relevant_it_is_the_plain_max_margin() -> None:
    x, y = embeddings()
    for margin in (torch.tensor(0.3), values(), values(ndim=2)):
        torch.testing.assert_close(sms(x, y, torch.eye(6), margin), max_margin(x, y, margin))


def test_each_branch_by_hand() -> None:
    # s_00 = s_11 = 1, s_01 = s_10 = .8
    x = y = torch.tensor([[1.0, 0.0], [0.8, 0.6]])

    def both(r: float, own: float = 1.0) -> float:
        return sms(x, y, torch.tensor([[own, r], [r, own]])).item()

    assert both(0.0) == pytest.approx(0.6 - 0.2)
    assert both(0.5) == pytest.approx(0.3 - 0.2)
    assert both(0.9) == 0  # .06 is asked for, .2 is found
    assert both(1.0) == pytest.approx(0.2 - 0.1)
    assert both(1.0, own=0.5) == pytest.approx(0.3 + 0.2)
    assert both(0.997) == pytest.approx(0.2 - 0.6 * 0.003 - 0.1, abs=1e-6)  # within eps: as good as equal


def test_an_equally_relevant_candidate_is_pulled_as_near_as_the_own_one() -> None:
    x, y = embeddings(3, 8)
    relevance = torch.eye(3)
    relevance[0, 1] = relevance[1, 0] = 1.0
    y = y.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([y], lr=2.0)
    for _ in range(300):
        optimizer.zero_grad()
        sms(x.detach(), y, relevance, 0.3, slack=0.05).backward()
        optimizer.step()
    s = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    assert abs(s[0, 0] - s[0, 1]) < 0.2
    assert s[0, 0] - s[0, 2] > 0.25


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 9), order=st.randoms())
def test_neither_the_order_of_the_batch_nor_of_the_modalities_matters(seed: int, B: int, order) -> None:  # type: ignore[no-untyped-def]
    x, y = embeddings(B, seed=seed)
    relevance, margin, pairs = graded(B, seed), values(B, seed=seed), values(B, 2, seed=seed)
    before = sms(x, y, relevance, margin)
    places = torch.tensor(order.sample(range(B), B))
    after = sms(x[places], y[places], relevance[places][:, places], margin[places])
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(before, sms(y, x, relevance.T, margin))
    torch.testing.assert_close(sms(x, y, relevance, pairs), sms(y, x, relevance.T, pairs.T))


def test_one_sample_gives_exactly_zero_and_no_gradient() -> None:
    x, y = embeddings(1)
    margin = values(1)
    for part in loss_and_gradients(sms(x, y, torch.tensor([[0.5]]), margin, slack=0.0), x, y, margin):
        assert (part == 0).all()


def test_zero_vectors_have_a_finite_loss_and_gradient() -> None:
    _, y = embeddings(4)
    x = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    loss, *gradients = loss_and_gradients(sms(x, y, torch.eye(4)), x, y)
    assert loss.item() == pytest.approx(0.6)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_other_dtypes_agree_and_compute_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    x, y = embeddings(dtype=dtype)
    loss = sms(x, y, graded().to(dtype))  # quarters are exact in all
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, (x, y))
    assert all(gradient.dtype == dtype for gradient in gradients)
    exact_x, exact_y = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    exact = loss_and_gradients(sms(exact_x, exact_y, graded()), exact_x, exact_y)
    for ours, wanted in zip((loss.detach(), *gradients), exact, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=tolerance, atol=tolerance)


def test_autocast_is_off_inside() -> None:
    x, y = embeddings(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sms(x, y, graded())
    assert torch.equal(sms(x, y, graded()), inside)


X, Y = (t.detach() for t in embeddings(3, 2))
OUTSIDE = torch.eye(3)
OUTSIDE[2, 1] = 1.5


@pytest.mark.parametrize(
    ("y", "relevance", "options", "message"),
    [
        (Y * float("nan"), torch.eye(3), {}, r"y\[0\] has a NaN"),
        (Y, torch.eye(2), {}, r"relevance is \(2, 2\); it must be \(3, 3\)"),
        (Y, torch.eye(3) * float("nan"), {}, r"relevance\[0, 0\] is nan; it must lie in \[0, 1\]"),
        (Y, OUTSIDE, {}, r"relevance\[2, 1\] is 1.5; it must lie in \[0, 1\]"),
        (Y, -torch.eye(3), {}, r"relevance\[0, 0\] is -1.0"),
        (Y, torch.eye(3), {"margin": -0.1}, "margin is -0.1.*not negative"),
        (Y, torch.eye(3), {"slack": -0.1}, "slack is -0.1"),
        (Y, torch.eye(3), {"eps": float("nan")}, "eps is nan"),
    ],
)
def test_what_cannot_be_right_is_an_error(y, relevance, options: dict, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        sms(X, y, relevance, **options)
