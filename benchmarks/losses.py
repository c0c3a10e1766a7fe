"""Time and memory of the losses in tiles, forward and backward, compared with textbook and published forms.

Also measured: the batch size from which tiles pay (FUSED_FROM in losses/info_nce.py, max_margin.py and contrast.py),
and the share of one of eight processes. `python -m benchmarks.losses` runs this part alone; an argument such as .125
multiplies every batch size, for a quick try.
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
LOSSES = ("info_nce", "max_margin", "contrast")


def run(factor: float = 1.0) -> Iterator[Comparison]:
    """Compare; every batch size is multiplied by `factor`."""
    for loss, plain, B in (
        ("info_nce", "textbook", 8192),
        ("info_nce", "one temperature for all", 8192),
        ("max_margin", "index lists", 4096),
        ("contrast", "plain", 4096),
    ):
        yield from time_and_memory(loss, plain, int(B * factor))
    for loss in LOSSES:
        yield time(loss, "an eighth of the queries", "all queries", int(8192 * factor), 3)
    for loss in LOSSES:
        for B in SIZES:
            yield time(loss, "fused", "plain", max(1, int(B * factor)), 5)
    for loss in ("info_nce", "max_margin"):
        B = int(32768 * factor)
        peak, matrix = peak_in_fresh_process(f"{loss}, fused", B), B * B * 4 / 2**20
        yield Comparison(f"{loss}, fused, against one (B, B) matrix", setting(B) + ", peak memory", peak, matrix, "MiB")


def time_and_memory(loss: str, plain: str, B: int) -> Iterator[Comparison]:
    """Compare the fused form with another, after a check that both give the same loss."""
    values = [forward_and_backward(f"{loss}, {form}", B, D)() for form in ("fused", plain)]
    if plain != "one temperature for all":  # which is another loss
        torch.testing.assert_close(*values, rtol=1e-5, atol=0)
    yield time(loss, "fused", plain, B, 3, warm=True)
    peaks = [peak_in_fresh_process(f"{loss}, {form}", B) for form in ("fused", plain)]
    yield Comparison(f"{loss}, fused, against {plain}", setting(B) + ", peak memory", *peaks, "MiB")


def time(loss: str, ours: str, plain: str, B: int, repeats: int, warm: bool = False) -> Comparison:
    """Compare the time of two forms of a loss."""
    run_ours, run_plain = (forward_and_backward(f"{loss}, {form}", B, D) for form in (ours, plain))
    return compare(f"{loss}, {ours}, against {plain}", setting(B), run_ours, run_plain, repeats, warm=warm)


def setting(B: int) -> str:
    """Say how it was measured."""
    return f"B = {B:,}, D = {D}, float32, forward and backward"


def peak_in_fresh_process(name: str, B: int) -> float:
    """Return the peak memory of a form, in MiB in addition to its inputs, in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.loss_forms", name, str(B), str(D)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    for result in run(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0):
        console.print(result.row())
