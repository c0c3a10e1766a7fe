"""What several processes exchange beside gradients, and which random numbers they draw alike or apart."""

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmts.data.batches.epoch_plan import process_slice
from mmts.distributed.processes import num_processes, process_index
from mmts.errors import RunError


def process_sizes(batch_size: int) -> list[int]:
    """Return how many pairs of a batch each process has, by `process_slice`."""
    n = num_processes()
    return [len(range(batch_size)[process_slice(batch_size, k, n)]) for k in range(n)]


def all_sizes(own: int, device: torch.device) -> list[int]:
    """Return how many pairs each process has, given this one's number."""
    if num_processes() == 1:
        return [own]
    sizes = torch.zeros(num_processes(), dtype=torch.int64, device=device)
    sizes[process_index()] = own
    distributed.all_reduce(sizes)
    return [int(size) for size in sizes]


def gather(own: Tensor, sizes: list[int]) -> Tensor:
    """Return the rows of all processes (B, ...), given this one's and how many each of them has; without gradient."""
    if num_processes() == 1:
        return own
    # A transfer needs one size, so shorter tensors are padded, and the padding is removed again.
    sent = own.new_zeros(max(sizes), *own.shape[1:])
    sent[: len(own)] = own.detach()
    received = [torch.empty_like(sent) for _ in sizes]
    distributed.all_gather(received, sent)
    return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)])


def check_all_reached(model: nn.Module) -> None:
    """Raise RunError if a parameter that trains has no gradient, naming it: the processes would wait for it."""
    if num_processes() > 1:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.grad is None:
                why = f"the loss does not reach {name.removeprefix('module.')}, which is set to train"
                remedy = "several processes cannot share its gradient. Freeze it, or train with one process"
                raise RunError(f"{why}; {remedy}")


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give a module of every process the main one's parameters and buffers."""
    if num_processes() > 1:
        for tensor in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(tensor, 0)


def draw_alike(seed: int, step: int) -> None:
    """Seed the next random numbers equally on all processes, by (seed, step); with one process they continue."""
    _draw(seed, step, 0)


def draw_apart(seed: int, step: int) -> None:
    """Seed the next random numbers differently on each process, such as the dropout of its pairs."""
    _draw(seed, step, 1 + process_index())


def _draw(*key: int) -> None:
    if num_processes() > 1:
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def share_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Make the batch norms of a model take their statistics from the batch of all processes.

    torch can do that on GPUs only: elsewhere a batch norm that trains is a RunError, naming it.
    """
    training = [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm) and layer.training]
    if num_processes() == 1 or not training:
        return
    if device.type != "cuda":
        raise RunError(
            f"{training[0]} is a batch norm that trains; on a {device.type} its statistics would be those of each "
            "process's part of the batch. Train with one process, take a tower without batch norm (small-vit, a CLIP "
            "or other ViT), or freeze this one"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
