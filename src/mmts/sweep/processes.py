"""Runs side by side: a process each, one thread a process, stopped together."""

import concurrent.futures as futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from mmts.console import quiet
from mmts.errors import Diverged, InputError, Interrupted, MmtsError, RunError
from mmts.recipe.recipe import Recipe
from mmts.training.run import train
from mmts.training.signals import stop_requests

_POLL = 0.2  # seconds between looks at whether somebody wants to stop
_GRACE = 60.0  # seconds that a run gets for its last step and its checkpoint


@dataclass(frozen=True)
class Job:
    """A run to make: its recipe, its folder, and the split to judge on in place of test."""

    recipe: Recipe
    out: Path
    judged_on: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: None and None, or why no model came of the recipe, or that it was stopped."""

    failed: str | None = None
    stopped_by: int | None = None


def run_job(job: Job) -> Outcome:
    """Train and judge, saying nothing; a run begun before goes on."""
    try:
        with quiet():
            train(job.recipe, job.out, resume=True, evaluate_on=job.judged_on)
    except Interrupted as error:
        return Outcome(stopped_by=error.signal_number)
    except (Diverged, InputError) as error:  # values that no model can be trained with
        return Outcome(failed=str(error))
    except MmtsError as error:
        raise type(error)(f"{job.out}: {error}") from None
    return Outcome()


def run_jobs(jobs: Sequence[Job], processes: int, done: Callable[[Job, Outcome], None]) -> None:
    """Make all runs, calling `done` for each that ends.

    Raises Interrupted after Ctrl-C or SIGTERM, with every run's checkpoint written and no process left behind; an
    error of one run stops the others in the same way.
    """
    for job, outcome in _one_by_one(jobs) if processes == 1 else _side_by_side(jobs, processes):
        if outcome.stopped_by is not None:
            raise Interrupted("stopped; the same command goes on where it was", outcome.stopped_by)
        done(job, outcome)


def _one_by_one(jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a process of its own: sums round otherwise on more
    try:
        for job in jobs:
            yield job, run_job(job)
    finally:
        torch.set_num_threads(threads)


def _side_by_side(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Outcome]]:
    waiting, running = list(reversed(jobs)), dict[futures.Future[Outcome], Job]()
    with stop_requests() as stop, _one_thread_each(), _pool(processes) as pool:
        while waiting or running:
            if stop:
                raise Interrupted("stopped; the same command goes on where it was", stop[0])
            while waiting and len(running) < processes:  # no more: what is queued would start after a stop
                job = waiting.pop()
                running[pool.submit(_run_in_worker, job)] = job
            ended, _ = futures.wait(running, timeout=_POLL, return_when=futures.FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    if stop:  # Ctrl-C reached the runs too
                        break
                    raise RunError(
                        f"{job.out}, or a run beside it, was killed (out of memory?); the same command goes on, with "
                        "fewer --jobs perhaps"
                    ) from None
                yield job, outcome


@contextmanager
def _pool(processes: int) -> Iterator[futures.ProcessPoolExecutor]:
    """Yield worker processes that are gone at the end: asked to stop where something went wrong, then killed."""
    pool = futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    before = {process.pid for process in multiprocessing.active_children()}
    try:
        yield pool
    except BaseException:
        workers = [each for each in multiprocessing.active_children() if each.pid not in before]
        for worker in workers:
            worker.terminate()
        try:
            for worker in workers:
                worker.join(_GRACE)
        finally:
            for worker in workers:
                worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Keep to one thread, leave Ctrl-C to the parent, and end with it, however it ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run_in_worker(job: Job) -> Outcome:
    outcome = run_job(job)
    if outcome.stopped_by is not None:
        os._exit(1)  # the checkpoint is written, and nothing else is to be begun
    return outcome


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start meanwhile use one thread: read by OpenMP when a process loads it."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
