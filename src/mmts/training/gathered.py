"""The whole batch on every process: embeddings gathered so that gradients are those of one process.

Each of n processes embeds its share of a batch, and works out the loss of the whole batch from the gathered
embeddings. Of dL/dx it carries its own rows back through its model; the sum over the processes of what that gives is
the gradient of L. DistributedDataParallel takes the mean, hence the factor n:

    dL/dw = sum_k dL/dx_k . dx_k/dw = mean_k (n dL/dx_k) . dx_k/dw        x_k: the rows of process k

The objective's own parameters get the whole gradient on every process. What a process needs for it is O(B D) for the
gathered embeddings, and what the loss takes for the whole batch.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from mmts.data.stream_order import process_slice
from mmts.errors import RunError
from mmts.training.processes import num_processes, process_index


def gather_rows(own: Tensor, batch_size: int) -> Tensor:
    """Return the rows of all processes (B, D), given this one's: its `process_slice` of the B rows.

    >>> gather_rows(torch.eye(2), 2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    n = num_processes()
    shares = [process_slice(batch_size, k, n) for k in range(n)]
    return gather(own, [share.stop - share.start for share in shares])


def share_sizes(own: int, device: torch.device) -> list[int]:
    """Return how many rows each process has, given this one's number; for batches that are not divided by us.

    >>> share_sizes(3, torch.device("cpu"))
    [3]
    """
    if num_processes() == 1:
        return [own]
    sizes = torch.zeros(num_processes(), dtype=torch.int64, device=device)
    sizes[process_index()] = own
    distributed.all_reduce(sizes)
    return [int(size) for size in sizes]


def gather(own: Tensor, sizes: list[int]) -> Tensor:
    """Return the rows of all processes (B, ...), given this one's and how many each of them has.

    >>> gather(torch.tensor([3, 4]), [2])
    tensor([3, 4])
    """
    if num_processes() == 1:
        return own
    rows: Tensor = _Gather.apply(own, sizes)  # type: ignore[no-untyped-call]
    return rows


class _Gather(Function):
    """Shares may differ, and transfers may not: the shorter are filled up by rows that are cut off again."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int]) -> Tensor:
        sent = own.new_zeros(max(sizes), *own.shape[1:])
        sent[: len(own)] = own
        received = [torch.empty_like(sent) for _ in sizes]
        distributed.all_gather(received, sent)
        start = sum(sizes[: process_index()])
        ctx.share = slice(start, start + len(own))
        return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.share] * num_processes(), None


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give all processes the same gradients of an objective's parameters; they differ by rounding at most.

    >>> average_gradients([nn.Parameter(torch.zeros(()))])
    """
    if num_processes() == 1:
        return
    for each in parameters:
        if each.grad is not None:
            distributed.all_reduce(each.grad)
            each.grad /= num_processes()


def check_all_reached(model: nn.Module) -> None:
    """Raise RunError, naming it, where a parameter that trains has no gradient: the processes would wait for it.

    >>> check_all_reached(nn.Linear(2, 2))
    """
    if num_processes() > 1:
        for name, each in model.named_parameters():
            if each.requires_grad and each.grad is None:
                raise RunError(
                    f"the loss does not reach {name.removeprefix('module.')}, which counts as trained; several "
                    "processes cannot share its gradient. Freeze it, or train with one process"
                )


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give a module of every process the main one's parameters and buffers.

    >>> copy_from_main(nn.Linear(2, 2))
    """
    if num_processes() > 1:
        for each in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(each, 0)


def draw_alike(seed: int, step: int) -> None:
    """Let what is drawn next be the same on all processes, as an objective's dropout must be.

    It depends on (seed, step) alone, so that a resumed run draws what an unbroken one would have, whatever the number
    of processes. With one process the random state runs on.
    """
    _draw(seed, step, 0)


def draw_apart(seed: int, step: int) -> None:
    """Let what is drawn next be each process's own, as the dropout of its share of a batch is."""
    _draw(seed, step, 1 + process_index())


def _draw(*key: int) -> None:
    if num_processes() > 1:
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def share_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Have the batch norms of a model take their statistics from the batch of all processes.

    torch can do that on GPUs only: RunError, naming one, where a batch norm trains elsewhere.
    """
    training = [name for name, each in model.named_modules() if isinstance(each, _BatchNorm) and each.training]
    if num_processes() == 1 or not training:
        return
    if device.type != "cuda":
        raise RunError(
            f"{training[0]} is a batch norm that trains; on a {device.type} its statistics would be those of each "
            "process's share of the batch. Train with one process, take a tower without batch norm (small-vit, a CLIP "
            "or other ViT), or freeze this one"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
