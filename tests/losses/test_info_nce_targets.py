"""Decoupled and multi-positive InfoNCE against their loop twin and the papers' formulas."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from loss_cases import embeddings, loss_and_gradients, some_positives, values
from torch import Tensor

from mmts.losses import decoupled_info_nce, info_nce, multi_positive_info_nce

Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {"decoupled": decoupled_info_nce, "multi_positive": multi_positive_info_nce}
OPTIONS: list[dict[str, Any]] = [
    {"anchor": anchor, "label_smoothing": smoothing, "positives": positives}
    for anchor, smoothing, positives in itertools.product(("row", "media"), (0.0, 0.1), (None, some_positives()))
]


@pytest.mark.parametrize(("ndim", "scale"), [(0, False), (1, False), (1, True), (2, False)])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_equals_its_loop_twin_in_loss_and_gradient(name: str, options: dict[str, Any], ndim: int, scale: bool) -> None:
    x, y = embeddings()
    tau = values(ndim=ndim)
    fast = LOSSES[name](x, y, tau, scale_by_temperature=scale, **options)
    slow = reference.info_nce_of_targets(x, y, tau, scale_by_temperature=scale, **options, **{name: True})
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
@pytest.mark.parametrize("loss", LOSSES.values())
def test_passes_gradcheck_over_embeddings_and_temperature(loss: Loss, options: dict[str, Any]) -> None:
    x, y = embeddings(4, 3, seed=1)
    options = options | {"positives": None if options["positives"] is None else some_positives(4)}
    assert torch.autograd.gradcheck(lambda *a: loss(*a, **options), (x, y, values(4)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multi_positive_without_positives_is_info_nce_to_the_bit(smoothing: float) -> None:
    x, y = embeddings(dtype=torch.float32)
    ours, plain = (loss(x, y, values(), label_smoothing=smoothing) for loss in (multi_positive_info_nce, info_nce))
    assert torch.equal(ours, plain)


def test_decoupled_is_the_papers_formula() -> None:
    x, y = embeddings(5)
    s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.1
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    total = 0.0
    for z in (s, s.T):
        total = total + (-z.diagonal() + (z.exp() * off_diagonal).sum(1).log()).mean()
    torch.testing.assert_close(decoupled_info_nce(x, y, 0.1), total / 2)


def test_multi_positive_is_supcons_mean_of_log_probabilities() -> None:
    x, y = embeddings(5)
    positives = some_positives(5)
    log_p = (torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.1).log_softmax(1)
    back = (torch.nn.functional.normalize(y) @ torch.nn.functional.normalize(x).T / 0.1).log_softmax(1)
    total = 0.0
    for p, targets in ((log_p, positives), (back, positives.T)):
        targets = targets | torch.eye(5, dtype=torch.bool)
        total = total - torch.stack([p[i][targets[i]].mean() for i in range(5)]).mean()
    torch.testing.assert_close(multi_positive_info_nce(x, y, 0.1, positives=positives), total / 2)


@pytest.mark.parametrize("own", [0.1, 0.9])
def test_the_pull_of_a_decoupled_pair_does_not_fade(own: float) -> None:
    # The other pairs are orthogonal, so a move of x_i within its own plane changes s_ii alone (4.11).
    tau = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    rest = (1 - own**2) ** 0.5
    x = torch.cat([torch.eye(3) * own, torch.eye(3) * rest], dim=1).double().requires_grad_()
    y = torch.cat([torch.eye(3), torch.zeros(3, 3)], dim=1).double()
    pulls = {}
    for loss in (info_nce, decoupled_info_nce):
        (gradient,) = torch.autograd.grad(loss(x, y, tau), x)
        # Such a move changes s_ii at the rate `rest`.
        along = gradient[:, :3].diagonal() * rest - gradient[:, 3:].diagonal() * own
        pulls[loss] = along / rest
    torch.testing.assert_close(pulls[decoupled_info_nce], -1 / (3 * tau))  # both directions
    assert (pulls[info_nce].abs() < pulls[decoupled_info_nce].abs()).all()


def test_multi_positive_pulls_extra_positives_and_plain_does_not() -> None:
    x, y = embeddings(4, 8)
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = True
    similarity = {}
    for loss in (info_nce, multi_positive_info_nce):
        copy = y.detach().clone().requires_grad_()
        optimizer = torch.optim.SGD([copy], lr=1.0)
        for _ in range(50):
            optimizer.zero_grad()
            loss(x.detach(), copy, 0.1, positives=positives).backward()
            optimizer.step()
        similarity[loss] = torch.nn.functional.cosine_similarity(x[0], copy[1], dim=0).item()
    assert similarity[multi_positive_info_nce] > similarity[info_nce]


@pytest.mark.parametrize("options", [o for o in OPTIONS if o["positives"] is None])
@pytest.mark.parametrize("loss", LOSSES.values())
def test_one_sample_gives_exactly_zero_and_no_gradient(loss: Loss, options: dict[str, Any]) -> None:
    x, y = embeddings(1)
    tau = values(1)
    for part in loss_and_gradients(loss(x, y, tau, **options), x, y, tau):
        assert (part == 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_decoupled_without_any_negative_is_exactly_zero(smoothing: float) -> None:
    x, y = embeddings(5)
    tau, everything = values(5), torch.ones(5, 5, dtype=torch.bool)
    with torch.autograd.detect_anomaly(check_nan=True):
        loss = decoupled_info_nce(x, y, tau, positives=everything, label_smoothing=smoothing)
        parts = loss_and_gradients(loss, x, y, tau)
    for part in parts:
        assert (part == 0).all()


@pytest.mark.parametrize(("loss", "positives"), [(decoupled_info_nce, None), (multi_positive_info_nce, True)])
def test_zero_vectors_have_a_finite_loss_and_gradient(loss: Loss, positives: bool | None) -> None:
    _, y = embeddings(4)
    x = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    result = loss(x, y, values(4), positives=some_positives(4) if positives else None)
    for part in loss_and_gradients(result, x, y):
        assert part.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_other_dtypes_agree_and_compute_in_float32(dtype: torch.dtype, tolerance: float, loss: Loss) -> None:
    x, y = embeddings(dtype=dtype)
    result = loss(x, y, values().detach(), positives=some_positives())
    assert result.dtype == torch.float32
    gradients = torch.autograd.grad(result, (x, y))
    assert all(gradient.dtype == dtype for gradient in gradients)
    exact_x, exact_y = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    exact = loss_and_gradients(loss(exact_x, exact_y, values(), positives=some_positives()), exact_x, exact_y)
    for ours, wanted in zip((result.detach(), *gradients), exact, strict=True):
        torch.testing.assert_close(ours.double(), wanted, rtol=tolerance, atol=tolerance)
