"""Run every benchmark, print the table and write docs/benchmarks.md."""

import platform
from pathlib import Path

import torch

from benchmarks import decoding, graded_metrics, judging, losses, micro_batch
from mmts.console import console
from mmts.files import atomic_write

HEAD = """# Benchmarks

Written by `make bench`. Each row compares with a plain version of the same thing in the same run: a ratio below 1 is
faster or smaller. Seconds are medians of runs taken in turns; peak memory is what a fresh process takes beside its
inputs.

"""


def main() -> None:
    """Measure, print, write."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}"
    lines = ["| what | setting | mmts | plain | ratio |", "|---|---|---|---|---|"]
    console.print(f"measuring on {machine}")
    for module in (losses, judging, decoding, graded_metrics, micro_batch):
        for result in module.run():
            lines.append(result.row())
            console.print(lines[-1])
    with atomic_write(Path("docs/benchmarks.md"), "w") as file:
        file.write(HEAD + f"Machine: {machine}.\n\n" + "\n".join(lines) + "\n")


main()
