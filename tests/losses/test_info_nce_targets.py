"""Decoupled and multi-positive InfoNCE against their loop twin and the papers' formulas."""

import itertools

import pytest
import reference
import torch
from loss_cases import embeddings, loss_and_gradients, some_positives, values

from mmts.losses import info_nce

BOTH = [(True, False), (False, True), (True, True)]
OPTIONS = [
    {
        "anchor": anchor,
        "label_smoothing": smoothing,
        "positives": positives,
        "decoupled": decoupled,
        "multi_positive": multi_positive,
    }
    for (decoupled, multi_positive), anchor, smoothing, positives in itertools.product(
        BOTH, ("row", "media"), (0.0, 0.1), (None, some_positives())
    )
]


@pytest.mark.parametrize(("ndim", "scale"), [(0, False), (1, False), (1, True), (2, False)])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_its_loop_twin_in_loss_and_gradient(options: dict, ndim: int, scale: bool) -> None:
    x, y = embeddings()
    tau = values(ndim=ndim)
    fast = info_nce(x, y, tau, scale_by_temperature=scale, **options)
    slow = reference.info_nce_of_targets(x, y, tau, scale_by_temperature=scale, **options)
    torch.testing.assert_close(
        loss_and_gradients(fast, x, y, tau), loss_and_gradients(slow, x, y, tau), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_twin_with_both_options_off_is_the_plain_twin(smoothing: float) -> None:
    x, y = embeddings()
    options = {"positives": some_positives(), "label_smoothing": smoothing}
    torch.testing.assert_close(
        reference.info_nce_of_targets(x, y, values(), **options), reference.info_nce(x, y, values(), **options)
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_passes_gradcheck_over_embeddings_and_temperature(options: dict) -> None:
    x, y = embeddings(4, 3, seed=1)
    options = options | {"positives": None if options["positives"] is None else some_positives(4)}
    assert torch.autograd.gradcheck(lambda *a: info_nce(*a, **options), (x, y, values(4)))


def test_off_changes_no_bit() -> None:
    x, y = embeddings(dtype=torch.float32)
    for positives in (None, some_positives()):
        plain = info_nce(x, y, values(), positives=positives, label_smoothing=0.1)
        assert torch.equal(
            plain,
            info_nce(x, y, values(), positives=positives, label_smoothing=0.1, decoupled=False, multi_positive=False),
        )
    assert torch.equal(info_nce(x, y, 0.1, multi_positive=True), info_nce(x, y, 0.1))


def test_decoupled_is_the_papers_formula() -> None:
    x, y = embeddings(5)
    s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.1
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    total = 0.0
    for z in (s, s.T):
        total = total + (-z.diagonal() + (z.exp() * off_diagonal).sum(1).log()).mean()
    torch.testing.assert_close(info_nce(x, y, 0.1, decoupled=True), total / 2)


def test_multi_positive_is_supcons_mean_of_log_probabilities() -> None:
    x, y = embeddings(5)
    positives = some_positives(5)
    log_p = (torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.1).log_softmax(1)
    back = (torch.nn.functional.normalize(y) @ torch.nn.functional.normalize(x).T / 0.1).log_softmax(1)
    total = 0.0
    for p, right in ((log_p, positives), (back, positives.T)):
        right = right | torch.eye(5, dtype=torch.bool)
        total = total - torch.stack([p[i][right[i]].mean() for i in range(5)]).mean()
    torch.testing.assert_close(info_nce(x, y, 0.1, positives=positives, multi_positive=True), total / 2)


@pytest.mark.parametrize("own", [0.1, 0.9])
def test_the_pull_of_a_decoupled_pair_does_not_fade(own: float) -> None:
    # Other pairs are orthogonal, so all that a coordinate own to sample i moves is s_ii. Learned or not, 4.11.
    tau = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    rest = (1 - own**2) ** 0.5
    x = torch.cat([torch.eye(3) * own, torch.eye(3) * rest], dim=1).double().requires_grad_()
    y = torch.cat([torch.eye(3), torch.zeros(3, 3)], dim=1).double()
    pulls = {}
    for decoupled in (False, True):
        (gradient,) = torch.autograd.grad(info_nce(x, y, tau, decoupled=decoupled), x)
        # Moving x_i within its plane changes s_ii at the rate `rest`, and no other s_ij.
        along = gradient[:, :3].diagonal() * rest - gradient[:, 3:].diagonal() * own
        pulls[decoupled] = along / rest
    torch.testing.assert_close(pulls[True], -1 / (3 * tau))  # both directions
    assert (pulls[False].abs() < pulls[True].abs()).all()


def test_multi_positive_pulls_other_positives_and_plain_does_not() -> None:
    x, y = embeddings(4, 8)
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = True
    found = {}
    for multi in (False, True):
        copy = y.detach().clone().requires_grad_()
        optimizer = torch.optim.SGD([copy], lr=1.0)
        for _ in range(50):
            optimizer.zero_grad()
            info_nce(x.detach(), copy, 0.1, positives=positives, multi_positive=multi).backward()
            optimizer.step()
        found[multi] = torch.nn.functional.cosine_similarity(x[0], copy[1], dim=0).item()
    assert found[True] > found[False]


@pytest.mark.parametrize("options", [o for o in OPTIONS if o["positives"] is None])
def test_one_sample_gives_exactly_zero_and_no_gradient(options: dict) -> None:
    x, y = embeddings(1)
    tau = values(1)
    for part in loss_and_gradients(info_nce(x, y, tau, **options), x, y, tau):
        assert (part == 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("multi_positive", [False, True])
def test_decoupled_without_any_negative_is_exactly_zero(smoothing: float, multi_positive: bool) -> None:
    x, y = embeddings(5)
    tau, everything = values(5), torch.ones(5, 5, dtype=torch.bool)
    options = {"label_smoothing": smoothing, "decoupled": True, "multi_positive": multi_positive}
    with torch.autograd.detect_anomaly(check_nan=True):
        parts = loss_and_gradients(info_nce(x, y, tau, positives=everything, **options), x, y, tau)
    for part in parts:
        assert (part == 0).all()


def test_zero_vectors_have_a_finite_loss_and_gradient() -> None:
    _, y = embeddings(4)
    for options in ({"decoupled": True}, {"multi_positive": True, "positives": some_positives(4)}):
        x = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
        for part in loss_and_gradients(info_nce(x, y, values(4), **options), x, y):  # type: ignore[arg-type]
            assert part.isfinite().all()


@pytest.mark.parametrize(("decoupled", "multi_positive"), BOTH)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_other_dtypes_agree_and_compute_in_float32(
    dtype: torch.dtype, tolerance: float, decoupled: bool, multi_positive: bool
) -> None:
    options = {"decoupled": decoupled, "multi_positive": multi_positive, "positives": some_positives()}
    x, y = embeddings(dtype=dtype)
    loss = info_nce(x, y, values().detach(), **options)  # type: ignore[arg-type]
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, (x, y))
    assert all(gradient.dtype == dtype for gradient in gradients)
    exact_x, exact_y = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    exact = loss_and_gradients(info_nce(exact_x, exact_y, values(), **options), exact_x, exact_y)  # type: ignore[arg-type]
    for ours, wanted in zip((loss.detach(), *gradients), exact, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=tolerance, atol=tolerance)
