"""What the losses in tiles share: the choice of tiles, and the similarity matrix one tile at a time.

A tile is (rows, columns) of s = unit(x) unit(y)^T. The memory is a few tiles, however large the batch.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import Function, forward_ad

from mmts.errors import InputError
from mmts.losses.normalize import compute_dtype, unit_and_length

TILE = 1024
"""Rows and columns of a tile: 4 MiB in float32, large enough for matrix products at full speed."""

TILES_FROM = {"info_nce": 1024, "decoupled_info_nce": 1024, "max_margin": 256, "contrast": 256}
"""Pairs per batch from which each loss is faster in tiles on a CPU (measured by benchmarks/losses.py)."""

TRITON_FROM = {torch.bfloat16: 4096, torch.float32: 32_768}
"""Pairs per batch from which a GPU runs Triton, by the dtype of the products: in bfloat16 from where it is faster (on
an H200, measured by benchmarks/losses_gpu.py); in float32, where info_nce takes 1.9 times as long, from where a (B, B)
matrix takes 4 GiB."""

Form: TypeAlias = Literal["plain", "tiles"] | torch.dtype
"""How a loss is computed: plainly, in tiles by torch, or in tiles by Triton with products in this dtype."""

Blocks = tuple[slice, slice]
"""The rows and the columns of a tile; on the diagonal they are equal."""

AXES = {"row": ((0, 0), (1, 1)), "candidate": ((0, 1), (1, 0)), "media": ((0, 0), (1, 0))}
"""For x to y and y to x: the axis of a tile that the queries lie along, and the axis whose temperature divides."""


def choose_form(
    name: str,
    fused: bool | None,
    x: Tensor,
    y: Tensor,
    value: Tensor,
    plain_only: Mapping[str, bool],
    kernels: bool = True,
) -> Form:
    """Decide how the loss `name` is computed. Call it before autocast is turned off: it tells the run's precision.

    fused: True: in tiles; False: plainly; None: the faster of the two, by `faster_in_tiles`. plain_only: options that
    only the plain version has, and whether each is used. kernels: whether Triton has the loss with these options.
    InputError if fused is True and cannot be.

    >>> choose_form("info_nce", True, torch.eye(2), torch.eye(2), torch.ones(2), {"relevance": True})
    Traceback (most recent call last):
    mmts.errors.InputError: the fused info_nce cannot do relevance; leave fused out, or give fused=False
    """
    used = [option for option, is_used in plain_only.items() if is_used]
    if fused and used:
        raise InputError(f"the fused {name} cannot do {used[0]}; leave fused out, or give fused=False")
    triton = product_dtype(x, y) if kernels and triton_takes(x, y) else None
    if fused is None:
        fused = not used and faster_in_tiles(name, len(x), x.device.type, triton)
    if not fused:
        return "plain"
    _refuse_transforms(name, x, y, value)
    return "tiles" if triton is None else triton


def faster_in_tiles(name: str, B: int, device: str, triton: torch.dtype | None) -> bool:
    """Whether tiles are faster than the plain version; `triton` is the dtype of its products, None without Triton.

    >>> [faster_in_tiles("info_nce", 4096, "cuda", dtype) for dtype in (torch.bfloat16, torch.float32, None)]
    [True, False, False]
    """
    if device == "cpu":
        return name in TILES_FROM and TILES_FROM[name] <= B
    return triton is not None and TRITON_FROM[triton] <= B


def product_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the dtype of Triton's products: bfloat16 if both sides are, or under autocast to it, else float32.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     product_dtype(torch.eye(2), torch.eye(2))
    torch.bfloat16
    """
    device = x.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    return torch.bfloat16 if autocast or x.dtype == y.dtype == torch.bfloat16 else torch.float32


def triton_takes(x: Tensor, y: Tensor) -> bool:
    """Whether the Triton kernels can take these embeddings: on an NVIDIA GPU, with Triton installed, not in float64.

    >>> triton_takes(torch.eye(2), torch.eye(2))  # on the CPU
    False
    """
    return x.is_cuda and compute_dtype(x, y) == torch.float32 and _triton_runs_on(x.device)


@cache
def _triton_runs_on(device: torch.device) -> bool:
    """Whether the GPU has bfloat16 on tensor cores, Triton is installed, and torch is new enough for it."""
    # The products behind dL/ds take bfloat16 and give float32, which torch has from 2.8 on.
    widens = "dtype_out" in torch.ops.aten.addmm.overloads()  # type: ignore[no-untyped-call]
    nvidia = torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)
    return widens and nvidia and find_spec("triton") is not None


def _refuse_transforms(name: str, *inputs: Tensor) -> None:
    """Raise InputError under torch.func or forward mode: a fused loss has only a backward pass."""
    if torch.compiler.is_compiling():  # which cannot trace these questions, and does not run under these transforms
        return
    is_dual = any(forward_ad.unpack_dual(each).tangent is not None for each in inputs)  # type: ignore[no-untyped-call]
    if is_dual or any(map(is_functorch_wrapped_tensor, inputs)):
        what = "forward mode" if is_dual else "torch.func"
        raise InputError(f"the fused {name} has derivatives in a backward pass only, not in {what}; give fused=False")


def refuse_double_backward(subject: str, way_out: str = "; give fused=False") -> None:
    """Raise InputError in a backward pass that is itself to be differentiated (create_graph=True)."""
    if torch.is_grad_enabled():
        raise InputError(f"{subject} has first derivatives only, and create_graph=True asks for more{way_out}")


class KnownGradients(Function):
    """A loss whose gradients were computed with it: apply(loss, gradients, refusal, *inputs) -> the loss.

    refusal: the arguments of `refuse_double_backward`. gradients: one for each input, or None.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, gradients: list[Tensor | None], refusal: tuple[str, ...], *inputs: Tensor
    ) -> Tensor:
        """Keep the gradients for the backward pass."""
        ctx.save_for_backward(*gradients)
        ctx.refusal, ctx.dtypes = refusal, [each.dtype for each in inputs]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times the one that comes from behind the loss."""
        refuse_double_backward(*ctx.refusal)
        # Multiply first: in half precision a gradient must not be rounded before it is scaled up.
        known = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return None, None, None, *(None if each is None else (each * gradient).to(dtype) for each, dtype in known)


def needs_gradient(x: Tensor) -> bool:
    """Whether a backward pass may want the gradient of x."""
    return x.requires_grad and torch.is_grad_enabled()


def tiles(B: int, queries: slice | None = None) -> Iterator[tuple[Blocks, tuple[int, ...]]]:
    """Yield the tiles of a (B, B) matrix, row by row of tiles, and the directions whose queries lie along them.

    0: x to y, with queries down the rows; 1: y to x, along the columns. Tiles are cut at the bounds of `queries`, and
    those without a query are left out.

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
            directions = tuple(k for k, block in enumerate((rows, columns)) if first <= block.start < last)
            if directions:
                yield (rows, columns), directions


def buffers(like: Tensor, number: int) -> list[Tensor]:
    """Return scratch memory for `number` tiles, of the dtype and on the device of `like` (B, D)."""
    size = min(TILE, len(like)) ** 2
    return [torch.empty(size, dtype=like.dtype, device=like.device) for _ in range(number)]


def tile_of(buffer: Tensor, blocks: Blocks) -> Tensor:
    """Return the part of a buffer that the tile takes, shaped (rows, columns)."""
    rows, columns = (block.stop - block.start for block in blocks)
    return buffer[: rows * columns].view(rows, columns)


def similarity_tile(x: Tensor, y: Tensor, blocks: Blocks, buffer: Tensor) -> Tensor:
    """Write x_i . y_j of a tile into the buffer and return it: x, y (B, D) unit vectors -> (rows, columns)."""
    rows, columns = blocks
    return torch.mm(x[rows], y[columns].T, out=tile_of(buffer, blocks))


def along(vector: Tensor, axis: int) -> Tensor:
    """Shape a vector to vary down the rows (axis 0) or along the columns (axis 1) of a tile.

    >>> along(torch.zeros(3), 0).shape, along(torch.zeros(3), 1).shape
    (torch.Size([3, 1]), torch.Size([1, 3]))
    """
    return vector[:, None] if axis == 0 else vector[None, :]


def fill_extra(tile: Tensor, positives: Tensor | None, blocks: Blocks, value: float) -> None:
    """Fill the extra positives of a tile (`positives` without the diagonal, dense or coalesced) with `value`."""
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
    extra = positives[blocks]
    if blocks[0] == blocks[1]:
        extra = extra.clone().fill_diagonal_(False)
    tile.masked_fill_(extra, value)


def fill_positives(tile: Tensor, positives: Tensor | None, blocks: Blocks, value: float) -> None:
    """Fill the positives of a tile (its diagonal and `positives`) with `value`."""
    fill_extra(tile, positives, blocks, value)
    if blocks[0] == blocks[1]:
        tile.diagonal().fill_(value)


def number_of_extra(positives: Tensor | None, like: Tensor) -> Tensor:
    """Return how many extra positives each row and each column has: (2, B) int64; `like` (B, D) gives B and the device.

    >>> number_of_extra(torch.tensor([[True, True], [False, False]]), torch.eye(2))
    tensor([[1, 0],
            [0, 1]])
    """
    counts = torch.zeros(2, len(like), dtype=torch.int64, device=like.device)
    if positives is None:
        return counts
    if positives.is_sparse:
        i, j = positives.indices()
        extra = i != j
        return torch.stack([places[extra].bincount(minlength=len(like)) for places in (i, j)])
    for (rows, columns), _ in tiles(len(like)):  # by tiles: a sum over bools first makes each an int64
        tile = positives[rows, columns]
        counts[0, rows] += tile.sum(dim=1)
        counts[1, columns] += tile.sum(dim=0)
    return counts - positives.diagonal().long()


def add_exponentials_(top: Tensor, total: Tensor, z: Tensor, axis: int) -> None:
    """Add exp(z) of a tile, which is overwritten, to the sums total exp(top) of its queries along an axis."""
    after = torch.maximum(top, z.amax(1 - axis))
    total.mul_((top - after).exp()).add_(z.sub_(along(after, axis)).exp_().sum(1 - axis))
    top.copy_(after)


def add_products_(
    grad_x: Tensor | None, grad_y: Tensor | None, parts: list[Tensor], unit_x: Tensor, unit_y: Tensor, blocks: Blocks
) -> None:
    """Add to dL/d unit(x) and dL/d unit(y) (B, D) what a tile of dL/ds gives; overwrites `parts`, its directions."""
    both = parts[0].add_(parts[1]) if len(parts) == 2 else parts[0]
    if grad_x is not None:
        grad_x[blocks[0]].addmm_(both, unit_y[blocks[1]])
    if grad_y is not None:
        grad_y[blocks[1]].addmm_(both.T, unit_x[blocks[0]])


def through_unit_(gradient: Tensor, unit_x: Tensor, largest: Tensor, length: Tensor) -> Tensor:
    """Turn dL/d unit(x) into dL/dx in place: (g - (g . u) u) / ||x||, all (B, D), the length's factors (B, 1)."""
    dots = torch.linalg.vecdot(gradient, unit_x)[:, None]
    return gradient.addcmul_(unit_x, dots, value=-1.0).div_(largest).div_(length)


class UnitSides:
    """The unit vectors of x and y (B, D), and dL/d of them where a backward pass may want it, summed over tiles."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        dtype = compute_dtype(x, y)
        (self.x, *length_x), (self.y, *length_y) = (unit_and_length(side.detach().to(dtype)) for side in (x, y))
        self.lengths = length_x, length_y
        self.grad_x, self.grad_y = (
            torch.zeros_like(unit) if needs_gradient(side) else None for side, unit in ((x, self.x), (y, self.y))
        )

    def add(self, parts: list[Tensor], blocks: Blocks) -> None:
        """Add what a tile of dL/ds gives, its directions in `parts`, which are overwritten."""
        add_products_(self.grad_x, self.grad_y, parts, self.x, self.y, blocks)

    def gradients(self, pull: Tensor, weight: Tensor | float) -> list[Tensor | None]:
        """Return `weight` times dL/dx and dL/dy, with the positive pairs' dL/ds_ii = -pull (B,), which tiles lack."""
        result: list[Tensor | None] = []
        sides = (self.grad_x, self.x, self.y, self.lengths[0]), (self.grad_y, self.y, self.x, self.lengths[1])
        for gradient, unit, other, length in sides:
            if gradient is not None:
                gradient.addcmul_(other, pull[:, None], value=-1.0).mul_(weight)
                through_unit_(gradient, unit, *length)
            result.append(gradient)
        return result
