"""Several processes as one training: who writes, what all agree on, and how an error on one ends them all.

`torchrun` and `accelerate launch` start the processes and tell each its number. With one process everything here does
nothing, and costs nothing.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import distributed

from mmts.console import console, errors
from mmts.errors import FailedElsewhere, MmtsError, RunError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

_WAIT = timedelta(hours=12)  # the others wait while the main process clusters captions, validates and judges
_LOOK_EVERY = 0.5  # seconds between looks at whether another process has failed
_GRACE = 10.0  # seconds that a process has to end by itself after another has failed
_SETTLES = 0.2  # seconds that the group's threads have to put away what they did
_LINGER = 1.0  # seconds that the others stay: a launcher ends all processes when the first one ends
_SPEAKS_WITHIN = 600.0  # seconds that the main process may take to write a checkpoint before it says what failed


def num_processes() -> int:
    """Return how many processes train together.

    >>> num_processes()
    1
    """
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_index() -> int:
    """Return the number of this process, from 0; the main one's is 0.

    >>> process_index()
    0
    """
    return distributed.get_rank() if num_processes() > 1 else 0


def once(compute: Callable[[], T]) -> T:
    """Return, on every process, what `compute` gives on the main one; the others wait and get a copy.

    Where it raises, the error goes on in the main process, and the others raise FailedElsewhere.

    >>> once(lambda: 1 + 1)
    2
    """
    if num_processes() == 1:
        return compute()
    found: list[T | None] = [None]
    error: BaseException | None = None
    if process_index() == 0:
        try:
            found = [compute()]
        except BaseException as raised:
            error = raised
    outcome = [error is None, *found]
    distributed.broadcast_object_list(outcome, device=torch.device("cpu"))
    if error is not None:
        raise error
    if not outcome[0]:
        raise FailedElsewhere
    return outcome[1]  # type: ignore[return-value]


@contextmanager
def on_main(manager: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter a context on the main process alone; where that fails, all processes fail.

    >>> from contextlib import nullcontext
    >>> with on_main(nullcontext):
    ...     pass
    """
    with ExitStack() as stack:
        once(lambda: stack.enter_context(manager()))
        yield


def main_first(compute: Callable[[], T]) -> T:
    """Return what `compute` gives on this process; the main one computes first, and the others find what it cached.

    >>> main_first(lambda: 1 + 1)
    2
    """
    kept: list[T] = []
    once(lambda: kept.append(compute()))
    return kept[0] if kept else compute()


def largest(value: int, device: torch.device | str = "cpu") -> int:
    """Return the largest of the values that the processes give, on all of them; it travels by way of `device`.

    >>> largest(15)
    15
    """
    if num_processes() == 1:
        return value
    shared = torch.tensor(value, device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared.item())


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that a launcher started; only the main one says what goes on.

    An error on one process ends all within seconds. The process that fails first says why; the others raise
    FailedElsewhere in silence, and one that hangs in a transfer is ended.
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
    console.quiet = console.quiet or errors.quiet  # asked to be quiet, the main one is so too
    try:
        yield
    except BaseException as error:
        # Whoever speaks is heard once: on the others the console stays quiet, whatever prints the error.
        errors.quiet = isinstance(error, FailedElsewhere) or not alarm.raise_first()
        if errors.quiet:
            alarm.let_it_speak()
            if isinstance(error, MmtsError):
                raise
            raise FailedElsewhere from None
        if _is_lost_connection(error):
            raise RunError(
                "another process is gone: killed (out of memory?), or with its machine; see --resume"
            ) from None
        raise
    else:
        console.quiet, errors.quiet = before
        if own_group:
            # Who drops the last hold on the group ends its threads with the interpreter locked (gloo, torch 2.13). One
            # that still puts away the last transfer waits for that lock, and both would hang: let it go first.
            time.sleep(_SETTLES)
            distributed.destroy_process_group()
    finally:
        alarm.left.set()


_groups = count()


def _init_group() -> None:
    """Form a group of all processes: one after another has keys of its own, or would meet the last one's."""
    from torch.distributed.distributed_c10d import PrefixStore

    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"mmts/group/{next(_groups)}", _meeting_place()),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_WAIT,
    )


@cache
def _meeting_place() -> "Store":
    """Return where the processes meet. It is kept: a server that the main one ended and began anew would be missed."""
    return _connection()


def _connection() -> "Store":
    """Return a line of its own to where the processes meet: another may be held by a transfer that waits."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(iter(rendezvous("env://", timeout=_WAIT)))[0]
    return store


class _Alarm:
    """A mark that the first process to fail sets for all to see; it ends this process where that can't end by itself.

    `left` is to be set when this process has nothing more to do with the others.
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
        except RuntimeError:  # the process that keeps the store went before
            return False

    def let_it_speak(self) -> None:
        """Wait for the process that fails first to say why."""
        end = time.monotonic() + _SPEAKS_WITHIN
        while not self._is_set() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(_LINGER)

    def _is_set(self) -> bool:
        try:
            return bool(self._store.check([self._mark]))
        except RuntimeError:
            return True

    def _watch(self) -> None:
        while not self.left.wait(_LOOK_EVERY):
            if self._is_set() and not self.left.wait(_GRACE):
                os._exit(1)


def _is_lost_connection(error: BaseException) -> bool:
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in ("gloo", "closed by peer"))
