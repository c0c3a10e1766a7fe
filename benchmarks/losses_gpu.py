"""The losses on a GPU: their rate as a share of that of a large matrix product in the same run, and their peak memory.

Also measured: the batch size from which they beat the plain version (TRITON_FROM in losses/fused/tiles.py).
`python -m benchmarks.losses_gpu` on a machine with CUDA takes about a minute, half of it for compilation. With the
argument `tiles` it tries other tile sizes of the kernels (TILES in losses/fused/triton/blocks.py) instead.
"""

import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.measure import compare
from mmts.console import console
from mmts.losses import info_nce, max_margin
from mmts.losses.fused.tiles import triton_takes
from mmts.losses.fused.triton import blocks as triton_blocks
from mmts.losses.fused.triton.blocks import Tile

DEVICE = "cuda"
B, D = 65_536, 512
PRODUCT, PRODUCTS = 8192, 10
"""The matrix product that rates are compared with: its number of rows, columns and inner size, and runs per timing."""
LEAST_SHARE, MOST_BYTES = 0.40, 2e9
SIZES = (1024, 2048, 4096, 8192, 16_384)
OTHER_TILES = {
    torch.bfloat16: (
        Tile(128, 64, 64, 4, 3, 168),
        Tile(64, 128, 64, 4, 3, 168),
        Tile(64, 128, 64, 4, 4),
        Tile(128, 128, 64, 8, 3),
        Tile(64, 256, 64, 8, 3),
    ),
    torch.float32: (
        Tile(64, 64, 32, 4, 2),
        Tile(64, 64, 16, 4, 3),
        Tile(128, 64, 32, 8, 2),
        Tile(64, 128, 32, 8, 2),
        Tile(128, 128, 16, 8, 2),
        Tile(128, 128, 32, 8, 3),
    ),
}

Loss = Callable[..., Tensor]
LOSSES: tuple[tuple[str, Loss, bool], ...] = (
    ("info_nce, a temperature per sample", info_nce, False),
    ("info_nce, a learned temperature per sample", info_nce, True),
    ("max_margin, a margin per sample", max_margin, False),
)


def forward_and_backward(loss: Loss, B: int, dtype: torch.dtype, learned: bool, fused: bool) -> Callable[[], Tensor]:
    """Return a function that computes the loss of a fixed batch and its gradients and waits for the GPU."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    common = torch.randn(B, D, generator=generator, device=DEVICE)
    noise = (torch.randn(B, D, generator=generator, device=DEVICE) for _ in range(2))
    x, y = ((common + side).to(dtype).requires_grad_() for side in noise)
    values = (0.05 + 0.15 * torch.rand(B, generator=generator, device=DEVICE)).requires_grad_(learned)

    def run() -> Tensor:
        x.grad = y.grad = values.grad = None
        result = loss(x, y, values, fused=fused)
        result.backward()
        torch.cuda.synchronize()
        return result.detach()

    return run


def product() -> Callable[[], None]:
    """Return a function that multiplies two large bfloat16 matrices PRODUCTS times and waits for the GPU."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))

    def run() -> None:
        for _ in range(PRODUCTS):
            a @ b
        torch.cuda.synchronize()

    return run


def rate_and_memory(what: str, loss: Loss, learned: bool) -> str:
    """Measure one loss at the full size and return a row; every loss counts as 6 B^2 D operations."""
    run = forward_and_backward(loss, B, torch.bfloat16, learned, fused=True)
    peak = peak_bytes(run)  # before any other run has left gradients
    times = compare(what, "", run, product(), repeats=15)
    rate, fastest = 6.0 * B**2 * D / times.ours, 2.0 * PRODUCT**3 * PRODUCTS / times.plain
    numbers = f"{times.ours * 1e3:.1f} ms | {rate / 1e12:.0f} | {fastest / 1e12:.0f} | {rate / fastest:.2f}"
    met = rate / fastest >= LEAST_SHARE and peak < MOST_BYTES
    return f"| {what} | {numbers} | {peak / 1e9:.2f} GB | {'ok' if met else 'missed'} |"


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the peak memory of a run in addition to its inputs, gradients included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def against_plain() -> Iterator[str]:
    """Compare with the plain version, one row per batch size."""
    for dtype in (torch.bfloat16, torch.float32):
        for what, loss, _ in (LOSSES[0], LOSSES[2]):
            for size in SIZES:
                ours, plain = (forward_and_backward(loss, size, dtype, False, fused) for fused in (True, False))
                torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=0)
                times = compare(what, f"B = {size:,}, D = {D}, {str(dtype).removeprefix('torch.')}", ours, plain, 9)
                both = f"{times.ours * 1e3:.2f} ms | {times.plain * 1e3:.2f} ms"
                yield f"| {what} | {times.setting} | {both} | {times.ratio:.2f} |"


def other_tiles() -> Iterator[str]:
    """Try other tile sizes, after those in use: one row per tile size with the milliseconds of each loss."""
    for dtype, size in ((torch.bfloat16, B), (torch.float32, B // 4)):
        for tile in (None, *OTHER_TILES[dtype]):
            if tile is not None:
                triton_blocks.TILES[dtype] = triton_blocks.LOG_SUM_TILES[dtype] = tile
            medians = []
            for _, loss, learned in LOSSES:
                run = forward_and_backward(loss, size, dtype, learned, fused=True)
                medians.append(f"{compare('', '', run, run, repeats=5).ours * 1e3:.1f}")
            yield f"| {dtype}, B = {size:,} | {tile or 'in use'} | {' | '.join(medians)} |"


def main() -> None:
    """Measure and print."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/losses_gpu.py measures on a GPU, but torch finds none here")
    if not triton_takes(probe := torch.ones(1, 1, device=DEVICE), probe):
        sys.exit("the Triton kernels need Triton, torch 2.8 or newer, and an NVIDIA GPU of 2020 (8.0) or newer")
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    if "tiles" in sys.argv:
        console.print("| setting | tile | " + " | ".join(what for what, _, _ in LOSSES) + " |")
        for row in other_tiles():
            console.print(row)
        return
    console.print(
        f"B = {B:,}, D = {D}, bfloat16, forward and backward; the goal is at least {LEAST_SHARE:.0%} and under 2 GB"
    )
    console.print(
        "| what | time | TFLOP/s | TFLOP/s of a large product | share | peak memory | |\n|---|---|---|---|---|---|---|"
    )
    for what, loss, learned in LOSSES:
        console.print(rate_and_memory(what, loss, learned))
    console.print("| what | setting | Triton | plain | ratio |\n|---|---|---|---|---|")
    for row in against_plain():
        console.print(row)


if __name__ == "__main__":
    main()
