"""Runs side by side: one worker process per run, one thread per process, all stopped together.

This is not joblib, whose workers are killed before they can write a checkpoint on Ctrl-C, and outlive a sweep that is
stopped by SIGTERM or SIGKILL.
"""

import concurrent.futures as futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
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

_POLL = 0.2  # seconds between checks for a stop signal
_GRACE = 60.0  # seconds for a run to finish its step and write its checkpoint
_THREADS = "OMP_NUM_THREADS"
_STOPPED = "stopped; run the same command again to continue"


@dataclass(frozen=True)
class Job:
    """A run to make: its recipe, its folder, and the split to evaluate on (None: test)."""

    recipe: Recipe
    out: Path
    judged_on: str | None = None


def run_jobs(jobs: Sequence[Job], processes: int) -> Generator[tuple[Job, str | None]]:
    """Make or resume all runs; yield each finished one, with the reason if its settings could not be trained.

    Raises Interrupted after Ctrl-C or SIGTERM, when every run has written its checkpoint and no process is left. An
    error in one run stops the others in the same way.
    """
    if processes > 1:
        yield from _run_side_by_side(jobs, processes)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker process: with more threads, sums round differently
    try:
        for job in jobs:
            yield job, _run(job)
    finally:
        torch.set_num_threads(threads)


def _run(job: Job) -> str | None:
    """Train and evaluate silently; return why the settings could not be trained, or None."""
    try:
        with quiet():
            train(job.recipe, job.out, resume=True, evaluate_on=job.judged_on)
    except Interrupted as error:
        raise Interrupted(_STOPPED, error.signal_number) from None
    except (Diverged, InputError) as error:
        return str(error)
    except MmtsError as error:
        raise type(error)(f"{job.out}: {error}") from None
    return None


def _run_side_by_side(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, str | None]]:
    waiting, running = list(reversed(jobs)), dict[futures.Future[str | None], Job]()
    with stop_requests() as stop, _worker_pool(processes) as pool:
        while waiting or running:
            if stop:
                raise Interrupted(_STOPPED, stop[0])
            while waiting and len(running) < processes:  # never more: a queued job would start after a stop
                job = waiting.pop()
                running[pool.submit(_run_in_worker, job)] = job
            for future in futures.wait(running, _POLL, futures.FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    reason = future.result()
                except BrokenProcessPool:
                    if stop:  # Ctrl-C reached the workers too
                        break
                    raise RunError(
                        f"{job.out}, or a run beside it, was killed (out of memory?); run the same command again to "
                        "continue, with fewer --jobs if memory was the reason"
                    ) from None
                yield job, reason


@contextmanager
def _worker_pool(processes: int) -> Iterator[futures.ProcessPoolExecutor]:
    """Yield worker processes; if the body raises, let them write their checkpoints, then kill what still runs."""
    threads_before, children_before = os.environ.get(_THREADS), multiprocessing.active_children()
    os.environ[_THREADS] = "1"  # OpenMP reads it when a worker loads it
    pool = futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        workers = [child for child in multiprocessing.active_children() if child not in children_before]
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
        pool.shutdown(cancel_futures=True)
        del os.environ[_THREADS]
        if threads_before is not None:
            os.environ[_THREADS] = threads_before


def _begin_worker() -> None:
    """Use one thread, leave Ctrl-C to the parent, and exit when the parent does, however it ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _run_in_worker(job: Job) -> str | None:
    try:
        return _run(job)
    except Interrupted:
        os._exit(1)  # the checkpoint is written, and this worker must not start another job
