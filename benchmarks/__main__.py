"""Run every benchmark, print the table and write docs/benchmarks.md; `large` runs the one long benchmark instead."""

import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks import (
    cluster,
    clustering,
    decoding,
    graded_metrics,
    images,
    losses,
    micro_batch,
    ranking,
    scale,
    start_up,
    towers,
    training,
)
from mmts.console import console
from mmts.files import atomic_write

HEAD = """# Benchmarks

Written by `{command}`. Each row compares mmts with a plain way to do the same, measured in the same run. A ratio below
1 means that mmts is faster or needs less memory. Times are medians of alternating runs. Peak memory is what a fresh
process needs in addition to its inputs.

"""

PARTS = (
    losses, ranking, graded_metrics, images, decoding, towers, training, micro_batch, clustering, scale, start_up,
    cluster,
)  # fmt: skip


def main(large: bool) -> None:
    """Measure, print and write."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}"
    lines = ["| what | setting | mmts | plain | ratio |", "|---|---|---|---|---|"]
    console.print(f"measuring on {machine}")
    for measure in [clustering.large] if large else [part.run for part in PARTS]:
        start = time.perf_counter()
        for result in measure():
            lines.append(result.row())
            console.print(lines[-1])
        console.print(f"{measure.__module__}: {time.perf_counter() - start:.0f} s")
    command, page = ("make bench-large", "benchmarks-large.md") if large else ("make bench", "benchmarks.md")
    with atomic_write(Path("docs") / page, "w") as file:
        file.write(HEAD.format(command=command) + f"Machine: {machine}.\n\n" + "\n".join(lines) + "\n")


main("large" in sys.argv[1:])
