"""Reweighted InfoNCE: its loop, the decoupled gradient, and rows that are won or empty."""

import pytest
import reference
import torch
from loss_cases import embeddings, loss_and_gradients, some_positives, values

from mmts.errors import InputError
from mmts.losses import decoupled_info_nce, reweighted_info_nce
from mmts.losses.reweighted_info_nce import reweighted


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("anchor", ["row", "candidate", "media"])
@pytest.mark.parametrize("with_positives", [False, True])
def test_equals_its_loop_and_has_the_gradient_of_the_decoupled_loss(ndim: int, anchor, with_positives: bool) -> None:  # type: ignore[no-untyped-def]
    x, y = embeddings()
    tau = values(ndim=ndim)
    positives = some_positives() if with_positives else None
    ours = loss_and_gradients(reweighted_info_nce(x, y, tau, positives=positives, anchor=anchor), x, y, tau)
    twin = loss_and_gradients(reference.reweighted_info_nce(x, y, tau, positives, anchor), x, y, tau)
    decoupled = loss_and_gradients(decoupled_info_nce(x, y, tau, positives=positives, anchor=anchor), x, y, tau)
    for mine, theirs in zip(ours, twin, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(ours[1:], decoupled[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_row_that_is_won_has_value_one_and_a_finite_gradient(dtype: torch.dtype) -> None:
    x = torch.eye(4, dtype=dtype).requires_grad_()
    loss = reweighted_info_nce(x, torch.eye(4, dtype=dtype), 0.005)  # P is 1 to the last digit: 1/(1 - P) overflows
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.item() == pytest.approx(1.0)
    loss.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0


def test_values_far_from_zero_are_right() -> None:
    gaps = torch.tensor([-300.0, -60.0, -39.0, -1.0, 5.0, 300.0])
    exact = gaps.double()
    wanted = torch.where(exact < -30, 1.0, torch.log1p(exact.exp()) * (1 + (-exact).exp())).where(exact < 200, exact)
    torch.testing.assert_close(reweighted(gaps), wanted.float(), rtol=1e-6, atol=0)


def test_a_row_without_a_negative_costs_nothing() -> None:
    x, y = embeddings(B=1)
    assert [t.abs().sum().item() for t in loss_and_gradients(reweighted_info_nce(x, y, 0.1), x, y)] == [0.0, 0.0, 0.0]
    x, y = embeddings()
    everything = torch.ones(6, 6, dtype=torch.bool)
    results = loss_and_gradients(reweighted_info_nce(x, y, 0.1, positives=everything), x, y)
    assert [t.abs().sum().item() for t in results] == [0.0, 0.0, 0.0]


def test_what_cannot_be_right_is_an_error() -> None:
    x, y = embeddings()
    with pytest.raises(InputError, match="anchor is 'text'"):
        reweighted_info_nce(x, y, 0.1, anchor="text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"temperature\[1\] is -1"):
        reweighted_info_nce(x, y, torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match=r"positives is \(2, 2\)"):
        reweighted_info_nce(x, y, 0.1, positives=torch.ones(2, 2, dtype=torch.bool))
    with torch.no_grad():
        x[2] = float("nan")
    with pytest.raises(InputError, match=r"x\[2\] has a NaN"):
        reweighted_info_nce(x, y, 0.1)
