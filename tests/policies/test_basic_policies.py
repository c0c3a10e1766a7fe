"""Policies: values by sample, positive from the start, on the right rows, dtype and device."""

import copy
import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmts.concepts import ConceptDistribution
from mmts.errors import InputError
from mmts.policies import Fixed, Learned, Policy, Scheduled, Shifted
from mmts.schedules import Constant, Cosine, Linear

INDEX = torch.tensor([2, 0, 2])


def test_fixed_and_scheduled_give_one_value_for_all() -> None:
    assert Fixed(0.07)(0.3, INDEX).shape == ()
    assert Fixed(0.07)(0.3, INDEX).item() == 0.07
    schedule = Cosine(0.01, 0.1, cycles=3)
    assert Scheduled(schedule)(0.4, INDEX).item() == schedule(0.4)


def test_shifted_adds_the_swing_to_each_samples_own_shift() -> None:
    counts = [1.0, 10.0, 100.0, 37.0]
    shift = torch.tensor(reference.shift(counts, 0.05, 0.20), dtype=torch.float64)
    policy = Shifted(Cosine(-0.04, 0.04, cycles=5), shift)
    for step in range(41):
        p = step / 40
        wanted = reference.mmts_values(p, [counts[i] for i in INDEX], 1, 100, 0.08, 5, 0.05, 0.20)
        torch.testing.assert_close(policy(p, INDEX), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-15)


@given(
    alpha=st.floats(0.0, 0.5),
    low=st.floats(0.26, 1.0),
    spread=st.floats(0.0, 1.0),
    cycles=st.floats(0.0, 9.0),
    p=st.floats(0.0, 1.0),
)
def test_values_stay_positive_and_between_their_bounds(
    alpha: float, low: float, spread: float, cycles: float, p: float
) -> None:
    shift = torch.linspace(low, low + spread, 7, dtype=torch.float64)
    policy = Shifted(Cosine(-alpha / 2, alpha / 2, cycles), shift)
    values = policy(p, torch.arange(7))
    assert (values > 0).all()
    assert (values >= low - alpha / 2 - 1e-12).all()
    assert (values <= low + spread + alpha / 2 + 1e-12).all()


def test_shifted_adds_in_float64_and_does_not_share_its_table() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        shift = torch.full((3,), 0.05, dtype=dtype)
        values = Shifted(Constant(-0.04), shift)(0.0, INDEX)
        assert torch.equal(values, shift.double() - 0.04)
    assert Shifted(Constant(0.0), shift)(0.0, INDEX.to(torch.uint8)).shape == INDEX.shape  # not taken for a mask
    table = torch.ones(3)
    policy = Shifted(Constant(0.0), table)
    table.zero_()
    assert policy(0.0, INDEX).tolist() == [1.0, 1.0, 1.0]
    assert "shift" in policy.state_dict()


def test_a_shifted_policy_follows_a_move_to_another_device() -> None:
    policy = Shifted(Constant(0.1), torch.ones(3)).to("meta")
    assert policy.shift.device.type == "meta"


@pytest.mark.parametrize(
    ("schedule", "low"),
    [(Cosine(-0.1, 0.1, cycles=5), 0.1), (Cosine(-0.1, 0.1, cycles=5), 0.05), (Linear(0.0, -1.0), 0.9)],
)
def test_a_temperature_that_would_reach_zero_is_refused_when_built(schedule, low: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=rf"schedule.minimum {schedule.minimum:g} \+ smallest shift {low:g}"):
        Shifted(schedule, torch.tensor([2.0, low]))


def test_the_published_settings_are_accepted() -> None:
    Shifted(Cosine(-0.04, 0.04, cycles=5), torch.tensor([0.05, 0.20]))
    Shifted(Cosine(-0.1, 0.1, cycles=5), torch.tensor([0.17, 0.30]))
    Shifted(Cosine(-0.0325, 0.0325, cycles=5), torch.tensor([0.0425, 0.0675]))


def test_the_reverse_map_is_accepted_and_gives_rare_concepts_the_larger_value() -> None:
    counts = [1.0, 500.0, 20.0]
    for scale in ("linear", "log", "rank"):
        shift = ConceptDistribution.from_counts([1, 500, 20]).shift(0.20, 0.05, scale)
        policy = Shifted(Cosine(-0.04, 0.04, cycles=5), shift.double())
        wanted = [v + 0.04 for v in reference.shift(counts, 0.20, 0.05, scale)]
        assert policy(0.0, torch.arange(3)).tolist() == pytest.approx(wanted)
        assert policy(0.0, torch.arange(3)).argmax() == 0
    with pytest.raises(InputError, match=r"smallest shift 0\.05"):
        Shifted(Cosine(-0.05, 0.05, cycles=5), torch.tensor([0.2, 0.05]))


def test_a_quarter_cycle_that_never_falls_is_accepted() -> None:
    Shifted(Cosine(-0.1, 0.1, cycles=0.25), torch.tensor([0.05]))


@pytest.mark.parametrize("row", [3, -1])
def test_an_index_outside_the_table_is_an_error_naming_the_row(row: int) -> None:
    with pytest.raises(InputError, match=rf"index\[1\] is {row}; it must lie in 0..2"):
        Shifted(Constant(0.1), torch.ones(3))(0.0, torch.tensor([0, row]))


@pytest.mark.parametrize("index", [torch.tensor(1), torch.tensor([0.0]), torch.tensor([True]), torch.tensor([[0]])])
def test_an_index_of_the_wrong_kind_is_an_error(index: torch.Tensor) -> None:
    with pytest.raises(InputError, match="index is"):
        Shifted(Constant(0.1), torch.ones(3))(0.0, index)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (torch.ones(2, 2), r"\(2, 2\)"),
        (torch.ones(0), "N >= 1"),
        (torch.ones(3, dtype=torch.int64), "floating"),
        (torch.tensor([1.0, math.nan]), r"shift\[1\] is nan"),
    ],
)
def test_a_shift_that_cannot_be_right_is_refused(shift: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Shifted(Constant(0.1), shift)


@pytest.mark.parametrize("value", [0.0, -0.1, math.nan, math.inf])
def test_fixed_and_scheduled_refuse_what_is_not_positive(value: float) -> None:
    with pytest.raises(InputError, match="positive"):
        Fixed(value)
    with pytest.raises(InputError):
        Scheduled(Linear(1.0, value))


def test_every_policy_refuses_a_wrong_progress() -> None:
    policies: list[Policy] = [Fixed(0.1), Scheduled(Constant(0.1)), Shifted(Constant(0.1), torch.ones(3)), Learned()]
    for policy in policies:
        with pytest.raises(InputError, match="progress"):
            policy(1.5, INDEX)


def test_learned_starts_at_07_and_is_clamped_in_place_after_a_step() -> None:
    policy = Learned()
    assert policy(0.0, INDEX).item() == pytest.approx(0.07, rel=1e-6)
    parameter = policy.log_value
    assert parameter.shape == ()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1000.0)
    for sign, bound in ((1.0, 0.01), (-1.0, 1.0)):
        optimizer.zero_grad()
        (sign * policy(0.0, INDEX)).backward()
        optimizer.step()
        policy.after_step()
        assert policy(0.0, INDEX).item() == pytest.approx(bound, rel=1e-6)
    assert policy.log_value is parameter


def test_learned_survives_saving_and_loading() -> None:
    trained = Learned()
    with torch.no_grad():
        trained.log_value.fill_(math.log(0.03))
    loaded = Learned()
    loaded.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert loaded(0.0, INDEX).item() == pytest.approx(0.03, rel=1e-6)


@pytest.mark.parametrize("bounds", [(0.005, 0.01, 1.0), (2.0, 0.01, 1.0), (0.1, 0.0, 1.0), (0.1, 0.01, math.inf)])
def test_learned_refuses_bounds_that_do_not_hold_its_start(bounds: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="0 < low <= start <= high"):
        Learned(*bounds)
