"""What ten million pairs take in memory, an epoch's order and iSogCLR's state, and what judging by two processes takes.

The pairs are made up, an index alone. `python -m benchmarks.scale WHAT ARGUMENTS` is one process of the measurement.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from benchmarks.measure import Comparison, peak_private_memory
from mmts.data.batches.epoch_plan import EpochPlan, Indices, stream_order
from mmts.data.pair_table import _FORMAT, _ROW, PairTable, TableSplit
from mmts.data.records import Medium, Split
from mmts.distributed.divided_state import divide_state
from mmts.distributed.shared_loss import shared_loss
from mmts.evaluation.rank import judge
from mmts.objectives import ISogCLR

B, BUFFER, SHARD = 2048, 20_000, 10_000
WAYS = ("divided", "whole")


def run(N: int = 10_000_000) -> Iterator[Comparison]:
    """Compare with an epoch drawn at once, and with state that every process holds whole."""
    with tempfile.TemporaryDirectory() as folder:
        _write_index(Path(folder), N)
        (ours,), (plain,) = (_in_processes(1, "order", folder, way) for way in ("pieces", "whole"))
    if ours["sum"] != plain["sum"]:
        raise AssertionError("the epoch drawn in pieces is another one")
    setting = f"{N:,} pairs in shards of {SHARD:,}, buffer {BUFFER:,}, batch {B:,}"
    what = "an epoch drawn in pieces, against the whole at once"
    yield Comparison(f"{what}, peak memory", setting, ours["bytes"] / N, plain["bytes"] / N, "bytes per pair")
    yield Comparison(what, setting, ours["seconds"], plain["seconds"])
    for processes in (2, 4):
        held = [max(each["bytes"] for each in _in_processes(processes, "state", str(N), way)) / N for way in WAYS]
        what, setting = (
            "state of iSogCLR, divided, against whole on every process",
            f"{N:,} pairs, {processes} processes",
        )
        yield Comparison(f"{what}, memory", setting, held[0], held[1], "bytes per pair")
    steps = [statistics.median(each["step"] for each in _in_processes(2, "state", "1000000", way)) for way in WAYS]
    yield Comparison(f"{what}, step", f"loss and gradient, B = {B:,}, D = 256, 2 processes", steps[0], steps[1])
    one, two = (max(each["seconds"] for each in _in_processes(number, "judge", "20000")) for number in (1, 2))
    yield Comparison("judging by 2 processes, against 1", "20,000 images and captions, one thread each", two, one)


def _write_index(folder: Path, N: int) -> None:
    rows = np.zeros(N, _ROW)
    rows["file"] = np.arange(N) // SHARD
    rows["caption_hash"] = np.arange(N)
    rows.tofile(folder / "columns")
    (folder / "pairs.jsonl").write_text("\n")
    about = {"format": _FORMAT, "lengths": [N, 1], "root": "/", "splits": ["train"], "about": {}}
    (folder / "table.json").write_text(json.dumps(about))


def _in_processes(number: int, *command: str) -> list[dict[str, float]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale", *command],
            env=os.environ | {key: str(value) for key, value in (about | {"RANK": rank}).items()},
            stdout=subprocess.PIPE,
        )
        for rank in range(number)
    ]
    return [json.loads(process.communicate()[0]) for process in started]


def _order(folder: str, way: str) -> dict[str, float]:
    """Open the index, and go through one epoch."""
    result: dict[str, float] = {}

    def work() -> None:
        table = PairTable(Path(folder))
        split = TableSplit("train", table, np.arange(len(table), dtype=np.uint32))
        sizes = split.shard_sizes or []

        def order(epoch: int, start: int, stop: int) -> Indices:
            return stream_order(sizes, 0, epoch, BUFFER, start, stop)

        if way == "pieces":
            plan = EpochPlan(None, split.num_media, B, 0, order=order)
        else:  # what there was: tables of owners, first captions and texts, and every place at once
            known = split.owner, split.first.clone(), split.text
            plan = EpochPlan(known[0], split.num_media, B, 0, order=order, at_once=split.num_media)
        start, total = time.perf_counter(), 0
        for at, batch in enumerate(plan.batches(0)):
            total += (at + 1) * int(batch.index[at % B]) + int(batch.text[-1])
        result.update(seconds=time.perf_counter() - start, sum=total)

    return {"bytes": peak_private_memory(work) * 2**20} | result


def _state(N: int, way: str) -> dict[str, float]:
    """Return the memory that iSogCLR's state takes, and the time of a step."""
    distributed.init_process_group("gloo")
    objective = ISogCLR(N, N)
    if way == "divided":
        divide_state(objective)
    held = sum(buffer.nbytes for buffer in objective.buffers())
    b = B // distributed.get_world_size()
    times = []
    for step in range(12):
        index = torch.from_numpy(np.random.default_rng(step).choice(N, B, replace=False))
        x, y = (torch.randn(b, 256, requires_grad=True) for _ in range(2))
        distributed.barrier()
        start = time.perf_counter()
        output = shared_loss(objective, x, y, [b] * distributed.get_world_size(), progress=0.5, index=index)
        output.loss.backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - start)
    distributed.barrier()
    distributed.destroy_process_group()
    return {"bytes": held, "step": statistics.median(times)}


def _judge(M: int) -> dict[str, float]:
    """Return the time that ranking M images for their captions and the other way round takes."""
    torch.manual_seed(0)
    media, text = torch.randn(2, M, 256)
    split = Split("test", tuple(Medium(str(i), Path(f"{i}.jpg"), (f"caption {i}",)) for i in range(M)))
    distributed.init_process_group("gloo")
    distributed.barrier()
    start = time.perf_counter()
    judge(media, text, split, "own")
    seconds = time.perf_counter() - start
    distributed.destroy_process_group()
    return {"seconds": seconds}


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "order":
        print(json.dumps(_order(*arguments)))
    else:
        print(json.dumps(_judge(int(arguments[0])) if what == "judge" else _state(int(arguments[0]), arguments[1])))
