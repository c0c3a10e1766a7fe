"""What the fused losses share: the similarity matrix a tile at a time, and the way back through unit vectors.

A tile is (rows, columns) of s = unit(x) unit(y)^T. Memory is a few tiles, however large the batch.
"""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from mmts.errors import InputError
from mmts.losses.normalize import compute_dtype

TILE = 1024
"""Rows and columns of a tile: 4 MiB in float32, large enough for matrix products at full speed."""

GPU_FUSED_FROM = {torch.bfloat16: 4096, torch.float32: 32_768}
"""Pairs a batch from which Triton is chosen on a GPU: in bfloat16 where it becomes the faster (on an H200, measured by
benchmarks/losses_gpu.py); in float32, where info_nce takes 1.9 times as long, where a (B, B) matrix takes 4 GiB."""

Blocks = tuple[slice, slice]
"""The rows and the columns of a tile; on the diagonal they are equal."""


def tiles(B: int, queries: slice | None = None) -> Iterator[tuple[Blocks, tuple[int, ...]]]:
    """Yield the tiles of a (B, B) matrix, row by row of tiles, and the directions whose queries lie along them.

    0: x to y, with queries down the rows; 1: y to x, along the columns. Where only some samples are `queries`, tiles
    are cut at their bounds, and those without any are left out.

    >>> len(list(tiles(TILE + 1)))
    4
    >>> list(tiles(2, slice(0, 1)))[1:]
    [((slice(0, 1, None), slice(1, 2, None)), (0,)), ((slice(1, 2, None), slice(0, 1, None)), (1,))]
    """
    first, last = (0, B) if queries is None else (queries.start, queries.stop)
    parts = [(0, first), (first, last), (last, B)]
    blocks = [slice(at, min(at + TILE, stop)) for start, stop in parts for at in range(start, stop, TILE)]
    for rows in blocks:
        for columns in blocks:
            directions = tuple(k for k, each in enumerate((rows, columns)) if first <= each.start < last)
            if directions:
                yield (rows, columns), directions


def buffers(like: Tensor, number: int) -> list[Tensor]:
    """Return scratch memory, a tile each, of the dtype and on the device of `like` (B, D)."""
    size = min(TILE, len(like)) ** 2
    return [torch.empty(size, dtype=like.dtype, device=like.device) for _ in range(number)]


def tile_of(buffer: Tensor, blocks: Blocks) -> Tensor:
    """Return as much of a buffer as the tile takes, shaped (rows, columns)."""
    rows, columns = (each.stop - each.start for each in blocks)
    return buffer[: rows * columns].view(rows, columns)


def similarity_tile(x: Tensor, y: Tensor, blocks: Blocks, buffer: Tensor) -> Tensor:
    """Write x_i . y_j of a tile into the buffer and return it: x, y (B, D) unit vectors -> (rows, columns)."""
    rows, columns = blocks
    return torch.mm(x[rows], y[columns].T, out=tile_of(buffer, blocks))


def fill_others(tile: Tensor, positives: Tensor | None, blocks: Blocks, value: float) -> None:
    """Set the pairs of `positives` (B, B), dense or coalesced, to `value` in a tile, all but the diagonal's."""
    if positives is None:
        return
    if positives.is_sparse:
        rows, columns = blocks
        i, j = positives.indices()
        bounds = torch.tensor([rows.start, rows.stop], device=i.device)
        first, last = torch.searchsorted(i.contiguous(), bounds).tolist()
        i, j = i[first:last], j[first:last]
        inside = (j >= columns.start) & (j < columns.stop) & (i != j)
        tile[i[inside] - rows.start, j[inside] - columns.start] = value
        return
    others = positives[blocks]
    if blocks[0] == blocks[1]:
        others = others.clone().fill_diagonal_(False)
    tile.masked_fill_(others, value)


def along(vector: Tensor, axis: int) -> Tensor:
    """Shape a vector to vary down the rows (axis 0) or along the columns (axis 1) of a tile.

    >>> along(torch.zeros(3), 0).shape, along(torch.zeros(3), 1).shape
    (torch.Size([3, 1]), torch.Size([1, 3]))
    """
    return vector[:, None] if axis == 0 else vector[None, :]


def number_of_others(positives: Tensor | None, like: Tensor) -> Tensor:
    """Return how many other positives each row and each column has: (2, B) int64, without the diagonal's.

    Of dense ones by tiles: a sum over bools makes an int64 of each first. `like` (B, D) says how many and where.

    >>> number_of_others(torch.tensor([[True, True], [False, False]]), torch.eye(2))
    tensor([[1, 0],
            [0, 1]])
    """
    counts = torch.zeros(2, len(like), dtype=torch.int64, device=like.device)
    if positives is None:
        return counts
    if positives.is_sparse:
        i, j = positives.indices()
        others = i != j
        return torch.stack([each[others].bincount(minlength=len(like)) for each in (i, j)])
    for (rows, columns), _ in tiles(len(like)):
        tile = positives[rows, columns]
        counts[0, rows] += tile.sum(dim=1)
        counts[1, columns] += tile.sum(dim=0)
    return counts - positives.diagonal().long()


def leave_out(tile: Tensor, positives: Tensor | None, blocks: Blocks, value: float) -> None:
    """Set what is no negative, own pairs and other positives, to a value in a tile."""
    fill_others(tile, positives, blocks, value)
    if blocks[0] == blocks[1]:
        tile.diagonal().fill_(value)


def add_products_(
    of_x: Tensor | None, of_y: Tensor | None, parts: list[Tensor], unit_x: Tensor, unit_y: Tensor, blocks: Blocks
) -> None:
    """Add to dL/d unit(x) and dL/d unit(y) (B, D), where needed, what a tile of dL/ds gives, its directions in parts.

    The parts are used up.
    """
    both = parts[0].add_(parts[1]) if len(parts) == 2 else parts[0]
    if of_x is not None:
        of_x[blocks[0]].addmm_(both, unit_y[blocks[1]])
    if of_y is not None:
        of_y[blocks[1]].addmm_(both.T, unit_x[blocks[0]])


def through_unit_(gradient: Tensor, unit_x: Tensor, largest: Tensor, length: Tensor) -> Tensor:
    """Turn dL/d unit(x) into dL/dx in place: (g - (g . u) u) / ||x||, all (B, D), the length's factors (B, 1)."""
    dots = torch.linalg.vecdot(gradient, unit_x)[:, None]
    return gradient.addcmul_(unit_x, dots, value=-1.0).div_(largest).div_(length)


def refuse_double_backward(name: str) -> None:
    """Raise InputError in a backward pass that is itself to be differentiated (create_graph=True)."""
    if torch.is_grad_enabled():
        raise InputError(
            f"the fused {name} has first derivatives only, and create_graph=True asks for more; give fused=False"
        )


def refuse_transforms(name: str, *inputs: Tensor) -> None:
    """Raise InputError under torch.func or forward mode, before a fused loss that has only a backward pass."""
    if torch.compiler.is_compiling():  # which does not trace these questions, nor runs under these transforms
        return
    is_dual = any(forward_ad.unpack_dual(each).tangent is not None for each in inputs)  # type: ignore[no-untyped-call]
    if is_dual or any(map(is_functorch_wrapped_tensor, inputs)):
        what = "forward mode" if is_dual else "torch.func"
        raise InputError(f"the fused {name} has derivatives in a backward pass only, not in {what}; give fused=False")


def choose_fused(
    name: str, fused: bool | None, x: Tensor, fused_from: int, cannot: dict[str, bool], on_gpu: bool
) -> bool:
    """Decide between fused and plain: as `fused` says; None: fused on the CPU from `fused_from` pairs, if it can.

    `cannot` says which options only the plain version does, and whether each was asked for. InputError names the first
    that was, where fused=True. `on_gpu`: Triton takes the batch, so None is fused from GPU_FUSED_FROM pairs.

    >>> choose_fused("info_nce", True, torch.eye(2), 1024, {"multi_positive": True}, on_gpu=False)
    Traceback (most recent call last):
    mmts.errors.InputError: the fused info_nce cannot do multi_positive; leave fused out, or give fused=False
    """
    asked = [option for option, given in cannot.items() if given]
    if fused and asked:
        raise InputError(f"the fused {name} cannot do {asked[0]}; leave fused out, or give fused=False")
    if fused is None:
        on_gpu_from = GPU_FUSED_FROM.get(x.dtype, GPU_FUSED_FROM[torch.float32])
        pays = len(x) >= fused_from if x.device.type == "cpu" else on_gpu and len(x) >= on_gpu_from
        return pays and not asked
    return fused


def triton_takes(x: Tensor, y: Tensor) -> bool:
    """Whether the Triton kernels can take these embeddings: on an NVIDIA GPU, with Triton installed, not in float64.

    >>> triton_takes(torch.eye(2), torch.eye(2))  # on the CPU
    False
    """
    return x.is_cuda and compute_dtype(x, y) == torch.float32 and _triton_runs_on(x.device)


@cache
def _triton_runs_on(device: torch.device) -> bool:
    """Whether the device has bfloat16 on tensor cores, and Triton and a torch that is new enough for it are there."""
    # The products behind dL/ds take bfloat16 and give float32, which torch has from 2.8 on.
    widens = "dtype_out" in torch.ops.aten.addmm.overloads()  # type: ignore[no-untyped-call]
    nvidia = torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)
    return widens and nvidia and find_spec("triton") is not None
