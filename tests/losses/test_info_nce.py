"""InfoNCE against its loop twin, finite differences, its symmetries, and the batches that break others."""

import itertools

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import ANCHORS, embeddings, loss_and_gradients, some_positives, values

from mmts.losses import info_nce

OPTIONS = [
    {"anchor": anchor, "label_smoothing": smoothing, "positives": positives, "scale_by_temperature": scale}
    for anchor, smoothing, positives, scale in itertools.product(
        ANCHORS, (0.0, 0.1), (None, some_positives()), (False, True)
    )
]


@pytest.mark.parametrize(
    ("options", "ndim"),
    [(o, ndim) for o in OPTIONS for ndim in (0, 1, 2) if ndim < 2 or not o["scale_by_temperature"]],
)
def test_equals_its_loop_twin_in_loss_and_gradient(options: dict, ndim: int) -> None:
    x, y = embeddings()
    tau = values(ndim=ndim)
    fast = loss_and_gradients(info_nce(x, y, tau, **options), x, y, tau)
    slow = loss_and_gradients(reference.info_nce(x, y, tau, **options), x, y, tau)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("options", OPTIONS[1::5])
def test_passes_gradcheck_over_embeddings_and_temperature(options: dict, ndim: int) -> None:
    options = options | {"scale_by_temperature": options["scale_by_temperature"] and ndim < 2}
    x, y = embeddings(4, 3, seed=1)
    options["positives"] = None if options["positives"] is None else some_positives(4)
    assert torch.autograd.gradcheck(lambda *a: info_nce(*a, **options), (x, y, values(4, ndim)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_without_positives_equals_torchs_cross_entropy(smoothing: float) -> None:
    x, y = embeddings()
    tau = values()[:, None]
    s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T
    target = torch.arange(len(x))
    cross_entropy = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    wanted = (cross_entropy(s / tau, target) + cross_entropy(s.T / tau, target)) / 2
    torch.testing.assert_close(info_nce(x, y, tau[:, 0], label_smoothing=smoothing), wanted)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 9), order=st.randoms())
def test_the_order_of_the_batch_does_not_matter(seed: int, B: int, order) -> None:  # type: ignore[no-untyped-def]
    x, y = embeddings(B, seed=seed)
    tau, positives = values(B, seed=seed), some_positives(B, seed=seed)
    places = torch.tensor(order.sample(range(B), B))
    for anchor in ANCHORS:
        before = info_nce(x, y, tau, positives=positives, anchor=anchor, label_smoothing=0.1)
        after = info_nce(
            x[places],
            y[places],
            tau[places],
            positives=positives[places][:, places],
            anchor=anchor,
            label_smoothing=0.1,
        )
        torch.testing.assert_close(before, after)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 9))
def test_swapping_the_modalities_changes_nothing_for_rows_and_candidates(seed: int, B: int) -> None:
    x, y = embeddings(B, seed=seed)
    tau, positives = values(B, seed=seed), some_positives(B, seed=seed)
    for anchor in ("row", "candidate"):
        there = info_nce(x, y, tau, positives=positives, anchor=anchor)
        back = info_nce(y, x, tau, positives=positives.T, anchor=anchor)
        torch.testing.assert_close(there, back)
    pairs = values(B, ndim=2, seed=seed)
    torch.testing.assert_close(info_nce(x, y, pairs), info_nce(y, x, pairs.T))


def test_the_media_anchor_uses_one_matrix_and_its_transpose() -> None:
    x, y = embeddings()
    tau = values()
    as_pairs = tau[:, None].expand(6, 6)
    torch.testing.assert_close(info_nce(x, y, tau, anchor="media"), info_nce(x, y, as_pairs))
    assert not torch.isclose(info_nce(x, y, tau, anchor="media"), info_nce(y, x, tau, anchor="media"))
    assert not torch.isclose(info_nce(x, y, tau, anchor="media"), info_nce(x, y, tau, anchor="row"))


@pytest.mark.parametrize("anchor", ANCHORS)
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), tau=st.floats(0.01, 2.0))
def test_a_scalar_equals_a_constant_vector_and_matrix(anchor, seed: int, tau: float) -> None:  # type: ignore[no-untyped-def]
    x, y = embeddings(seed=seed)
    scalar = info_nce(x, y, tau, anchor=anchor)
    for shape in ((6,), (6, 6)):
        same = torch.full(shape, tau, dtype=torch.float64)
        torch.testing.assert_close(info_nce(x, y, same, anchor=anchor), scalar)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 12))
def test_is_never_negative_and_bounded_by_the_spread_of_the_logits(seed: int, B: int) -> None:
    x, y = embeddings(B, seed=seed)
    tau = values(B, seed=seed)
    loss = info_nce(x, y, tau).item()
    assert -1e-12 <= loss <= torch.tensor(float(B)).log().item() + 2 / tau.min().item()


def test_the_norms_of_the_embeddings_do_not_matter() -> None:
    x, y = embeddings()
    scale = torch.linspace(0.01, 100, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(info_nce(x * scale, y, 0.07), info_nce(x, y, 0.07))


def test_scaling_by_temperature_undoes_the_weight_of_a_small_temperature() -> None:
    # All similarities are 0, so both softmaxes are uniform, and without scaling the gradient in s_ij goes as 1/tau_i.
    tau = torch.tensor([0.05, 0.5], dtype=torch.float64)
    y = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    gradients = []
    for scale in (False, True):
        x = torch.ones(2, 2, dtype=torch.float64).requires_grad_()
        info_nce(x, y, tau, scale_by_temperature=scale).backward()
        assert x.grad is not None
        gradients.append(x.grad.norm(dim=1))
    plain, scaled = gradients
    assert plain[0] / plain[1] > 1.5
    assert scaled[0] / scaled[1] == pytest.approx(1.0)


def degenerate(B: int, zero: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = embeddings(B)
    return (torch.zeros_like(x).requires_grad_(), y) if zero else (x, y)


@pytest.mark.parametrize("options", [o for o in OPTIONS if o["positives"] is None])
def test_one_sample_gives_exactly_zero_and_no_gradient(options: dict) -> None:
    x, y = embeddings(1)
    tau = values(1)
    for part in loss_and_gradients(info_nce(x, y, tau, **options), x, y, tau):
        assert (part == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_one_caption_gives_exactly_zero_and_no_gradient(smoothing: float) -> None:
    x, y = embeddings(5)
    tau, everything = values(5), torch.ones(5, 5, dtype=torch.bool)
    loss = info_nce(x, y, tau, positives=everything, label_smoothing=smoothing)
    for part in loss_and_gradients(loss, x, y, tau):
        assert (part == 0).all()


def test_the_diagonal_of_positives_is_ignored() -> None:
    x, y = embeddings()
    torch.testing.assert_close(info_nce(x, y, 0.1, positives=torch.eye(6, dtype=torch.bool)), info_nce(x, y, 0.1))


def test_a_pair_that_is_a_positive_gets_no_gradient() -> None:
    x, y = embeddings(2, 3)
    positives = torch.tensor([[False, True], [True, False]])
    for part in loss_and_gradients(info_nce(x, y, 0.1, positives=positives), x, y):
        assert (part == 0).all()


def test_zero_vectors_have_a_finite_loss_and_gradient() -> None:
    x, y = degenerate(4, zero=True)
    loss, *gradients = loss_and_gradients(info_nce(x, y, values(4)), x, y)
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_other_dtypes_agree_and_compute_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    x, y = embeddings(dtype=dtype)
    loss = info_nce(x, y, values().detach())
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, (x, y))
    assert all(gradient.dtype == dtype for gradient in gradients)
    exact_x, exact_y = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    exact = loss_and_gradients(info_nce(exact_x, exact_y, values()), exact_x, exact_y)
    for ours, wanted in zip((loss.detach(), *gradients), exact, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=tolerance, atol=tolerance)


def test_autocast_is_off_inside() -> None:
    x, y = embeddings(dtype=torch.float32)
    outside = info_nce(x, y, 0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(x, y, 0.02)
    assert torch.equal(outside, inside)


X, Y = (t.detach() for t in embeddings(3, 2))
NAN_ROW = X.clone()
NAN_ROW[1, 0] = float("nan")
INF_ROW = Y.clone()
INF_ROW[2, 1] = float("inf")


@pytest.mark.parametrize(
    ("x", "y", "tau", "options", "message"),
    [
        (NAN_ROW, Y, 0.1, {}, r"x\[1\] has a NaN"),
        (X, INF_ROW, 0.1, {}, r"y\[2\] has a NaN or an infinity"),
        (X, Y[:2], 0.1, {}, r"x is \(3, 2\) and y is \(2, 2\)"),
        (X[0], Y, 0.1, {}, "x is"),
        (X[:0], Y[:0], 0.1, {}, "not empty"),
        (X, Y.long(), 0.1, {}, "y is .* floating"),
        (X, Y, 0.0, {}, "temperature is 0.0; it must be finite and positive"),
        (X, Y, torch.tensor([0.1, -0.2, 0.1]), {}, r"temperature\[1\] is -0.2"),
        (X, Y, torch.tensor([0.1, 0.1, float("inf")]), {}, r"temperature\[2\] is inf"),
        (X, Y, torch.ones(3, 3).fill_diagonal_(0), {}, r"temperature\[0, 0\] is 0"),
        (X, Y, torch.ones(2), {}, r"temperature is \(2,\); for a batch of 3"),
        (X, Y, torch.ones(3, 1), {}, r"temperature is \(3, 1\)"),
        (X, Y, torch.ones(3, 3), {"scale_by_temperature": True}, "scale_by_temperature"),
        (X, Y, 0.1, {"positives": torch.zeros(2, 2, dtype=torch.bool)}, r"positives is \(2, 2\)"),
        (X, Y, 0.1, {"positives": torch.zeros(3, 3)}, "of bool"),
        (X, Y, 0.1, {"anchor": "text"}, "anchor is 'text'; it must be one of row, candidate, media"),
        (X, Y, 0.1, {"label_smoothing": 1.1}, "label_smoothing"),
        (X, Y, 0.1, {"label_smoothing": float("nan")}, "label_smoothing"),
    ],
)
def test_what_cannot_be_right_is_an_error(x, y, tau, options: dict, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        info_nce(x, y, tau, **options)
