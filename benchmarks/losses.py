"""The losses in tiles against the textbook and published forms, forward and backward: time, memory, from which batch on
tiles pay (TILES_FROM in losses/fused/tiles.py), and what one of eight processes does.

`python -m benchmarks.losses` runs this part alone; give a factor such as .125 to try it on smaller batches.
"""

import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks.loss_forms import forward_and_backward
from benchmarks.measure import Comparison, compare
from mmts.console import console

D = 512
SIZES = (256, 512, 1024, 2048, 4096)


def run(factor: float = 1.0) -> Iterator[Comparison]:
    """Compare; every batch size is multiplied by `factor`."""
    for ours, plain, B in (
        ("info_nce, fused", "info_nce, textbook", 8192),
        ("info_nce, fused", "info_nce, one number", 8192),
        ("max_margin, fused", "max_margin, index lists", 4096),
        ("contrast, fused", "contrast, plain", 4096),
    ):
        yield from time_and_memory(ours, plain, int(B * factor))
    for loss in ("info_nce", "max_margin", "contrast"):
        yield time(f"{loss}, an eighth of the queries", f"{loss}, fused", int(8192 * factor), 3)
    for loss in ("info_nce", "max_margin", "contrast"):
        for B in SIZES:
            yield time(f"{loss}, fused", f"{loss}, plain", max(1, int(B * factor)), 5)
    for loss in ("info_nce", "max_margin"):
        B = int(32768 * factor)
        what, matrix = f"{loss}, fused, beside one matrix of all pairs", B * B * 4 / 2**20
        yield Comparison(what, setting(B) + ", peak memory", peak_in_fresh_process(f"{loss}, fused", B), matrix, "MiB")


def time_and_memory(ours: str, plain: str, B: int) -> Iterator[Comparison]:
    """Compare two forms that give the same loss, unless one takes one number for all."""
    losses = [forward_and_backward(name, B, D)() for name in (ours, plain)]
    if "one number" not in plain:
        torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    yield time(ours, plain, B, 3, warm=True)
    peaks = [peak_in_fresh_process(name, B) for name in (ours, plain)]
    yield Comparison(f"{ours}, against {plain.split(', ')[1]}", setting(B) + ", peak memory", *peaks, "MiB")


def time(ours: str, plain: str, B: int, repeats: int, warm: bool = False) -> Comparison:
    """Compare the time of two forms of a loss."""
    ways = (forward_and_backward(name, B, D) for name in (ours, plain))
    return compare(f"{ours}, against {plain.split(', ')[1]}", setting(B), *ways, repeats, warm=warm)


def setting(B: int) -> str:
    """Say how it was measured."""
    return f"B = {B:,}, D = {D}, float32, forward and backward"


def peak_in_fresh_process(name: str, B: int) -> float:
    """Return the peak memory of a form, in MiB beside its inputs, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.loss_forms", name, str(B), str(D)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    for result in run(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0):
        console.print(result.row())
