"""Schedules: exact where exactness is promised, within their bounds everywhere, errors for what cannot be right."""

import math

import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from mmts.errors import InputError
from mmts.schedules import Constant, Cosine, Join, Linear, Schedule, Step, Warmup

progress = st.floats(0.0, 1.0)
value = st.floats(-10.0, 10.0)
phase = st.floats(-3.0, 3.0)
cycles = st.floats(0.0, 30.0)


@st.composite
def cosines(draw: st.DrawFn) -> Cosine:
    low, high = sorted((draw(value), draw(value)))
    return Cosine(low, high, draw(cycles), draw(phase))


simple = st.one_of(st.builds(Constant, value), st.builds(Linear, value, value), cosines())


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    kind = draw(st.sampled_from(["simple", "warmup", "join", "step"]))
    if kind == "warmup":
        return Warmup(draw(simple), draw(st.floats(0.0, 0.9)), draw(value))
    if kind == "join":
        return Join((draw(simple), draw(simple), draw(simple)), (0.25, draw(st.floats(0.3, 0.9))))
    if kind == "step":
        return Step((draw(value), draw(value)), (draw(st.floats(0.1, 0.9)),))
    return draw(simple)


@given(schedules(), progress)
def test_every_schedule_stays_within_its_bounds(schedule: Schedule, p: float) -> None:
    assert schedule.minimum <= schedule(p) <= schedule.maximum


@given(cosines())
def test_the_bounds_of_a_cosine_are_reached(schedule: Cosine) -> None:
    grid = [schedule(k / 5000) for k in range(5001)]
    room = (schedule.high - schedule.low) * (math.pi * (schedule.cycles + 1) / 5000) ** 2
    assert min(grid) <= schedule.minimum + room + 1e-12
    assert max(grid) >= schedule.maximum - room - 1e-12


@given(cosines(), progress)
def test_cosine_equals_its_loop_twin(schedule: Cosine, p: float) -> None:
    twin = reference.cosine(p, schedule.low, schedule.high, schedule.cycles, schedule.phase)
    assert schedule(p) == pytest.approx(twin, abs=1e-11)


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_cosine_is_exact_at_whole_and_half_cycles(count: int) -> None:
    schedule = Cosine(low=-0.1, high=0.1, cycles=count)
    assert schedule(0.0) == schedule(1.0) == schedule.maximum == 0.1
    assert schedule(0.5 / count) == schedule.minimum == -0.1
    assert Cosine(0.3, 0.7, cycles=count, phase=0.5)(0.0) == 0.3


@pytest.mark.parametrize("schedule", [Cosine(0.02, 0.1, cycles=5), Cosine(-1.0, 3.0, cycles=2, phase=0.3)])
def test_mean_over_whole_cycles_is_the_middle(schedule: Cosine) -> None:
    steps = 1000
    mean = sum(schedule(k / steps) for k in range(steps)) / steps
    assert mean == pytest.approx((schedule.low + schedule.high) / 2, abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "minimum", "maximum"),
    [
        (Cosine(0.0, 1.0, cycles=0.25), 0.5, 1.0),
        (Cosine(0.0, 1.0, cycles=0.5), 0.0, 1.0),
        (Cosine(0.0, 1.0, cycles=0.25, phase=0.125), 0.5 - math.sqrt(0.125), 0.5 + math.sqrt(0.125)),
        (Cosine(0.0, 1.0, cycles=0.25, phase=0.4), 0.0, 0.5 + 0.5 * math.cos(1.3 * math.pi)),
        (Cosine(0.0, 1.0, cycles=0.25, phase=-0.1), 0.5 + 0.5 * math.cos(0.3 * math.pi), 1.0),
        (Cosine(0.0, 1.0, cycles=0.0, phase=0.5), 0.0, 0.0),
        (Constant(0.3), 0.3, 0.3),
        (Linear(0.5, 0.1), 0.1, 0.5),
        (Warmup(Constant(1.0), 0.1, start=0.2), 0.2, 1.0),
        (Warmup(Constant(1.0), 0.0, start=0.2), 1.0, 1.0),
        (Join((Constant(0.3), Linear(0.2, 0.9)), (0.5,)), 0.2, 0.9),
    ],
)
def test_minimum_and_maximum(schedule: Schedule, minimum: float, maximum: float) -> None:
    assert schedule.minimum == pytest.approx(minimum, abs=1e-15)
    assert schedule.maximum == pytest.approx(maximum, abs=1e-15)


@given(value, value, progress)
def test_linear_equals_its_loop_twin(start: float, end: float, p: float) -> None:
    assert Linear(start, end)(p) == pytest.approx(reference.linear(p, start, end), abs=1e-12)


def test_warmup_meets_the_schedule_and_stretches_its_clock() -> None:
    inner = Cosine(0.1, 0.5, cycles=2)
    warm = Warmup(inner, fraction=0.2, start=0.0)
    assert warm(0.0) == 0.0
    assert warm(0.1) == pytest.approx(0.25)
    assert warm(0.2) == inner(0.0)
    assert warm(0.6) == pytest.approx(inner(0.5))
    assert warm(1.0) == inner(1.0)


def test_join_gives_each_piece_its_own_clock() -> None:
    join = Join([Linear(0.0, 1.0), Linear(5.0, 6.0), Constant(9.0)], [0.2, 0.6])
    assert [join(p) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == [0.0, 0.5, 5.0, 9.0, 9.0]
    assert join(0.4) == pytest.approx(5.5)
    assert join == Join((Linear(0.0, 1.0), Linear(5.0, 6.0), Constant(9.0)), (0.2, 0.6))


@given(st.lists(value, min_size=3, max_size=3), progress)
def test_step_equals_its_loop_twin_and_a_join_of_constants(values: list[float], p: float) -> None:
    boundaries = [0.25, 0.75]
    step = Step(values, boundaries)
    assert step(p) == reference.step(p, values, boundaries) == Join(map(Constant, values), boundaries)(p)
    assert step(0.25) == values[1]
    assert (step.minimum, step.maximum) == (min(values), max(values))


def test_schedules_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Cosine(0.0, 1.0).low = 2.0  # type: ignore[misc]
    assert len({Cosine(0.0, 1.0), Cosine(0.0, 1.0), Join((Constant(1.0),), ())}) == 2


@pytest.mark.parametrize("p", [-0.001, 1.001, math.nan, math.inf])
@pytest.mark.parametrize(
    "schedule",
    [
        Constant(1.0),
        Linear(0.0, 1.0),
        Cosine(0.0, 1.0),
        Warmup(Constant(1.0), 0.1),
        Join((Constant(1.0),), ()),
        Step((1.0,), ()),
    ],
)
def test_progress_outside_the_run_is_an_error(schedule: Schedule, p: float) -> None:
    with pytest.raises(InputError, match="progress"):
        schedule(p)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cosine(0.2, 0.1), "low 0.2 is greater than high 0.1"),
        (lambda: Cosine(0.1, 0.2, cycles=-1), "cycles"),
        (lambda: Cosine(0.1, math.nan), "high is nan"),
        (lambda: Linear(math.inf, 0.0), "start is inf"),
        (lambda: Constant(math.nan), "value is nan"),
        (lambda: Warmup(Constant(1.0), 1.0), "fraction"),
        (lambda: Warmup(Constant(1.0), -0.1), "fraction"),
        (lambda: Join((), ()), "empty"),
        (lambda: Step((), ()), "Step: values is empty"),
        (lambda: Step((1.0, 2.0), ()), "2 values need 1 boundaries, got 0"),
        (lambda: Step((1.0, 2.0), (0.0,)), "inside"),
        (lambda: Step((1.0, math.nan), (0.5,)), r"values\[1\] is nan"),
        (lambda: Join((Constant(1.0), Constant(2.0)), ()), "1 boundaries"),
        (lambda: Join((Constant(1.0), Constant(2.0), Constant(3.0)), (0.6, 0.5)), "rise strictly"),
        (lambda: Join((Constant(1.0), Constant(2.0)), (1.0,)), "inside"),
    ],
)
def test_what_cannot_be_right_is_refused(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        build()
