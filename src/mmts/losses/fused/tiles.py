"""What the losses in tiles share: the choice of tiles, and the similarity matrix one tile at a time.

A tile is (rows, columns) of s = unit(x) unit(y)^T. The memory is a few tiles, however large the batch.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import Function, forward_ad

from mmts.errors import InputError
from mmts.losses.normalize import compute_dtype, unit_and_length

TILE = 1024
"""Rows and columns of a tile: 4 MiB in float32, large enough for matrix products at full speed."""

TILES_FROM = {"max_margin": 256, "contrast": 256} | dict.fromkeys(
    ("info_nce", "decoupled_info_nce", "multi_positive_info_nce"), 1024
)
"""Pairs per batch from which each loss is faster in tiles on a CPU (measured by benchmarks/losses.py)."""

TRITON_FROM = {torch.bfloat16: 4096, torch.float32: 32_768}
"""Pairs per batch from which a GPU runs Triton, by the dtype of the products. bfloat16: where it is faster on an H200
(benchmarks/losses_gpu.py). float32, where info_nce takes 1.9 times as long: where a (B, B) matrix takes 4 GiB."""

Form: TypeAlias = Literal["plain", "tiles"] | torch.dtype
"""How a loss is computed: plainly, in tiles by torch, or in tiles by Triton with products in this dtype."""

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
    queries: slice | None = None,
) -> Form:
    """Decide how the loss `name` is computed. Call it before autocast is turned off, which shows the run's precision.

    value: the temperatures or margins. plain_only: options that only the plain version has, and whether each is used;
    with fused=True that is an InputError. kernels: whether Triton has these options; if not, tiles are also chosen
    once the b queries' rows take 1 GiB.
    """
    used = [option for option, is_used in plain_only.items() if is_used]
    if fused and used:
        raise InputError(f"the fused {name} cannot do {used[0]}; leave fused out, or give fused=False")
    triton = product_dtype(x, y) if kernels and triton_takes(x, y) else None
    if fused is None:
        b = len(x) if queries is None else queries.stop - queries.start
        is_large = not kernels and b * len(x) * 4 >= 2**30
        fused = name in TILES_FROM and not used and (is_large or faster_in_tiles(name, len(x), x.device.type, triton))
    if not fused:
        return "plain"
    _refuse_transforms(name, x, y, value)
    return "tiles" if triton is None else triton


def faster_in_tiles(name: str, B: int, device: str, triton: torch.dtype | None) -> bool:
    """Whether tiles are faster than the plain version; `triton` is the dtype of its products, None without Triton."""
    if device == "cpu":
        return TILES_FROM[name] <= B
    return triton is not None and TRITON_FROM[triton] <= B


def product_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the dtype of Triton's products: bfloat16 if both sides are, or under autocast to it, else float32."""
    device = x.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    return torch.bfloat16 if autocast or x.dtype == y.dtype == torch.bfloat16 else torch.float32


def triton_takes(x: Tensor, y: Tensor) -> bool:
    """Whether the Triton kernels can take these embeddings: on an NVIDIA GPU, not in float64."""
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
    is_dual = any(forward_ad.unpack_dual(x).tangent is not None for x in inputs)  # type: ignore[no-untyped-call]
    if is_dual or any(map(is_functorch_wrapped_tensor, inputs)):
        what = "forward mode" if is_dual else "torch.func"
        raise InputError(f"the fused {name} has derivatives in a backward pass only, not in {what}; give fused=False")


def refuse_double_backward(subject: str, way_out: str = "; give fused=False") -> None:
    """Raise InputError in a backward pass that is itself to be differentiated (create_graph=True)."""
    if torch.is_grad_enabled():
        raise InputError(f"{subject} has first derivatives only, and create_graph=True asks for more{way_out}")


class KnownGradients(Function):
    """A loss whose gradients, one for each input or None, were computed with it (its own are added). Returns the loss.

    refusal: the arguments of `refuse_double_backward`.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: Tensor, gradients: list[Tensor | None], refusal: tuple[str, ...], *inputs: Tensor
    ) -> Tensor:
        """Keep the gradients for the backward pass."""
        ctx.save_for_backward(*gradients)
        ctx.refusal, ctx.dtypes = refusal, [x.dtype for x in inputs]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients times the one that comes from behind the loss."""
        refuse_double_backward(*ctx.refusal)
        # Multiply first: in half precision a gradient must not be rounded before it is scaled up.
        known = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return gradient, None, None, *(None if own is None else (own * gradient).to(dtype) for own, dtype in known)


def needs_gradient(x: Tensor) -> bool:
    """Whether a backward pass may want the gradient of x."""
    return x.requires_grad and torch.is_grad_enabled()


class Tile(NamedTuple):
    """Blocks of rows and columns, and the directions (0: x to y, 1: y to x) whose queries lie along them."""

    blocks: tuple[slice, slice]
    directions: tuple[int, ...]

    @property
    def is_diagonal(self) -> bool:
        """Whether the tile has positive pairs, on its diagonal."""
        return self.blocks[0] == self.blocks[1]

    def view(self, buffer: Tensor) -> Tensor:
        """Return the part of a buffer that the tile takes, (rows, columns)."""
        rows, columns = (block.stop - block.start for block in self.blocks)
        return buffer[: rows * columns].view(rows, columns)

    def similarity(self, x: Tensor, y: Tensor, buffer: Tensor) -> Tensor:
        """Write x_i . y_j of unit vectors (B, D) into the buffer and return it, (rows, columns)."""
        return torch.mm(x[self.blocks[0]], y[self.blocks[1]].T, out=self.view(buffer))

    def fill_extra(self, values: Tensor, positives: Tensor | None, value: float) -> None:
        """Fill the extra positives of the tile (`positives` without the diagonal, dense or coalesced) with `value`."""
        if positives is None:
            return
        if not positives.is_sparse:
            extra = positives[self.blocks]
            values.masked_fill_(extra.clone().fill_diagonal_(False) if self.is_diagonal else extra, value)
            return
        rows, columns = self.blocks
        i, j = positives.indices()
        bounds = torch.tensor([rows.start, rows.stop], device=i.device)
        first, last = torch.searchsorted(i.contiguous(), bounds).tolist()
        i, j = i[first:last], j[first:last]
        inside = (j >= columns.start) & (j < columns.stop) & (i != j)
        values[i[inside] - rows.start, j[inside] - columns.start] = value

    def fill_positives(self, values: Tensor, positives: Tensor | None, value: float) -> None:
        """Fill the positives of the tile (its diagonal and `positives`) with `value`."""
        self.fill_extra(values, positives, value)
        if self.is_diagonal:
            values.diagonal().fill_(value)

    def add_products_(
        self, grad_x: Tensor | None, grad_y: Tensor | None, parts: list[Tensor], unit_x: Tensor, unit_y: Tensor
    ) -> None:
        """Add the products of dL/ds to dL/d unit(x), dL/d unit(y) (B, D); overwrites `parts`, its directions."""
        both = parts[0].add_(parts[1]) if len(parts) == 2 else parts[0]
        if grad_x is not None:
            grad_x[self.blocks[0]].addmm_(both, unit_y[self.blocks[1]])
        if grad_y is not None:
            grad_y[self.blocks[1]].addmm_(both.T, unit_x[self.blocks[0]])


def tiles(B: int, queries: slice | None = None) -> Iterator[Tile]:
    """Yield the tiles of a (B, B) matrix that have a query; queries of x to y are rows, those of y to x columns.

    >>> [tile.directions for tile in tiles(2, slice(0, 1))]
    [(0, 1), (0,), (1,)]
    """
    first, last = (0, B) if queries is None else (queries.start, queries.stop)
    parts = [(0, first), (first, last), (last, B)]  # tiles are cut at the bounds of the queries
    blocks = [slice(at, min(at + TILE, stop)) for start, stop in parts for at in range(start, stop, TILE)]
    for rows, columns in product(blocks, repeat=2):
        directions = tuple(k for k, block in enumerate((rows, columns)) if first <= block.start < last)
        if directions:
            yield Tile((rows, columns), directions)


def buffers(like: Tensor, number: int) -> list[Tensor]:
    """Return scratch memory for `number` tiles, of the dtype and on the device of `like` (B, D)."""
    size = min(TILE, len(like)) ** 2
    return [torch.empty(size, dtype=like.dtype, device=like.device) for _ in range(number)]


def along(vector: Tensor, axis: int) -> Tensor:
    """Shape a vector to vary down the rows (axis 0) or along the columns (axis 1) of a tile."""
    return vector[:, None] if axis == 0 else vector[None, :]


def number_of_extra(positives: Tensor | None, like: Tensor) -> Tensor:
    """Return how many extra positives each row and each column has: (2, B) int64; `like` (B, D): B and the device."""
    counts = torch.zeros(2, len(like), dtype=torch.int64, device=like.device)
    if positives is None:
        return counts
    if positives.is_sparse:
        places = positives.indices()
        return torch.stack([line.bincount(minlength=len(like)) for line in places[:, places[0] != places[1]]])
    for tile in tiles(len(like)):  # a sum over bools first makes each an int64
        for axis in (0, 1):
            counts[axis, tile.blocks[axis]] += positives[tile.blocks].sum(dim=1 - axis)
    return counts - positives.diagonal().long()


def add_exponentials_(top: Tensor, total: Tensor, z: Tensor, axis: int) -> None:
    """Add exp(z) of a tile, which is overwritten, to the sums total exp(top) of its queries along an axis."""
    after = torch.maximum(top, z.amax(1 - axis))
    total.mul_((top - after).exp()).add_(z.sub_(along(after, axis)).exp_().sum(1 - axis))
    top.copy_(after)


class UnitSides:
    """The unit vectors of x and y (B, D), and dL/d of them where a backward pass may want it, summed over tiles."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        dtype = compute_dtype(x, y)
        (self.x, *length_x), (self.y, *length_y) = (unit_and_length(side.detach().to(dtype)) for side in (x, y))
        self.lengths = length_x, length_y
        self.grad_x, self.grad_y = (
            torch.zeros_like(unit) if needs_gradient(side) else None for side, unit in ((x, self.x), (y, self.y))
        )

    def gradients(self, pull: Tensor | None = None, weight: Tensor | float = 1.0) -> list[Tensor | None]:
        """Return `weight` times dL/dx and dL/dy; pull: the positive pairs' -dL/ds_ii (B,), if the tiles lack them."""
        sides = (self.grad_x, self.x, self.y, self.lengths[0]), (self.grad_y, self.y, self.x, self.lengths[1])
        for gradient, unit, other, length in sides:
            if gradient is not None:
                if pull is not None:
                    gradient.addcmul_(other, pull[:, None], value=-1.0).mul_(weight)
                dots = torch.linalg.vecdot(gradient, unit)[:, None]  # dL/dx = (g - (g . u) u) / ||x||
                gradient.addcmul_(unit, dots, value=-1.0).div_(length[0]).div_(length[1])
        return [self.grad_x, self.grad_y]
