"""Requests to stop: Ctrl-C, or the SIGTERM that a cluster's scheduler sends before it kills."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requests(then: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM, and do `then`, instead of ending at once; a second Ctrl-C interrupts immediately."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        then()

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone gets signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
