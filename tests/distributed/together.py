"""Runs a function in several processes that train together, over gloo on the loopback."""

import os
import pickle
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch
from tests_support import ready_processes


def together(number: int, function: Callable[..., Any], *arguments: Any, seconds: float = 240) -> list[Any]:
    """Return what `function` gives in each of the processes; of one that ends without, its exit code."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for index in range(number):
        receives, sends = ready_processes().Pipe(duplex=False)
        process = ready_processes().Process(target=_run, args=(sends, index, number, port, function, arguments))
        process.start()
        sends.close()
        started.append((process, receives))
    end = time.monotonic() + seconds
    given: list[Any] = []
    for process, receives in started:
        try:
            given.append(pickle.loads(receives.recv_bytes()) if receives.poll(end - time.monotonic()) else "hangs")
        except EOFError:
            process.join(seconds)
            given.append(process.exitcode)
    for process, _ in started:
        process.join(end - time.monotonic())
        process.kill()
    return given


def skip_if_torch_cannot_shard() -> None:
    """Skip a test of fully_shard, which fails with torch 2.6: its streams of the CPU have no record_event."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip(f"torch {torch.__version__} cannot shard a model on the CPU; 2.7 and newer can")


def _run(
    sends: Connection, index: int, number: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(number), "OMP_NUM_THREADS": "1"}
    os.environ |= {"LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sends.send_bytes(pickle.dumps(function(*arguments)))  # by value: this process is soon gone
