"""Timing two ways of doing the same thing, one after the other in turns, in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Median seconds of ours and of the plain version, and how they were measured."""

    what: str
    setting: str
    ours: float
    plain: float

    @property
    def ratio(self) -> float:
        """Ours over plain: below 1 is faster."""
        return self.ours / self.plain


def compare(
    what: str, setting: str, ours: Callable[[], object], plain: Callable[[], object], repeats: int = 7
) -> Comparison:
    """Run both once to warm up, then in turns, and take the medians."""
    ours(), plain()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for way, into in ((ours, times[0]), (plain, times[1])):
            start = time.perf_counter()
            way()
            into.append(time.perf_counter() - start)
    return Comparison(what, setting, statistics.median(times[0]), statistics.median(times[1]))
