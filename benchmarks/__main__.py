"""Run every benchmark, print the table and write docs/benchmarks.md; with `large` the one that takes long."""

import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks import (
    clustering,
    decoding,
    graded_metrics,
    images,
    judging,
    losses,
    micro_batch,
    start_up,
    towers,
    training,
)
from mmts.console import console
from mmts.files import atomic_write

HEAD = """# Benchmarks

Written by `{command}`. Each row compares with a plain version of the same thing in the same run: a ratio below 1 is
faster or smaller. Seconds are medians of runs taken in turns; peak memory is what a fresh process takes beside its
inputs.

"""


PARTS = (losses, judging, graded_metrics, images, decoding, towers, training, micro_batch, clustering, start_up)


def main(large: bool) -> None:
    """Measure, print, write."""
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
