"""SigLIP against its loop twin, the published form, finite differences, and the batches that break others."""

import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import embeddings, loss_and_gradients, some_positives, values

from mmts.losses import siglip


def bias(value: float = -2.0) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("positives", [None, some_positives()])
def test_equals_its_loop_twin_in_loss_and_gradient(ndim: int, positives: torch.Tensor | None) -> None:
    x, y = embeddings()
    leaves = (x, y, values(ndim=ndim), bias())
    fast = loss_and_gradients(siglip(*leaves, positives=positives), *leaves)
    slow = loss_and_gradients(reference.siglip(*leaves, positives=positives), *leaves)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("positives", [None, some_positives(4)])
def test_passes_gradcheck_over_embeddings_temperature_and_bias(ndim: int, positives: torch.Tensor | None) -> None:
    x, y = embeddings(4, 3, seed=1)
    leaves = (x, y, values(4, ndim), bias())
    assert torch.autograd.gradcheck(lambda *a: siglip(*a, positives=positives), leaves)


def test_with_one_temperature_it_is_the_published_loss() -> None:
    x, y = embeddings()
    logits = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T * 10.0 - 10.0
    labels = 2 * torch.eye(6) - 1
    wanted = -torch.nn.functional.logsigmoid(labels * logits).sum() / 6
    torch.testing.assert_close(siglip(x, y, 0.1, -10.0), wanted)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 9), order=st.randoms())
def test_neither_the_order_of_the_batch_nor_of_the_modalities_matters(seed: int, B: int, order) -> None:  # type: ignore[no-untyped-def]
    x, y = embeddings(B, seed=seed)
    tau, pairs, positives = values(B, seed=seed), values(B, 2, seed=seed), some_positives(B, seed=seed)
    before = siglip(x, y, tau, -2.0, positives=positives)
    places = torch.tensor(order.sample(range(B), B))
    after = siglip(x[places], y[places], tau[places], -2.0, positives=positives[places][:, places])
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(before, siglip(y, x, tau, -2.0, positives=positives.T))
    torch.testing.assert_close(siglip(x, y, pairs, -2.0), siglip(y, x, pairs.T, -2.0))
    assert before >= 0


def test_a_scalar_equals_a_constant_vector_and_matrix() -> None:
    x, y = embeddings()
    for shape in ((6,), (6, 6)):
        torch.testing.assert_close(siglip(x, y, torch.full(shape, 0.2), -2.0), siglip(x, y, 0.2, -2.0))


def test_one_sample_still_pulls_its_own_pair() -> None:
    x, y = embeddings(1)
    s = torch.nn.functional.cosine_similarity(x, y).item()
    assert siglip(x, y, 0.1, -10.0).item() == pytest.approx(math.log1p(math.exp(10 - s / 0.1)))


def test_where_everything_is_a_positive_only_own_pairs_cost() -> None:
    x, y = embeddings(4)
    alone = sum(siglip(x[i : i + 1], y[i : i + 1], 0.1, -3.0) for i in range(4)) / 4
    everything = torch.ones(4, 4, dtype=torch.bool)
    torch.testing.assert_close(siglip(x, y, 0.1, -3.0, positives=everything), alone)


def test_large_logits_and_zero_vectors_have_a_finite_loss_and_gradient() -> None:
    x, y = embeddings(4)
    for part in loss_and_gradients(siglip(x, y, 1e-4, -10.0), x, y):
        assert part.isfinite().all()
    x = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    loss, *gradients = loss_and_gradients(siglip(x, y, 0.1, 0.0), x, y)
    assert loss.item() == pytest.approx(4 * math.log(2))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_other_dtypes_agree_and_compute_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    x, y = embeddings(dtype=dtype)
    loss = siglip(x, y, values().detach(), -2.0)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, (x, y))
    assert all(gradient.dtype == dtype for gradient in gradients)
    exact_x, exact_y = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    exact = loss_and_gradients(siglip(exact_x, exact_y, values(), -2.0), exact_x, exact_y)
    for ours, wanted in zip((loss.detach(), *gradients), exact, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=tolerance, atol=tolerance)


def test_autocast_is_off_inside() -> None:
    x, y = embeddings(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = siglip(x, y, 0.02, -5.0)
    assert torch.equal(siglip(x, y, 0.02, -5.0), inside)


X, Y = (t.detach() for t in embeddings(3, 2))


@pytest.mark.parametrize(
    ("y", "tau", "b", "positives", "message"),
    [
        (Y * float("nan"), 0.1, 0.0, None, r"y\[0\] has a NaN"),
        (Y, 0.0, 0.0, None, "temperature is 0.0; it must be finite and positive"),
        (Y, torch.tensor([0.1, -0.1, 0.1]), 0.0, None, r"temperature\[1\] is -0.1"),
        (Y, 0.1, float("nan"), None, "bias is nan; it must be one finite number"),
        (Y, 0.1, torch.zeros(3), None, "bias is .*; it must be one finite number"),
        (Y, 0.1, 0.0, torch.zeros(3, 3), "of bool"),
    ],
)
def test_what_cannot_be_right_is_an_error(y, tau, b, positives, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        siglip(X, y, tau, b, positives=positives)
