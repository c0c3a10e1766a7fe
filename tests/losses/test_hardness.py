"""Dual temperature, no temperature, weights on negatives, RINCE, CyCLIP's terms: loops, gradients, degenerate rows."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from loss_cases import embeddings, loss_and_gradients, some_positives, values
from torch import Tensor

from mmts.errors import InputError
from mmts.losses import (
    cyclic_consistency,
    decoupled_info_nce,
    dual_temperature,
    hard_negative_info_nce,
    info_nce,
    no_temperature,
    rince,
)

WITH_TEMPERATURE: list[tuple[Any, dict[str, Any]]] = [
    (dual_temperature, {"ratio": 10.0}),
    (dual_temperature, {"ratio": 1.5, "anchor": "media"}),
    (hard_negative_info_nce, {"beta": 0.5}),
    (hard_negative_info_nce, {"beta": 1.0, "alpha": 0.3, "anchor": "candidate"}),
    (hard_negative_info_nce, {"beta": 2.0, "tau_plus": 0.1, "anchor": "media"}),
    (hard_negative_info_nce, {"beta": 0.0, "alpha": 0.0, "tau_plus": 0.02}),
    (rince, {"q": 0.1, "lam": 0.01}),
    (rince, {"q": 1.0, "lam": 0.5, "anchor": "media", "scale_by_temperature": True}),
]


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("positives", [None, some_positives()])
@pytest.mark.parametrize(("loss", "options"), WITH_TEMPERATURE)
def test_equals_its_loop_in_loss_and_gradient(
    loss: Any, options: dict[str, Any], positives: Tensor | None, ndim: int
) -> None:
    if ndim == 2 and "scale_by_temperature" in options:
        options = {**options, "scale_by_temperature": False}
    leaves = *embeddings(), values(ndim=ndim)
    ours = loss_and_gradients(loss(*leaves, positives=positives, **options), *leaves)
    twin = loss_and_gradients(getattr(reference, loss.__name__)(*leaves, positives=positives, **options), *leaves)
    torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize(("loss", "options"), WITH_TEMPERATURE[2:-1])
def test_passes_gradcheck_over_embeddings_and_temperature(loss: Any, options: dict[str, Any], ndim: int) -> None:
    leaves = *embeddings(4, 3, seed=1), values(4, ndim)
    assert torch.autograd.gradcheck(lambda *a: loss(*a, **options), leaves)


@pytest.mark.parametrize("positives", [None, some_positives()])
@pytest.mark.parametrize(("eps", "label_smoothing"), [(1e-6, 0.0), (0.2, 0.1)])  # .2: some cosines are clamped
def test_no_temperature_equals_its_loop_and_passes_gradcheck(
    eps: float, label_smoothing: float, positives: Tensor | None
) -> None:
    x, y = embeddings()
    options = {"positives": positives, "label_smoothing": label_smoothing, "eps": eps}
    ours = loss_and_gradients(no_temperature(x, y, **options), x, y)  # type: ignore[arg-type]
    twin = loss_and_gradients(reference.no_temperature(x, y, **options), x, y)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x, y: no_temperature(x, y, **options), (x, y))  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(0.25, 0.25), (1.0, 0.0), (0.0, 2.0)])
def test_cyclic_consistency_equals_its_loop_and_passes_gradcheck(weights: tuple[float, float]) -> None:
    x, y = embeddings()
    in_modal, cross_modal = weights
    ours = loss_and_gradients(cyclic_consistency(x, y, in_modal=in_modal, cross_modal=cross_modal), x, y)
    torch.testing.assert_close(ours, loss_and_gradients(reference.cyclic_consistency(x, y, *weights), x, y))
    assert torch.autograd.gradcheck(lambda x, y: cyclic_consistency(x, y, in_modal=in_modal), (x, y))


def test_at_the_end_of_their_ranges_they_are_info_nce_or_the_decoupled_loss() -> None:
    x, y = embeddings()
    tau = values()
    ours: list[Tensor] = [
        dual_temperature(x, y, tau, ratio=1.0),
        hard_negative_info_nce(x, y, tau, beta=0.0),
        hard_negative_info_nce(x, y, tau, beta=0.0, alpha=0.0),
        rince(x, y, tau, q=1e-7, lam=1.0),
    ]
    losses: list[Callable[..., Tensor]] = [info_nce, info_nce, decoupled_info_nce, info_nce]
    for mine, other in zip(ours, losses, strict=True):
        wanted = loss_and_gradients(other(x, y, tau), x, y, tau)
        torch.testing.assert_close(loss_and_gradients(mine, x, y, tau), wanted, rtol=1e-4, atol=1e-7)


def test_a_published_hardness_loss_is_twice_ours_and_debiasing_reaches_its_lower_bound() -> None:
    x, y = (torch.nn.functional.normalize(t.detach()) for t in embeddings())
    z, B, beta = x @ y.T / 0.1, 6, 0.5
    weight = (B - 1) * (beta * z).exp() / ((beta * z).exp().sum(dim=1, keepdim=True) - (beta * z).exp().diag()[:, None])
    weight.fill_diagonal_(0.9)
    published = ((weight * z.exp()).sum(dim=1).log() - z.diag()).mean()
    other = ((beta * z).exp() / ((beta * z).exp().sum(dim=0) - (beta * z).exp().diag()) * (B - 1)).fill_diagonal_(0.9)
    published += ((other * z.exp()).sum(dim=0).log() - z.diag()).mean()
    torch.testing.assert_close(2 * hard_negative_info_nce(x, y, 0.1, beta=beta, alpha=0.9), published)
    same = torch.eye(4)  # N_i = 3, and .5 * 3 e^2 is more than that: N_i becomes 3 e^-2
    assert hard_negative_info_nce(same, same, 0.5, tau_plus=0.5).item() == pytest.approx(math.log1p(3 * math.exp(-4)))


def arguments(loss: Any, x: Tensor, y: Tensor, temperature: float = 0.1) -> tuple[Any, ...]:
    return (x, y) if loss is no_temperature else (x, y, temperature)


@pytest.mark.parametrize("positives", [None, torch.ones(6, 6, dtype=torch.bool)])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (dual_temperature, {}),
        (no_temperature, {"label_smoothing": 0.1}),
        (hard_negative_info_nce, {}),
        (hard_negative_info_nce, {"alpha": 0.5, "tau_plus": 0.1}),
    ],
)
def test_a_row_without_a_negative_costs_nothing(loss: Any, options: dict[str, Any], positives: Tensor | None) -> None:
    x, y = embeddings(1 if positives is None else 6)
    value, pull = loss.with_pull(*arguments(loss, x, y), positives=positives, **options)
    assert [part.abs().sum().item() for part in (*loss_and_gradients(value, x, y), pull)] == [0.0] * 4


def test_rince_pulls_a_positive_pair_without_a_negative_and_consistency_leaves_it_alone() -> None:
    x, y = embeddings(1)
    z = torch.nn.functional.cosine_similarity(x, y).item() / 0.5
    value, pull = rince.with_pull(x, y, 0.5, q=0.5, lam=0.04)
    assert value.item() == pytest.approx(-2 * math.exp(z / 2) * (1 - 0.2))
    assert pull.item() == pytest.approx(math.exp(z / 2) * (1 - 0.2) / 0.5)
    for part in loss_and_gradients(cyclic_consistency(x, y), x, y):
        assert part.abs().sum().item() == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("loss", [dual_temperature, no_temperature, hard_negative_info_nce, rince])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes_compute_in_float32_and_stay_finite_where_all_is_won_or_lost(
    loss: Any, dtype: torch.dtype
) -> None:
    for y in (torch.eye(4), -torch.eye(4), torch.eye(4).roll(1, 0), torch.ones(4, 4)):
        x = torch.eye(4, dtype=dtype).requires_grad_()
        value = loss(*arguments(loss, x, y.to(dtype), 0.01))
        assert value.dtype == torch.float32
        for part in loss_and_gradients(value, x):
            assert torch.isfinite(part).all()
    x, y = embeddings()
    rounded = loss(*arguments(loss, x.float(), y.float())).double()
    torch.testing.assert_close(rounded, loss(*arguments(loss, x, y)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("eps", [1e-7, 1e-6])
def test_a_cosine_of_one_has_the_bounded_logit_in_float32_and_no_gradient(eps: float) -> None:
    x = torch.eye(2, requires_grad=True)
    loss, pull = no_temperature.with_pull(x, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), eps=eps)
    assert loss.item() == pytest.approx(math.log((2 - eps) / eps), rel=2e-2)  # s_ii = 0, and the wrong pair is at 1
    assert pull.tolist() == pytest.approx([1.0, 1.0], rel=1e-5)
    same, pull = no_temperature.with_pull(x, torch.eye(2), eps=eps)
    assert pull.tolist() == [0.0, 0.0]
    assert torch.autograd.grad(same, x)[0].abs().max() < 1e-6


def test_the_debiased_loss_is_finite_in_float32_at_a_low_temperature() -> None:
    x = torch.eye(4, requires_grad=True)
    for y in (torch.eye(4), torch.eye(4).roll(1, 0), torch.ones(4, 4)):
        value, pull = hard_negative_info_nce.with_pull(x, y, 0.005, beta=1.0, tau_plus=0.25)
        for part in (*loss_and_gradients(value, x), pull):
            assert torch.isfinite(part).all()


X, Y = (t.detach() for t in embeddings(3, 2))


@pytest.mark.parametrize(
    ("loss", "value", "options", "message"),
    [
        (dual_temperature, (0.1,), {"ratio": 0.0}, "ratio is 0; it must be finite and positive"),
        (no_temperature, (), {"eps": 1e-8}, r"eps is 1e-08; it must lie in \[1e-07, 1\)"),
        (no_temperature, (), {"label_smoothing": 2.0}, "label_smoothing is 2;"),
        (hard_negative_info_nce, (0.1,), {"beta": -1.0}, "beta is -1; it must be finite and not negative"),
        (hard_negative_info_nce, (0.1,), {"tau_plus": 1.0}, r"tau_plus is 1; it must lie in \[0, 1\)"),
        (rince, (0.1,), {"q": 0.0}, r"q is 0; it must lie in \(0, 1\]"),
        (rince, (0.01,), {"q": 1.0}, "q is 1 and a temperature is 0.01; q / temperature must be at most 64"),
        (rince, (torch.tensor([0.1, -1.0, 0.1]),), {}, r"temperature\[1\] is -1.0"),
        (cyclic_consistency, (), {"in_modal": -1.0}, "in_modal is -1.0; it must be finite and not negative"),
    ],
)
def test_what_cannot_be_right_is_an_error(loss: Any, value: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loss(X, Y, *value, **options)
    with pytest.raises(InputError, match=r"y\[0\] has a NaN"):
        loss(X, Y * float("nan"), *value)
