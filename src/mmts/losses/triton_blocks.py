"""What the losses on a GPU share: embeddings as kernels read them, blocks of rows, and the products behind dL/ds."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK_BYTES = 2**29
"""A block of rows of dL/ds takes at most this much: at B = 65,536 in bfloat16 4,096 rows, enough to fill a GPU."""


class Tile(NamedTuple):
    """How a kernel is cut: a tile's samples of x and of y, components at a time; warps and stages are Triton's."""

    rows: int
    columns: int
    width: int
    warps: int
    stages: int


TILES = {torch.bfloat16: Tile(128, 128, 64, 8, 3), torch.float32: Tile(64, 64, 32, 4, 2)}
"""Not yet timed on a GPU; benchmarks/losses_gpu.py tries others."""


class Side(NamedTuple):
    """One side's embeddings as the kernels read them: unit(x) = vectors * inverse.

    Vectors are x times a power of two, hence exact in bfloat16 too, where unit vectors would be rounded: the cosine of
    bfloat16 embeddings is as exact as in float32, at tensor cores' speed.
    """

    vectors: Tensor  # (B, D)
    inverse: Tensor  # (B,) float32
    power: Tensor  # (B,) float32

    def units(self) -> Tensor:
        """Return the unit vectors, (B, D) in the vectors' dtype."""
        return (self.vectors * self.inverse[:, None]).to(self.vectors.dtype)

    def through_length_(self, gradient: Tensor) -> Tensor:
        """Turn dL/d unit(x) (B, D) float32 into dL/dx in place: (g - (g . u) u) / ||x||."""
        dots: Tensor = torch.linalg.vecdot(gradient, self.vectors.float()) * self.inverse**2
        gradient.addcmul_(self.vectors, dots[:, None], value=-1.0)
        return gradient.mul_((self.inverse * self.power)[:, None])


def side(x: Tensor, dtype: torch.dtype) -> Side:
    """Prepare embeddings (B, D) for the kernels in their dtype; a vector of zeros has the length 1, as in `unit`.

    >>> side(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.float32).units()
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    x = x.detach().to(dtype)
    largest = torch.maximum(x.amax(dim=1), -x.amin(dim=1)).float()
    power = torch.where(largest > 0, torch.frexp(largest).mantissa / largest, 1.0).clamp_max(2.0**126)
    vectors = (x * power[:, None]).to(dtype).contiguous()
    length = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float32)
    return Side(vectors, torch.where(length > 0, 1.0 / length, 1.0), power)


def kernel_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the dtype that the kernels multiply in: bfloat16 where both sides are, else float32."""
    return torch.bfloat16 if x.dtype == y.dtype == torch.bfloat16 else torch.float32


def own_similarity(x: Side, y: Side) -> Tensor:
    """Return s_ii, (B,) float32."""
    dots: Tensor = torch.linalg.vecdot(x.vectors.float(), y.vectors.float())
    return dots * x.inverse * y.inverse


class Blocks:
    """The matrix s of two sides, (B, B), by blocks of rows: each a whole number of tiles, but for the last."""

    def __init__(self, x: Side, y: Side, positives: Tensor | None) -> None:
        self.x, self.y = x, y
        self.B, self.D = x.vectors.shape
        self.positives = None if positives is None else positives.contiguous().view(torch.uint8)
        self.tile = TILES[x.vectors.dtype]

    def __iter__(self) -> Iterator[slice]:
        fit = BLOCK_BYTES // (self.B * self.x.vectors.itemsize)
        step = max(1, fit // self.tile.rows) * self.tile.rows
        for first in range(0, self.B, step):
            yield slice(first, min(first + step, self.B))

    def grid(self, rows: slice) -> tuple[int, int]:
        """Return how many tiles a block has, down and across."""
        return -((rows.start - rows.stop) // self.tile.rows), -(-self.B // self.tile.columns)

    def row_sums(self, rows: slice) -> Tensor:
        """Return room for what each tile adds to a block's rows, (tiles across, rows)."""
        return self.x.inverse.new_empty(self.grid(rows)[1], rows.stop - rows.start)

    def column_sums(self, rows: slice) -> Tensor:
        """Return room for what each tile of a block adds to its columns, (tiles down, B)."""
        return self.x.inverse.new_empty(self.grid(rows)[0], self.B)

    def launch(self, kernel: str, rows: slice, **arguments: Any) -> None:
        """Run a kernel of triton_kernels over the tiles of a block."""
        from mmts.losses import triton_kernels  # needs Triton, which is there only where it is of use

        x, y, tile = self.x, self.y, self.tile
        with torch.cuda.device_of(x.vectors):  # type: ignore[no-untyped-call]
            getattr(triton_kernels, kernel)[self.grid(rows)](
                x=x.vectors,
                y=y.vectors,
                inverse_x=x.inverse,
                inverse_y=y.inverse,
                positives=x.vectors if self.positives is None else self.positives,
                HAS_POSITIVES=self.positives is not None,
                first=rows.start,
                last=rows.stop,
                B=self.B,
                D=self.D,
                PRECISION=_precision(),
                ROWS=tile.rows,
                COLUMNS=tile.columns,
                WIDTH=tile.width,
                num_warps=tile.warps,
                num_stages=tile.stages,
                **arguments,
            )


class UnitGradients:
    """dL/d unit(x) and dL/d unit(y), (B, D) float32, None where not needed, gathered from blocks of dL/ds."""

    def __init__(self, blocks: Blocks, needs_x: bool, needs_y: bool) -> None:
        x, y = blocks.x, blocks.y
        self.of_x = torch.zeros_like(x.vectors, dtype=torch.float32) if needs_x else None
        self.of_y = torch.zeros_like(y.vectors, dtype=torch.float32) if needs_y else None
        self.unit_x, self.unit_y = x.units(), y.units()
        self.slopes = x.vectors.new_empty(next(iter(blocks)).stop, blocks.B)

    def add(self, rows: slice) -> None:
        """Add the products with the block of dL/ds that stands in `slopes` (rows, B)."""
        slopes = self.slopes[: rows.stop - rows.start]
        if self.of_x is not None:
            self.of_x[rows] = _product(slopes, self.unit_y)
        if self.of_y is not None:
            self.of_y += _product(slopes.T, self.unit_x[rows])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b in float32, whatever the dtype of both."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _precision() -> str:
    """Return how tensor cores may round float32: as torch's own switch says, which is off unless someone sets it."""
    return "tf32" if getattr(torch.backends.cuda.matmul, "fp32_precision", "ieee") == "tf32" else "ieee"
