"""Several processes in one command: who writes, what they exchange, and how an error on one ends them all.

`torchrun` and `accelerate launch` start the processes and give each its number. With one process nothing here has an
effect or a cost.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmts.console import console, errors
from mmts.data.batches.epoch_plan import process_slice
from mmts.errors import FailedElsewhere, MmtsError, RunError

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

_WAIT = timedelta(hours=12)  # the others wait while the main process clusters captions, validates and evaluates
_POLL = 0.5  # seconds between checks whether another process has failed
_GRACE = 10.0  # seconds that a process has to end by itself after another has failed
_SETTLE = 0.2  # seconds that the group's threads have to finish the last transfer
_LINGER = 1.0  # seconds that the others stay: a launcher ends all processes when the first one ends
_REPORT_WITHIN = 600.0  # seconds that the failed process may write a checkpoint before it reports

_is_alone = False  # see `alone`


def num_processes() -> int:
    """Return how many processes work together here; 1 inside `alone`."""
    several = distributed.is_available() and distributed.is_initialized() and not _is_alone
    return distributed.get_world_size() if several else 1


def process_index() -> int:
    """Return the number of this process, from 0; the main process has 0."""
    return distributed.get_rank() if num_processes() > 1 else 0


@contextmanager
def alone(value: bool = True) -> Iterator[None]:
    """Let this process compute by itself within it, as if it was the only one; the others do not take part."""
    global _is_alone
    before, _is_alone = _is_alone, value
    try:
        yield
    finally:
        _is_alone = before


def once(compute: Callable[[], T]) -> T:
    """Return on every process what `compute` returns on the main one; the others wait and get a copy.

    If it raises, the main process raises the error, and the others FailedElsewhere.
    """
    return from_main(led(lambda _: compute(), lambda _: None))


def from_main(value: T | None) -> T:
    """Return the main process's value on all processes."""
    values: list[Any] = [value]
    if num_processes() > 1:
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]  # type: ignore[no-any-return]


def led(work: Callable[[Callable[[A], R]], T], compute: Callable[[A], R]) -> T | None:
    """Return what `work(compute)` returns on the main process, which alone does the work, and None on the others.

    All processes take part in each call of `compute` inside the work, with the argument that the main one gives. If
    the work raises, the main process raises the error, and the others FailedElsewhere.
    """
    if num_processes() == 1:
        return work(compute)
    if process_index() > 0:
        task: tuple[str, Any]
        while (task := from_main(None))[0] == "compute":
            compute(task[1])
        if task[0] == "failed":
            raise FailedElsewhere
        return None
    others_wait, end = True, "failed"

    def together(argument: A) -> R:
        nonlocal others_wait
        with alone(False):
            from_main(("compute", argument))
            others_wait = False  # should `compute` fail, it fails on all processes
            result = compute(argument)
        others_wait = True
        return result

    try:
        with alone():
            result = work(together)
        end = "done"
    finally:
        if others_wait:
            from_main((end, None))
    return result


def shared(items: Sequence[A], compute: Callable[[Sequence[A]], Iterable[R]]) -> list[R]:
    """Return on every process the results of all items; each of n processes computes those of every n-th item.

    If one process raises an error, the others raise FailedElsewhere.

    >>> shared([1, 2, 3], lambda own: [item**2 for item in own])
    [1, 4, 9]
    """
    n = num_processes()
    if n == 1:
        return [*compute(items)]
    own: list[R] | None = None
    gathered: list[Any] = [None] * n
    try:
        own = [*compute(items[process_index() :: n])]
    finally:
        distributed.all_gather_object(gathered, own)
    if any(results is None for results in gathered):
        raise FailedElsewhere
    together: list[Any] = [None] * len(items)
    for k, results in enumerate(gathered):
        together[k::n] = results
    return together


@contextmanager
def on_main(manager: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter a context on the main process alone; if that fails, all processes fail."""
    with ExitStack() as stack:
        once(lambda: stack.enter_context(manager()))
        yield


def main_first(compute: Callable[[], T]) -> T:
    """Return what `compute` returns on this process; the main one computes first, so the others find its cache."""
    kept = led(lambda _: [compute()], lambda _: None)
    with alone():
        return compute() if kept is None else kept[0]


def process_sizes(batch_size: int) -> list[int]:
    """Return how many pairs of a batch each process has, by `process_slice`."""
    n = num_processes()
    return [len(range(batch_size)[process_slice(batch_size, k, n)]) for k in range(n)]


def all_values(own: int, device: torch.device) -> list[int]:
    """Return the number that each process gives, exchanged through `device`."""
    values: list[int] = gather(torch.tensor([own], device=device), [1] * num_processes()).tolist()
    return values


def gather(own: Tensor, sizes: list[int]) -> Tensor:
    """Return the rows of all processes (B, ...), given this one's and how many each of them has; without gradient."""
    if num_processes() == 1:
        return own
    # A transfer needs one size, so shorter tensors are padded, and the padding is removed again.
    sent = own.new_zeros(max(sizes), *own.shape[1:])
    sent[: len(own)] = own.detach()
    received = [torch.empty_like(sent) for _ in sizes]
    distributed.all_gather(received, sent)
    return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)])


def check_all_reached(model: nn.Module) -> None:
    """Raise RunError if a parameter that trains has no gradient, naming it: the processes would wait for it."""
    if num_processes() > 1:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                why = f"the loss does not reach {name.removeprefix('module.')}, which is set to train"
                remedy = "several processes cannot share its gradient. Freeze it, or train with one process"
                raise RunError(f"{why}; {remedy}")


def seed_draws(seed: int, step: int, *, alike: bool) -> None:
    """Seed the next random numbers by (seed, step), equally on all processes or, as for dropout, differently on each.

    With one process random numbers continue.
    """
    if num_processes() > 1:
        key = (seed, step, 0 if alike else 1 + process_index())
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def share_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Make the batch norms of a model take their statistics from the batch of all processes.

    torch can do that on GPUs only: elsewhere a batch norm that trains is a RunError, naming it.
    """
    training = [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm) and layer.training]
    if num_processes() == 1 or not training:
        return
    if device.type != "cuda":
        raise RunError(
            f"{training[0]} is a batch norm that trains; on a {device.type} its statistics would be those of each "
            "process's part of the batch. Train with one process, take a tower without batch norm (small-vit, a CLIP "
            "or other ViT), or freeze this one"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


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

    if torch.accelerator.is_available():
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count())
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"mmts/group/{next(_groups)}", _meeting_place()),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=_WAIT,
    )


def _connection() -> Any:
    """Return a new connection to torch's Store: another one may be blocked by a transfer that waits."""
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://", timeout=_WAIT)))[0]


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
