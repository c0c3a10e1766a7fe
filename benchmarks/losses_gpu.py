"""The losses on a GPU: their rate as a share of a large matrix product's in the same run, their peak memory, and from
which batch on they beat the plain version (GPU_FUSED_FROM in losses/tiles.py).

`python -m benchmarks.losses_gpu` on a machine with CUDA takes a few minutes, most of them for compiling; with the word
`tiles` behind it tries other cuts of the kernels (TILES in losses/triton_blocks.py) instead. Not yet run on a GPU.
"""

import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.measure import compare
from mmts.console import console
from mmts.losses import info_nce, max_margin, triton_blocks
from mmts.losses.tiles import triton_takes
from mmts.losses.triton_blocks import Tile

DEVICE = "cuda"
B, D = 65_536, 512
PRODUCT = 8192
"""Rows, columns and inner size of the matrix product that rates are compared with."""
LEAST_SHARE, MOST_BYTES = 0.40, 2e9
SIZES = (1024, 2048, 4096, 8192, 16_384)
OTHER_TILES = (Tile(128, 128, 64, 8, 4), Tile(128, 128, 32, 8, 4), Tile(128, 64, 64, 4, 3), Tile(128, 256, 64, 8, 3))

Loss = Callable[..., Tensor]
LOSSES: tuple[tuple[str, Loss, bool], ...] = (
    ("info_nce, a temperature a sample", info_nce, False),
    ("info_nce, a learned temperature a sample", info_nce, True),
    ("max_margin, a margin a sample", max_margin, False),
)


def forward_and_backward(loss: Loss, B: int, dtype: torch.dtype, learned: bool, fused: bool) -> Callable[[], Tensor]:
    """Return what takes the loss of a fixed batch and its gradients, waits for the GPU, and returns the loss."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    common = torch.randn(B, D, generator=generator, device=DEVICE)
    sides = (common + torch.randn(B, D, generator=generator, device=DEVICE) for _ in range(2))
    x, y = (each.to(dtype).requires_grad_() for each in sides)
    values = (0.05 + 0.15 * torch.rand(B, generator=generator, device=DEVICE)).requires_grad_(learned)

    def run() -> Tensor:
        x.grad = y.grad = values.grad = None
        found = loss(x, y, values, fused=fused)
        found.backward()
        torch.cuda.synchronize()
        return found.detach()

    return run


def product() -> Callable[[], None]:
    """Return what multiplies two large matrices in bfloat16 and waits for the GPU."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

    def run() -> None:
        a @ b
        torch.cuda.synchronize()

    return run


def rate_and_memory(what: str, loss: Loss, learned: bool) -> str:
    """Measure one loss at the full size, and return a row: operations counted as 6 B^2 D, whatever is done."""
    run = forward_and_backward(loss, B, torch.bfloat16, learned, fused=True)
    peak = peak_bytes(run)  # first, while there are no gradients of an earlier run
    times = compare(what, "", run, product(), repeats=15)
    rate, fastest = 6.0 * B**2 * D / times.ours, 2.0 * PRODUCT**3 / times.plain
    numbers = f"{times.ours * 1e3:.1f} ms | {rate / 1e12:.0f} | {fastest / 1e12:.0f} | {rate / fastest:.2f}"
    met = rate / fastest >= LEAST_SHARE and peak < MOST_BYTES
    return f"| {what} | {numbers} | {peak / 1e9:.2f} GB | {'ok' if met else 'missed'} |"


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the peak of memory that a run takes beside its inputs, gradients included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def against_plain() -> Iterator[str]:
    """Compare with the plain version over batch sizes: a row each."""
    for dtype in (torch.bfloat16, torch.float32):
        for what, loss, _ in (LOSSES[0], LOSSES[2]):
            for size in SIZES:
                ours, plain = (forward_and_backward(loss, size, dtype, False, fused) for fused in (True, False))
                torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=0)
                times = compare(what, f"B = {size:,}, D = {D}, {str(dtype).removeprefix('torch.')}", ours, plain, 9)
                both = f"{times.ours * 1e3:.2f} ms | {times.plain * 1e3:.2f} ms"
                yield f"| {what} | {times.setting} | {both} | {times.ratio:.2f} |"


def other_tiles() -> Iterator[str]:
    """Try other cuts of the kernels in bfloat16, the one in use first: milliseconds of each loss, a row a cut."""
    for tile in (triton_blocks.TILES[torch.bfloat16], *OTHER_TILES):
        triton_blocks.TILES[torch.bfloat16] = tile
        medians = []
        for _, loss, learned in LOSSES:
            run = forward_and_backward(loss, B, torch.bfloat16, learned, fused=True)
            times = compare("", "", run, product(), repeats=7)
            medians.append(f"{times.ours * 1e3:.1f}")
        yield f"| {tile} | {' | '.join(medians)} |"


def main() -> None:
    """Measure and print."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/losses_gpu.py measures on a GPU, and torch finds none here")
    if not triton_takes(probe := torch.ones(1, 1, device=DEVICE), probe):
        sys.exit("the Triton kernels need Triton, torch 2.8 or newer, and an NVIDIA GPU of 2020 (8.0) or newer")
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    if "tiles" in sys.argv:
        console.print("| tile | " + " | ".join(what for what, _, _ in LOSSES) + " |")
        for row in other_tiles():
            console.print(row)
        return
    console.print(
        f"B = {B:,}, D = {D}, bfloat16, forward and backward; at least {LEAST_SHARE:.0%} and under 2 GB wanted"
    )
    console.print(
        "| what | time | TFLOP/s | a large product's | share | peak memory | |\n|---|---|---|---|---|---|---|"
    )
    for what, loss, learned in LOSSES:
        console.print(rate_and_memory(what, loss, learned))
    console.print("| what | setting | Triton | plain | ratio |\n|---|---|---|---|---|")
    for row in against_plain():
        console.print(row)


if __name__ == "__main__":
    main()
