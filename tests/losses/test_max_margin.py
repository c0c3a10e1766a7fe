"""Max-margin against its loop twin, finite differences, its symmetries, and the batches that break others."""

import itertools

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import NEGATIVES, embeddings, loss_and_gradients, some_positives, values

from mmts.losses import max_margin

OPTIONS = [
    {"negatives": negatives, "squared": squared, "positives": positives}
    for negatives, squared, positives in itertools.product(NEGATIVES, (False, True), (None, some_positives()))
]


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_its_loop_twin_in_loss_and_gradient(options: dict, ndim: int) -> None:
    x, y = embeddings()
    margin = values(ndim=ndim)
    fast = loss_and_gradients(max_margin(x, y, margin, **options), x, y, margin)
    slow = loss_and_gradients(reference.max_margin(x, y, margin, **options), x, y, margin)
    assert fast[0] > 0
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_passes_gradcheck_over_embeddings_and_margin(options: dict, ndim: int) -> None:
    x, y = embeddings(4, 3, seed=1)
    options = options | {"positives": None if options["positives"] is None else some_positives(4)}
    assert torch.autograd.gradcheck(lambda *a: max_margin(*a, **options), (x, y, values(4, ndim)))


def test_is_the_formula_of_the_paper_as_a_single_mean() -> None:
    x, y = embeddings(4)
    m, s = values(4), reference.cosines(x, y)
    terms = [
        0.5 * (torch.relu(m[i] - s[i][i] + s[i][j]) + torch.relu(m[i] - s[i][i] + s[j][i]))
        for i, j in itertools.permutations(range(4), 2)
    ]
    torch.testing.assert_close(max_margin(x, y, m), sum(terms) / 12)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 9), order=st.randoms())
def test_the_order_of_the_batch_does_not_matter(seed: int, B: int, order) -> None:  # type: ignore[no-untyped-def]
    x, y = embeddings(B, seed=seed)
    margin, positives = values(B, seed=seed), some_positives(B, seed=seed)
    places = torch.tensor(order.sample(range(B), B))
    for negatives in NEGATIVES:
        before = max_margin(x, y, margin, positives=positives, negatives=negatives)
        after = max_margin(
            x[places], y[places], margin[places], positives=positives[places][:, places], negatives=negatives
        )
        torch.testing.assert_close(before, after)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 9))
def test_swapping_the_modalities_changes_nothing(seed: int, B: int) -> None:
    x, y = embeddings(B, seed=seed)
    positives = some_positives(B, seed=seed)
    for negatives in NEGATIVES:
        for margin in (values(B, seed=seed), values(B, ndim=2, seed=seed)):
            there = max_margin(x, y, margin, positives=positives, negatives=negatives)
            back = max_margin(
                y, x, margin.T if margin.ndim == 2 else margin, positives=positives.T, negatives=negatives
            )
            torch.testing.assert_close(there, back)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), margin=st.floats(0.0, 1.0), squared=st.booleans())
def test_a_scalar_equals_a_constant_vector_and_matrix_and_stays_in_bounds(
    seed: int, margin: float, squared: bool
) -> None:
    x, y = embeddings(seed=seed)
    for negatives in NEGATIVES:
        scalar = max_margin(x, y, margin, negatives=negatives, squared=squared)
        assert 0 <= scalar <= (margin + 2) ** (2 if squared else 1)
        for shape in ((6,), (6, 6)):
            same = torch.full(shape, margin, dtype=torch.float64)
            torch.testing.assert_close(max_margin(x, y, same, negatives=negatives, squared=squared), scalar)


def test_the_hardest_negative_costs_at_least_the_mean() -> None:
    x, y = embeddings()
    assert max_margin(x, y, 0.2, negatives="hardest") >= max_margin(x, y, 0.2)


def test_rows_without_a_negative_leave_the_mean_over_rows() -> None:
    x, y = embeddings(3)
    positives = torch.zeros(3, 3, dtype=torch.bool)
    positives[0] = positives[:, 0] = True  # sample 0 is right for everybody; the other two remain
    alone = max_margin(x[1:], y[1:], 0.5, negatives="hardest")
    torch.testing.assert_close(max_margin(x, y, 0.5, positives=positives, negatives="hardest"), alone)
    torch.testing.assert_close(max_margin(x, y, 0.5, positives=positives), max_margin(x[1:], y[1:], 0.5))


@pytest.mark.parametrize("options", OPTIONS)
def test_without_any_negative_loss_and_gradient_are_exactly_zero(options: dict) -> None:
    for B in (1, 5):
        x, y = embeddings(B)
        margin = values(B)
        options = options | {"positives": torch.ones(B, B, dtype=torch.bool) if B > 1 else None}
        for part in loss_and_gradients(max_margin(x, y, margin, **options), x, y, margin):
            assert (part == 0).all()


def test_zero_vectors_have_a_finite_loss_and_gradient() -> None:
    x, y = embeddings(4)
    x = torch.zeros_like(x).requires_grad_()
    loss, *gradients = loss_and_gradients(max_margin(x, y, 0.2), x, y)
    assert loss.item() == pytest.approx(0.2)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_other_dtypes_agree_and_compute_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    x, y = embeddings(dtype=dtype)
    loss = max_margin(x, y, 0.3)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, (x, y))
    exact_x, exact_y = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    exact = loss_and_gradients(max_margin(exact_x, exact_y, 0.3), exact_x, exact_y)
    for ours, wanted in zip((loss.detach(), *gradients), exact, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=tolerance, atol=tolerance)


def test_autocast_is_off_inside() -> None:
    x, y = embeddings(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = max_margin(x, y, 0.2)
    assert torch.equal(max_margin(x, y, 0.2), inside)


def test_a_margin_of_zero_is_allowed() -> None:
    x, y = embeddings()
    assert max_margin(x, y, 0.0) >= 0


X, Y = (t.detach() for t in embeddings(3, 2))


@pytest.mark.parametrize(
    ("y", "margin", "options", "message"),
    [
        (Y * float("nan"), 0.1, {}, r"y\[0\] has a NaN"),
        (Y, -0.1, {}, "margin is -0.1.*not negative"),
        (Y, torch.tensor([0.1, 0.1, float("nan")]), {}, r"margin\[2\] is nan"),
        (Y, torch.ones(4), {}, r"margin is \(4,\)"),
        (Y, 0.1, {"positives": torch.ones(3, dtype=torch.bool)}, r"positives is \(3,\)"),
        (Y, 0.1, {"negatives": "some"}, "negatives is 'some'; it must be one of all, hardest"),
    ],
)
def test_what_cannot_be_right_is_an_error(y, margin, options: dict, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        max_margin(X, y, margin, **options)
