"""Time two ways to do the same by alternating between them in one process, and measure the memory that one needs."""

import ctypes
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Comparison:
    """The cost of ours and of the plain version, in median seconds unless `unit` says otherwise.

    If `items` gives a number and a name, the table shows items per second; the ratio remains that of the times.
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
        return (
            f"| {self.what} | {self.setting} | {self._cell(self.ours)} | {self._cell(self.plain)} | {self.ratio:.2f} |"
        )

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
    """Run each once to warm up, unless both are `warm` already; then alternate between them and take the medians."""
    if not warm:
        ours(), plain()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, seconds in zip((ours, plain), times, strict=True):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return Comparison(what, setting, statistics.median(times[0]), statistics.median(times[1]), items=items)


def peak_memory(work: Callable[[], object]) -> float:
    """Return the rise of this process's resident memory to its peak during `work`, in MiB (Linux only)."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but not returned would hide as much of the rise
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def peak_private_memory(work: Callable[[], object], every: float = 0.01) -> float:
    """Return the same without the pages of mapped files, sampled every 10 ms."""
    before = peak = _status("RssAnon")
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(every):
            peak = max(peak, _status("RssAnon"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        work()
    finally:
        done.set()
        sampler.join()
    return (peak - before) / 1024


def _status(name: str) -> int:
    """Return a value of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
