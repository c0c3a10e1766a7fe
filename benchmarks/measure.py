"""Timing two ways of doing the same thing, one after the other in turns, in one process; and the memory one takes."""

import ctypes
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """Ours and the plain version, median seconds unless `unit` says otherwise, and how they were measured.

    With `items` of them done in that time, the table shows how many a second; the ratio stays that of the times.
    """

    what: str
    setting: str
    ours: float
    plain: float
    unit: str = "s"
    items: tuple[int, str] | None = None

    @property
    def ratio(self) -> float:
        """Ours over plain: below 1 is better."""
        return self.ours / self.plain

    def row(self) -> str:
        """Return a row of the table."""
        ours, plain = (self._cell(each) for each in (self.ours, self.plain))
        return f"| {self.what} | {self.setting} | {ours} | {plain} | {self.ratio:.2f} |"

    def _cell(self, value: float) -> str:
        if self.items is not None:
            number, item = self.items
            return f"{number / value:,.0f} {item}/s"
        return f"{value:,.{3 if self.unit == 's' else 0}f} {self.unit}"


def compare(
    what: str,
    setting: str,
    ours: Callable[[], object],
    plain: Callable[[], object],
    repeats: int = 7,
    items: tuple[int, str] | None = None,
    warm: bool = False,
) -> Comparison:
    """Run both once to warm up, unless they are `warm` already, then in turns, and take the medians."""
    if not warm:
        ours(), plain()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for way, into in ((ours, times[0]), (plain, times[1])):
            start = time.perf_counter()
            way()
            into.append(time.perf_counter() - start)
    return Comparison(what, setting, statistics.median(times[0]), statistics.median(times[1]), items=items)


def peak_memory(work: Callable[[], object]) -> float:
    """Return by how many MiB this process's memory rises at most while it works (resident, on Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would hide as much of what is taken now
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1024


def peak_of_own_memory(work: Callable[[], object], every: float = 0.01) -> float:
    """Return the same without pages of mapped files, which others may have at any time; looked at every 10 ms."""
    before = peak = _resident("RssAnon")
    done = threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(every):
            peak = max(peak, _resident("RssAnon"))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        work()
    finally:
        done.set()
        looking.join()
    return (peak - before) / 1024


def _resident(name: str) -> int:
    """Return a line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
