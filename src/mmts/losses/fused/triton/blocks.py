"""What the losses on a GPU share: embeddings as the kernels read them, blocks of rows, and the way from dL/ds to dL/dx.

The kernels' file is imported where one is launched, since it needs Triton, which not every machine has.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK_BYTES = 2**29
"""The most memory of a block of rows of dL/ds: at B = 65,536 in bfloat16 4,096 rows, enough to fill a GPU."""


class Tile(NamedTuple):
    """How a kernel is cut: a tile's samples of x and of y, components per step; then Triton's own options."""

    rows: int
    columns: int
    width: int
    warps: int
    stages: int
    registers: int | None = None


TILES = {torch.bfloat16: Tile(64, 128, 64, 4, 3, 168), torch.float32: Tile(64, 64, 16, 4, 3)}
LOG_SUM_TILES = TILES | {torch.bfloat16: Tile(128, 64, 64, 4, 3, 168)}
"""The fastest on an H200 (benchmarks/losses_gpu.py); in bfloat16 three fit on a multiprocessor at once."""


class Side(NamedTuple):
    """One side's embeddings: unit(x) = vectors * inverse.

    Vectors are x times a power of two, which is exact in bfloat16 too, while unit vectors would be rounded: the cosines
    of bfloat16 embeddings are as exact as in float32, at the speed of tensor cores. Zeros pad each vector to a multiple
    of 16 bytes.
    """

    vectors: Tensor  # (B, D padded)
    inverse: Tensor  # (B,) float32
    power: Tensor  # (B,) float32
    units: Tensor  # (B, D padded), in the vectors' dtype
    D: int

    def through_lengths(self, gradient: Tensor) -> Tensor:
        """Turn g = dL/d unit(x) (B, D padded) into dL/dx = (g - (g . u) u) / ||x||, (B, D), float32 both."""
        result = gradient.new_empty(len(gradient), self.D)
        _run("through_lengths", result, gradient, self.vectors, self.inverse, self.power)
        return result


def side(x: Tensor, dtype: torch.dtype) -> Side:
    """Prepare embeddings (B, D) for the kernels in `dtype`; a vector of zeros has the length 1, as in `unit`."""
    x = x.detach().to(dtype).contiguous()
    step = 16 // x.itemsize
    vectors, units = x.new_empty(2, len(x), -(-x.shape[1] // step) * step)
    inverse, power = torch.empty(2, len(x), dtype=torch.float32, device=x.device)
    _run("prepare_rows", x, vectors, units, inverse, power)
    return Side(vectors, inverse, power, units, x.shape[1])


def _run(kernel: str, rows: Tensor, padded: Tensor, *others: Tensor) -> None:
    """Run a kernel for each of `rows` (B, D); `padded` has the padded width."""
    from mmts.losses.fused.triton import kernels

    width = padded.shape[1]
    with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
        getattr(kernels, kernel)[(len(rows),)](
            rows, padded, *others, D=rows.shape[1], D_PADDED=width, WIDTH=1 << (width - 1).bit_length()
        )


class Blocks:
    """The matrix s of two sides, (B, B), by blocks of rows: whole numbers of tiles, except for the last block."""

    def __init__(self, x: Side, y: Side, positives: Tensor | None, tiles: Mapping[torch.dtype, Tile] = TILES) -> None:
        self.x, self.y = x, y
        self.B, self.D = x.vectors.shape
        if positives is not None and positives.is_sparse:
            positives = positives.to_dense()
        self.positives = None if positives is None else positives.contiguous().view(torch.uint8)
        self.tile = tiles[x.vectors.dtype]

    def own_similarity(self) -> Tensor:
        """Return s_ii, (B,) float32."""
        dots = torch.empty_like(self.x.inverse)
        _run("own_products", self.x.vectors, self.y.vectors, dots)
        return dots * self.x.inverse * self.y.inverse

    def with_slopes(self, queries: slice = slice(None)) -> Iterator[slice]:
        """Yield blocks of the queries whose dL/ds takes at most BLOCK_BYTES."""
        return self._cut(queries, self.B * self.x.vectors.itemsize)

    def with_sums(self, queries: slice) -> Iterator[slice]:
        """Yield blocks whose sums of rows and columns take half of BLOCK_BYTES; adding these up takes as much again."""
        return self._cut(queries, 2 * 4 * (-(-self.B // self.tile.columns) + -(-self.B // self.tile.rows)))

    def _cut(self, queries: slice, row_bytes: int) -> Iterator[slice]:
        start, stop, _ = queries.indices(self.B)
        step = max(1, BLOCK_BYTES // row_bytes // self.tile.rows) * self.tile.rows
        for first in range(start, stop, step):
            yield slice(first, min(first + step, stop))

    def row_sums(self, rows: slice) -> Tensor:
        """Return memory for the sums that each tile adds to a block's rows, (tiles across, rows)."""
        return self.x.inverse.new_empty(-(-self.B // self.tile.columns), rows.stop - rows.start)

    def launch(self, kernel: str, rows: slice, **arguments: Any) -> tuple[Tensor, Tensor]:
        """Run a kernel over the tiles of a block; return each tile's sums, (tiles across, rows) and (tiles down, B)."""
        from mmts.losses.fused.triton import kernels

        x, y, tile = self.x, self.y, self.tile
        by_tiles = has_copy_engine(x.vectors.device)
        rounds = getattr(torch.backends.cuda.matmul, "fp32_precision", "ieee") == "tf32"  # torch's own switch
        of_rows = self.row_sums(rows)
        of_columns = x.inverse.new_empty(-((rows.start - rows.stop) // tile.rows), self.B)
        with torch.cuda.device_of(x.vectors):  # type: ignore[no-untyped-call]
            getattr(kernels, kernel)[(len(of_columns) * len(of_rows),)](
                x=self._by_tiles(x.vectors, tile.rows) if by_tiles else x.vectors,
                y=self._by_tiles(y.vectors, tile.columns) if by_tiles else y.vectors,
                BY_TILES=by_tiles,
                positives=x.vectors if self.positives is None else self.positives,
                HAS_POSITIVES=self.positives is not None,
                of_rows=of_rows,
                of_columns=of_columns,
                first=rows.start,
                last=rows.stop,
                B=self.B,
                D=self.D,
                PRECISION="tf32" if rounds else "ieee",
                ROWS=tile.rows,
                COLUMNS=tile.columns,
                WIDTH=tile.width,
                num_warps=tile.warps,
                num_stages=tile.stages,
                maxnreg=tile.registers,
                **arguments,
            )
        return of_rows, of_columns

    def _by_tiles(self, vectors: Tensor, height: int) -> Any:
        """Return vectors as the GPU's copy engine reads them."""
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor.from_tensor(vectors, [height, self.tile.width])


class UnitGradients:
    """dL/d unit(x) and dL/d unit(y), (B, D) float32, or None where not needed, summed over blocks of dL/ds."""

    def __init__(self, blocks: Blocks, needs_x: bool, needs_y: bool, queries: slice = slice(None)) -> None:
        x, y = blocks.x, blocks.y
        self.grad_x = torch.zeros_like(x.vectors, dtype=torch.float32) if needs_x else None
        self.grad_y = torch.zeros_like(y.vectors, dtype=torch.float32) if needs_y else None
        self.unit_x, self.unit_y = x.units, y.units
        first = next(blocks.with_slopes(queries))  # the largest block
        self.slopes = x.vectors.new_empty(first.stop - first.start, blocks.B)

    def add(self, rows: slice) -> None:
        """Add the products with the block of dL/ds in `slopes` (rows, B)."""
        slopes = self.slopes[: rows.stop - rows.start]
        if self.grad_x is not None:
            _add_product_(self.grad_x[rows], slopes, self.unit_y)
        if self.grad_y is not None:
            _add_product_(self.grad_y, slopes.T, self.unit_x[rows])


def _add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b to a total in float32, whatever the dtype of both."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(a.float(), b.float())


@cache
def has_copy_engine(device: torch.device) -> bool:
    """Whether the GPU has an engine that copies tiles (capability 9.0 and newer)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
