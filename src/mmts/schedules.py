"""Schedules: plain functions from training progress to one number.

Progress p = step / total_steps runs from 0 to 1 and is the only clock (docs/method.md, 1.1). Every schedule knows its
smallest and largest value over [0, 1], so that a temperature that would reach zero can be refused.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, get_type_hints

from mmts.errors import InputError, plain
from mmts.options import NotNegative, ZeroToBelowOne, check_value


class Schedule(Protocol):
    """A function of progress that knows its smallest and largest value over [0, 1]; other progress is an InputError."""

    @property
    def minimum(self) -> float: ...  # noqa: D102
    @property
    def maximum(self) -> float: ...  # noqa: D102
    def __call__(self, progress: float) -> float: ...  # noqa: D102


def check_progress(progress: float) -> float:
    """Return `progress` as a float; raise InputError unless it lies in [0, 1]."""
    if not 0.0 <= progress <= 1.0:
        raise InputError(f"progress is {progress}: it must lie in [0, 1] (step / total_steps)")
    return float(progress)


class _Bounded:
    """What the schedules share; a subclass defines its value at a checked progress, and (minimum, maximum)."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            check_value(f"{type(self).__name__}: {name}", getattr(self, name), hint)

    def __call__(self, progress: float) -> float:
        return self._at(check_progress(progress))

    @property
    def minimum(self) -> float:
        """The smallest value over [0, 1]."""
        return self._bounds()[0]

    @property
    def maximum(self) -> float:
        """The largest value over [0, 1]."""
        return self._bounds()[1]

    def _at(self, p: float) -> float:
        raise NotImplementedError

    def _bounds(self) -> tuple[float, float]:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(_Bounded):
    """The same value throughout (docs/method.md, 1.2).

    value: the value.

    >>> Constant(0.07)(0.5)
    0.07
    """

    value: float

    def _at(self, p: float) -> float:
        return self.value

    def _bounds(self) -> tuple[float, float]:
        return self.value, self.value


@dataclass(frozen=True)
class Linear(_Bounded):
    """A straight line: start (1 - p) + end p (docs/method.md, 1.3).

    start: the value at the start of training.
    end: the value at its end.

    >>> Linear(1.0, 0.5)(0.5)
    0.75
    """

    start: float
    end: float

    def _at(self, p: float) -> float:
        return _between(self.start, self.end, p)

    def _bounds(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)


@dataclass(frozen=True)
class Cosine(_Bounded):
    """A cosine wave between `low` and `high` (docs/method.md, 1.4).

    low (1 - w) + high w,   w = (1 + cos(2 pi (cycles p + phase))) / 2

    Exactly `high` at every whole turn of cycles p + phase, and exactly `low` halfway between. The swing of MM-TS (arXiv
    2603.08202) is Cosine(-alpha/2, alpha/2, cycles). InputError if low > high, cycles < 0, or a number is not finite.

    low: the lowest value.
    high: the highest value, where training starts.
    cycles: number of waves over training; need not be whole.
    phase: where in its wave it starts, in cycles; .5 starts at `low`.

    >>> swing = Cosine(low=-0.1, high=0.1, cycles=5)
    >>> [round(swing(p), 3) for p in (0.0, 0.05, 0.1, 0.2)]
    [0.1, 0.0, -0.1, 0.1]
    """

    low: float
    high: float
    cycles: NotNegative = 1.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise InputError(f"Cosine: low {plain(self.low)} is greater than high {plain(self.high)}; it must not be")

    def _at(self, p: float) -> float:
        # Removing whole turns first keeps the cosine exact at every whole and half turn, however late.
        turn = math.remainder(self.cycles * p + self.phase, 1.0)
        return _between(self.low, self.high, (1.0 + math.cos(2.0 * math.pi * turn)) / 2.0)

    def _bounds(self) -> tuple[float, float]:
        ends, last = (self(0.0), self(1.0)), self.phase + self.cycles
        passes_low, passes_high = math.ceil(self.phase - 0.5) + 0.5 <= last, math.ceil(self.phase) <= last
        return self.low if passes_low else min(ends), self.high if passes_high else max(ends)


@dataclass(frozen=True)
class Warmup(_Bounded):
    """A straight line from `start` to schedule(0), then `schedule` on the remaining time (docs/method.md, 1.5).

    schedule: the schedule after the rise.
    fraction: the share of training that the rise takes.
    start: the value it rises from.

    >>> [Warmup(Linear(1.0, 0.0), fraction=0.5)(p) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 0.0]
    """

    schedule: Schedule
    fraction: ZeroToBelowOne
    start: float = 0.0

    def _at(self, p: float) -> float:
        if p < self.fraction:
            return _between(self.start, self.schedule(0.0), p / self.fraction)
        return self.schedule((p - self.fraction) / (1.0 - self.fraction))

    def _bounds(self) -> tuple[float, float]:
        low, high = self.schedule.minimum, self.schedule.maximum
        return (min(self.start, low), max(self.start, high)) if self.fraction else (low, high)


@dataclass(frozen=True)
class Join(_Bounded):
    """Schedules one after the other (docs/method.md, 1.6).

    Piece k runs from boundaries[k - 1] until before boundaries[k]; its own clock runs from 0 to 1 over that stretch.
    InputError unless the boundaries rise strictly inside (0, 1).

    schedules: the pieces in order.
    boundaries: shares of training at which the next piece begins; one fewer than schedules.

    >>> Join((Constant(1.0), Linear(1.0, 0.0)), (0.5,))(0.75)
    0.5
    """

    schedules: tuple[Schedule, ...]
    boundaries: tuple[float, ...]

    def __init__(self, schedules: Sequence[Schedule], boundaries: Sequence[float]) -> None:
        _set_pieces(self, "schedules", schedules, boundaries)

    def _at(self, p: float) -> float:
        piece = sum(boundary <= p for boundary in self.boundaries)
        start, end = (0.0, *self.boundaries, 1.0)[piece : piece + 2]
        return self.schedules[piece]((p - start) / (end - start))

    def _bounds(self) -> tuple[float, float]:
        return min(piece.minimum for piece in self.schedules), max(piece.maximum for piece in self.schedules)


@dataclass(frozen=True)
class Step(_Bounded):
    """One value after the other (docs/method.md, 1.7): values[k] from boundaries[k - 1] until before boundaries[k].

    values: in order.
    boundaries: shares of training at which the next value begins; one fewer than values.

    >>> [Step(values=(0.1, 0.07), boundaries=(0.5,))(p) for p in (0.0, 0.5)]
    [0.1, 0.07]
    """

    values: tuple[float, ...]
    boundaries: tuple[float, ...]

    def __init__(self, values: Sequence[float], boundaries: Sequence[float]) -> None:
        _set_pieces(self, "values", values, boundaries)
        for place, value in enumerate(self.values):
            check_value(f"Step: values[{place}]", value, float)

    def _at(self, p: float) -> float:
        return self.values[sum(boundary <= p for boundary in self.boundaries)]

    def _bounds(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


SCHEDULES = {"constant": Constant, "linear": Linear, "cosine": Cosine, "warmup": Warmup, "join": Join, "step": Step}
"""The schedules by their names in recipes (`kind`)."""


def _between(start: float, end: float, weight: float) -> float:
    value = start * (1.0 - weight) + end * weight
    # Rounding may leave the interval by one unit in the last place.
    return min(max(value, min(start, end)), max(start, end))


def _set_pieces(schedule: "Join | Step", what: str, pieces: Iterable[object], boundaries: Iterable[float]) -> None:
    """Check and set the fields of a frozen schedule that are tuples."""
    owner, pieces, boundaries = type(schedule).__name__, tuple(pieces), tuple(boundaries)
    if not pieces:
        raise InputError(f"{owner}: {what} is empty; give at least one")
    if len(boundaries) != len(pieces) - 1:
        raise InputError(f"{owner}: {len(pieces)} {what} need {len(pieces) - 1} boundaries, got {len(boundaries)}")
    if not all(left < right for left, right in pairwise((0.0, *boundaries, 1.0))):
        raise InputError(f"{owner}: boundaries {boundaries} must rise strictly and lie inside (0, 1)")
    object.__setattr__(schedule, what, pieces)
    object.__setattr__(schedule, "boundaries", boundaries)
