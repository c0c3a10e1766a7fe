"""Several processes in one training: who writes, what all agree on, and how an error on one ends them all.

`torchrun` and `accelerate launch` start the processes and give each its number. With one process nothing here has an
effect or a cost.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from mmts.console import console, errors
from mmts.errors import FailedElsewhere, MmtsError, RunError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

_WAIT = timedelta(hours=12)  # the others wait while the main process clusters captions, validates and evaluates
_POLL = 0.5  # seconds between checks whether another process has failed
_GRACE = 10.0  # seconds that a process has to end by itself after another has failed
_SETTLE = 0.2  # seconds that the group's threads have to finish the last transfer
_LINGER = 1.0  # seconds that the others stay: a launcher ends all processes when the first one ends
_REPORT_WITHIN = 600.0  # seconds that the failed process may write a checkpoint before it reports


def num_processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_index() -> int:
    """Return the number of this process, from 0; the main process has 0."""
    return distributed.get_rank() if num_processes() > 1 else 0


def once(compute: Callable[[], T]) -> T:
    """Return on every process what `compute` returns on the main one; the others wait and get a copy.

    If it raises, the main process raises the error, and the others FailedElsewhere.
    """
    if num_processes() == 1:
        return compute()
    outcome: list[Any] = []
    try:
        outcome = [True, compute()] if process_index() == 0 else [False, None]
    finally:
        outcome = outcome or [False, None]  # `compute` has failed
        distributed.broadcast_object_list(outcome, device=torch.device("cpu"))
    if not outcome[0]:
        raise FailedElsewhere
    return outcome[1]  # type: ignore[no-any-return]


@contextmanager
def on_main(manager: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter a context on the main process alone; if that fails, all processes fail."""
    with ExitStack() as stack:
        once(lambda: stack.enter_context(manager()))
        yield


def main_first(compute: Callable[[], T]) -> T:
    """Return what `compute` returns on this process; the main one computes first, so the others find its cache."""
    kept: list[T] = []
    once(lambda: kept.append(compute()))
    return kept[0] if kept else compute()


def largest(value: int, device: torch.device | str = "cpu") -> int:
    """Return the largest of all processes' values, exchanged through `device`."""
    if num_processes() == 1:
        return value
    shared = torch.tensor(value, device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared.item())


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that a launcher started; only the main one prints.

    An error on one process ends all within seconds. The process that fails first reports it; the others raise
    FailedElsewhere silently, and one that hangs in a transfer is ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    own_group = not distributed.is_initialized()
    if own_group:
        _init_group()
    alarm = _Alarm()
    before = console.quiet, errors.quiet
    errors.quiet = process_index() != 0
    console.quiet = console.quiet or errors.quiet  # the main process too, if it was asked to be quiet
    try:
        yield
    except BaseException as error:
        # Only one process reports: on the others the console stays quiet, whatever prints the error.
        errors.quiet = isinstance(error, FailedElsewhere) or not alarm.raise_first()
        if errors.quiet:
            alarm.let_it_report()
            if isinstance(error, MmtsError):
                raise
            raise FailedElsewhere from None
        lost = isinstance(error, RuntimeError) and any(words in str(error) for words in ("gloo", "closed by peer"))
        if lost or isinstance(error, distributed.DistError):
            remedy = "killed (out of memory?), or with its machine; see --resume"
            raise RunError(f"another process is gone: {remedy}") from None
        raise
    else:
        console.quiet, errors.quiet = before
        if own_group:
            # Destroying the group ends its threads with the interpreter locked (gloo, torch 2.13). A thread that still
            # finishes the last transfer waits for that lock, and both would hang: let it finish first.
            time.sleep(_SETTLE)
            distributed.destroy_process_group()
    finally:
        alarm.left.set()


_groups = count()


def _init_group() -> None:
    """Form a group of all processes, with its own keys in the store: it would find those of the last group."""
    from torch.distributed.distributed_c10d import PrefixStore

    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"mmts/group/{next(_groups)}", _meeting_place()),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_WAIT,
    )


def _connection() -> "Store":
    """Return a new connection to the store: another one may be blocked by a transfer that waits."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(iter(rendezvous("env://", timeout=_WAIT)))[0]
    return store


_meeting_place = cache(_connection)  # kept: a server that the main process restarts would be missed


class _Alarm:
    """A mark that the first process to fail sets for all, and a thread that ends this process if it hangs then.

    Set `left` when this process is done with the others.
    """

    _number = count()

    def __init__(self) -> None:
        self._mark = f"mmts/failed/{next(self._number)}"
        self._store = _connection()
        self.left = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def raise_first(self) -> bool:
        """Set the mark; return whether this process is the first to do so."""
        try:
            return bool(self._store.add(self._mark, 1) == 1)
        except RuntimeError:  # the process that keeps the store is gone already
            return False

    def let_it_report(self) -> None:
        """Wait for the process that failed first to report."""
        end = time.monotonic() + _REPORT_WITHIN
        while not self._is_set() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(_LINGER)

    def _is_set(self) -> bool:
        try:
            return bool(self._store.check([self._mark]))
        except RuntimeError:
            return True

    def _watch(self) -> None:
        while not self.left.wait(_POLL):
            if self._is_set() and not self.left.wait(_GRACE):
                os._exit(1)
