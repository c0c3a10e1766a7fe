"""Decode and read many files at once in threads: decoders and disks leave Python free meanwhile."""

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from mmts.console import progress_bar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def threads(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Open a pool of threads; waiting jobs are dropped if the body raises."""
    with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 16)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def in_threads(
    function: Callable[[T], R], items: Collection[T], title: str, unit: str, workers: int | None = None
) -> Iterator[R]:
    """Yield the function's results for the items, in order, under a progress bar.

    >>> list(in_threads(len, ["a", "bcd"], "counting", "words"))
    [1, 3]
    """
    with threads(workers) as pool, progress_bar(title, len(items), unit) as bar:
        for result in pool.map(function, items):
            yield result
            bar.advance()
