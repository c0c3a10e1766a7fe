"""The loss of a batch that several processes share: each computes the part of its own queries.

Each of n processes embeds its b of the B pairs, and the embeddings of all are gathered. Of the loss L = sum_k L_k each
computes L_k, the part of its own pairs in both directions (docs/method.md, 4.19), and dL_k/dx of all B rows. The sum of
those over the processes is dL/dx; each process back-propagates its own rows of it through its model. The objective's
parameters get the sum over the processes too. DistributedDataParallel takes the mean of the models' gradients, so

    dL/dw = sum_k dL/dx_k . dx_k/dw = mean_k (n dL/dx_k) . dx_k/dw        x_k: the rows of process k

A process needs O(B D) for the embeddings and their gradients and, for its part of the loss, O(b B) or a few tiles.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed

from mmts.distributed.processes import gather, num_processes, process_index
from mmts.errors import InputError
from mmts.losses.fused.tiles import KnownGradients
from mmts.objectives import Objective, ObjectiveOutput, Pairs

ONLY_FIRST = "the loss of several processes", ""


def shared_loss(objective: Objective, x: Tensor, y: Tensor, sizes: list[int], **batch: Any) -> ObjectiveOutput:
    """Return the objective's output for the embeddings of all processes, given this one's x, y (b, D).

    sizes: how many pairs each process has. batch: the keywords of the objective, for the whole batch; of `relevance`
    this process's rows (2, b, B). With one process it is the objective's call; with several it has no second
    derivatives, and every process gets the whole gradient of the objective's parameters. InputError if a process has no
    pairs, and on all of them if one raises it.

    >>> from mmts.objectives import InfoNCE
    >>> from mmts.policies import Fixed
    >>> batch = {"progress": 0.0, "index": torch.arange(2)}
    >>> shared_loss(InfoNCE(Fixed(1.0)), torch.eye(2), torch.eye(2), [2], **batch).loss
    tensor(0.3133)
    """
    if num_processes() == 1:
        result: ObjectiveOutput = objective(x, y, **batch)
        return result
    if not all(sizes):
        raise InputError(f"process {sizes.index(0)} has no pair of the batch; drop a last batch that is too small")
    start = sum(sizes[: process_index()])
    queries = slice(start, start + len(x))
    pairs = Pairs(queries=queries, **batch)
    if not objective.splits_queries and pairs.relevance is not None and pairs.relevance.ndim == 3:
        pairs = replace(pairs, relevance=gather(pairs.relevance[0], sizes))
    sides = _all_rows(x, sizes), _all_rows(y, sizes)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad and torch.is_grad_enabled()]
    inputs = [tensor for tensor in (*sides, *trained) if tensor.requires_grad]
    failure = None
    own_gradients: Sequence[Tensor | None] = [None] * len(inputs)
    try:
        loss, log = objective.compute_part(*sides, pairs)
        if inputs:
            with torch.autocast(x.device.type, enabled=False):
                own_gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    except InputError as error:
        failure = error
    exist = _agree(failure, own_gradients, x.device)
    gradients = [
        _sum(torch.zeros_like(tensor) if gradient is None else gradient) if exists else None
        for gradient, tensor, exists in zip(own_gradients, inputs, exist, strict=True)
    ]
    log = objective.finish(pairs, _gather_log(log, len(x), sizes))
    own_sides = [own for own, side in zip((x, y), sides, strict=True) if side.requires_grad]
    for place, gradient in enumerate(gradients[: len(own_sides)]):
        gradients[place] = None if gradient is None else gradient[queries] * num_processes()
    total = KnownGradients.apply(_sum(loss.detach()), gradients, ONLY_FIRST, *own_sides, *trained)  # type: ignore[no-untyped-call]
    return ObjectiveOutput(total, log)


def _all_rows(own: Tensor, sizes: list[int]) -> Tensor:
    """Return the embeddings of all processes as a leaf."""
    rows = gather(own, sizes)
    # In half precision, gradients that are not scaled up yet would be rounded to 0.
    rows = rows.float() if rows.dtype == torch.float16 else rows
    return rows.requires_grad_(own.requires_grad and torch.is_grad_enabled())


def _agree(failure: InputError | None, gradients: Sequence[Tensor | None], device: torch.device) -> list[bool]:
    """Return which gradients exist on any process; if a process failed, raise the first failure on all of them."""
    n = num_processes()
    own = [0 if failure is None else n - process_index(), *(gradient is not None for gradient in gradients)]
    result = torch.tensor(own, dtype=torch.int64, device=device)
    distributed.all_reduce(result, distributed.ReduceOp.MAX)
    failed, *exist = result.tolist()
    if failed:  # if only the failed process gave up, the others would wait for its gradients
        message = [str(failure)]
        distributed.broadcast_object_list(message, n - failed, device=device)
        raise InputError(message[0])
    return [bool(exists) for exists in exist]


def _gather_log(log: dict[str, Tensor], b: int, sizes: list[int]) -> dict[str, Tensor]:
    """Gather the tensors with a value per query, (b,), of all processes in one transfer: (B,); add up "_sum_" ones."""
    log = log | {name: _sum(value) for name, value in log.items() if name.startswith("_sum_")}
    names = [name for name, value in log.items() if value.shape == (b,) and not name.startswith("_sum_")]
    if not names:
        return log
    columns = gather(torch.stack([log[name].double() for name in names], dim=1), sizes).unbind(dim=1)
    return log | {name: column.to(log[name].dtype) for name, column in zip(names, columns, strict=True)}


def _sum(own: Tensor) -> Tensor:
    """Return the sum over the processes, in float32 at least."""
    total = own.to(torch.promote_types(own.dtype, torch.float32), copy=True, memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total
