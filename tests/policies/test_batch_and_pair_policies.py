"""Rules that look at the batch: MACL, DySTreSS, TeMo. Equal to their loops, positive, finite beyond +-1."""

import math

import pytest
import reference
import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses import info_nce, max_margin
from mmts.objectives import InfoNCE, MaxMargin
from mmts.policies import MACL, DySTreSS, Policy, TeMoTemperature

INDEX = torch.tensor([4, 0, 2])


def similarities(B: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return (2 * torch.rand(B, B, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1).to(dtype)


@pytest.mark.parametrize("settings", [(0.1, 0.5, 0.0), (0.07, -0.3, 0.2), (0.05, 0.9, 0.05)])
def test_macl_equals_its_loop(settings: tuple[float, float, float]) -> None:
    s = similarities()
    value = MACL(*settings)(0.3, INDEX, s)
    assert value.shape == ()
    assert value.item() == pytest.approx(reference.macl(s, *settings), abs=1e-15)


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (0.3, 0.05)])
def test_dystress_equals_its_loop(low: float, high: float) -> None:
    s = similarities()
    wanted = torch.tensor([[reference.dystress(e.item(), low, high) for e in row] for row in s], dtype=torch.float64)
    torch.testing.assert_close(DySTreSS(low, high)(0.3, INDEX, s), wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("tau_min", "tau_alpha"), [(0.01, 0.04), (0.05, 0.0), (0.1, -0.06)])
def test_temo_equals_its_loop(tau_min: float, tau_alpha: float) -> None:
    s = similarities()
    rule = TeMoTemperature(tau_min, tau_alpha)
    wanted = [[reference.temo_temperature(e.item(), tau_min, tau_alpha) for e in row] for row in s]
    torch.testing.assert_close(rule(0.3, INDEX, s), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    "rule", [MACL(), DySTreSS(), TeMoTemperature(), DySTreSS(0.2, 0.1), TeMoTemperature(0.05, -0.04)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_stay_between_their_ends_even_where_rounding_leaves_the_unit_interval(
    rule: Policy, dtype: torch.dtype
) -> None:
    for end in (-1.0, 1.0):
        beyond = end * (1 + 4 * torch.finfo(dtype).eps)
        at_end, past_end = (rule(0.0, INDEX, torch.full((3, 3), s, dtype=dtype)) for s in (end, beyond))
        assert at_end.dtype == dtype
        assert torch.equal(at_end, past_end)
        assert torch.isfinite(past_end).all()
        assert (past_end > 0).all()


def test_the_ends_are_those_that_were_asked_for() -> None:
    s = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
    index = torch.tensor([0, 1])
    torch.testing.assert_close(DySTreSS(0.1, 0.2)(0.0, index, s), torch.tensor([[0.2, 0.1], [0.2, 0.15]]).double())
    ends = TeMoTemperature(0.01, 0.04)(0.0, index, s)
    assert ends[0, 0].item() == pytest.approx(0.05)
    assert ends[1, 0].item() == 0.01
    assert MACL(0.1, 0.5)(0.0, index, torch.eye(2)).item() == pytest.approx(0.15)


def test_temo_has_a_finite_gradient_where_the_slope_of_the_root_is_not() -> None:
    s = torch.tensor([-1.0 - 1e-7, -1.0, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    TeMoTemperature(0.01, 0.04).values(s).sum().backward()
    assert s.grad is not None
    assert s.grad.tolist() == pytest.approx([0.0, 0.0, 0.04 / (4 * math.sqrt(0.25)), 0.01])


@pytest.mark.parametrize("rule", [MACL(), DySTreSS(), TeMoTemperature()])
def test_no_gradient_runs_through_a_rule_and_it_keeps_no_state(rule: Policy) -> None:
    s = similarities().requires_grad_()
    assert not rule(0.0, INDEX, s).requires_grad
    assert not rule.state_dict()
    assert rule.uses_similarity


@pytest.mark.parametrize("rule", [MACL(), DySTreSS(), TeMoTemperature()])
@pytest.mark.parametrize("B", [1, 6])
def test_the_plain_objectives_take_them(rule: Policy, B: int) -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(B, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    s = torch.stack([torch.stack(row) for row in reference.cosines(x, y)])
    value = rule(0.5, torch.arange(B), s)
    for objective, loss in ((InfoNCE(rule), info_nce), (MaxMargin(rule), max_margin)):
        output = objective(x, y, progress=0.5, index=torch.arange(B))
        torch.testing.assert_close(output.loss, loss(x, y, value))
    for dtype in (torch.float32, torch.bfloat16):
        loss16 = InfoNCE(rule)(x.to(dtype), y.to(dtype), progress=0.5, index=torch.arange(B)).loss
        assert loss16.dtype == torch.float32
        assert torch.isfinite(loss16)


@pytest.mark.parametrize("rule", [MACL(), DySTreSS(), TeMoTemperature()])
def test_a_call_that_cannot_be_right_is_an_error(rule: Policy) -> None:
    with pytest.raises(InputError, match=r"looks at the batch: give it the similarities, \(3, 3\)"):
        rule(0.0, INDEX)
    with pytest.raises(InputError, match=r"similarity is \(2, 2\) torch.float64; for a batch of 3"):
        rule(0.0, INDEX, similarities(2))
    with pytest.raises(InputError, match=r"similarity is \(7, 3, 3\) torch.float64; for a batch of 3"):
        rule(0.0, INDEX, similarities().expand(7, 3, 3))
    of_other_rules = (2, 1, 3) if rule.similarity_of == "positive pairs" else (3,)
    with pytest.raises(InputError, match=r"similarity is .*; for a batch of 3"):
        rule(0.0, INDEX, torch.zeros(of_other_rules))
    with pytest.raises(InputError, match=r"torch\.int64"):
        rule(0.0, INDEX, torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(InputError, match="progress"):
        rule(1.5, INDEX, similarities())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MACL(tau0=0.0), "MACL: tau0 is 0"),
        (lambda: MACL(alpha=1.0), "with alpha 1 and A0 0 the value at A = -1 is 0"),
        (lambda: MACL(alpha=-1.5), "value at A = 1 is -0.05"),
        (lambda: MACL(alpha=0.6, A0=0.9), "value at A = -1"),
        (lambda: MACL(A0=math.nan), "is nan"),
        (lambda: DySTreSS(low=0.0), "DySTreSS: low is 0"),
        (lambda: DySTreSS(high=math.inf), "DySTreSS: high is inf"),
        (lambda: TeMoTemperature(tau_min=0.0), "TeMoTemperature: tau_min is 0"),
        (lambda: TeMoTemperature(0.01, -0.01), "= 0 is the value at s = 1"),
        (lambda: TeMoTemperature(0.01, math.nan), "nan"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_when_built(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        build()
