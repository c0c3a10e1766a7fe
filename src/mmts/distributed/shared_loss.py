"""The loss of a batch that several processes share: each works out the rows of its own queries.

Each of n processes embeds its b of the B pairs, and the embeddings of all are gathered. Of the loss L = sum_k L_k each
works out L_k, the rows of its own pairs in both directions (docs/method.md, 4.19), and dL_k/dx of all B rows; the sum
of those over the processes is dL/dx, of which it carries its own rows back through its model. What the objective trains
gets the sum over the processes too. DistributedDataParallel takes the mean of what the models get, hence the factor n:

    dL/dw = sum_k dL/dx_k . dx_k/dw = mean_k (n dL/dx_k) . dx_k/dw        x_k: the rows of process k

A process needs O(B D) for the embeddings and their gradients and, for its part of the loss, O(b B) or a few tiles.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function

from mmts.distributed.collectives import gather
from mmts.distributed.processes import num_processes, process_index
from mmts.errors import InputError
from mmts.objectives import Objective, ObjectiveOutput
from mmts.objectives.base import Share

Part = Callable[[Tensor, Tensor, Share | None], ObjectiveOutput]
"""From all embeddings x, y (B, D) to the loss and the log; of the share of the batch, where there is one."""


def shared_loss(
    part: Part, parameters: Iterable[nn.Parameter], x: Tensor, y: Tensor, sizes: list[int]
) -> ObjectiveOutput:
    """Return the loss of all processes' embeddings, and what to log of them, given this one's x, y (b, D).

    sizes: how many rows each process has. parameters: what the loss trains beside the embeddings; every process gets
    the whole gradient of each. With one process it is what `part` gives; with several it has no second derivatives.
    InputError where a process has no rows, and on all of them where one raises it.

    >>> shared_loss(lambda x, y, share: ObjectiveOutput((x * y).sum(), {}), [], torch.ones(2), torch.ones(2), [2]).loss
    tensor(2.)
    """
    if num_processes() == 1:
        return part(x, y, None)
    if not all(sizes):
        raise InputError(f"process {sizes.index(0)} has no pair of the batch; drop a last batch that is too small")
    start = sum(sizes[: process_index()])
    rows, later = slice(start, start + len(x)), _Later()
    sides = [_gathered(each, sizes) for each in (x, y)]
    trained = [each for each in parameters if each.requires_grad and torch.is_grad_enabled()]
    inputs = [each for each in (*sides, *trained) if each.requires_grad]
    failure = None
    found: list[Tensor | None] = [None] * len(inputs)
    try:
        output = part(sides[0], sides[1], Share(rows, later.then))
        if inputs:
            found = list(torch.autograd.grad(output.loss, inputs, allow_unused=True))
    except InputError as error:
        failure = error
    reached = _agree(failure, found, x.device)
    gradients = [
        _sum(torch.zeros_like(of) if each is None else each) if somewhere else None
        for each, of, somewhere in zip(found, inputs, reached, strict=True)
    ]
    later.settle(sizes)
    own = [each for each, side in zip((x, y), sides, strict=True) if side.requires_grad]
    for at, each in enumerate(gradients[: len(own)]):
        gradients[at] = None if each is None else each[rows] * num_processes()
    loss: Tensor = _Known.apply(_sum(output.loss.detach()), gradients, *own, *trained)  # type: ignore[no-untyped-call]
    return ObjectiveOutput(loss, output.log)


def _gathered(own: Tensor, sizes: list[int]) -> Tensor:
    """Return the embeddings of all processes as a leaf of its own."""
    every = gather(own, sizes)
    # In half precision, gradients that are not scaled up yet would be rounded to 0.
    every = every.float() if every.dtype == torch.float16 else every
    return every.requires_grad_(own.requires_grad and torch.is_grad_enabled())


def _agree(failure: InputError | None, found: Sequence[Tensor | None], device: torch.device) -> list[bool]:
    """Return which gradients some process has; raises on all, where one has failed, what the first of them raises."""
    n = num_processes()
    mine = [0 if failure is None else n - process_index(), *(each is not None for each in found)]
    several = torch.tensor(mine, dtype=torch.int64, device=device)
    distributed.all_reduce(several, distributed.ReduceOp.MAX)
    failed, *reached = several.tolist()
    if failed:
        # Where only one of them gave up, the others would wait for its gradients.
        said = [str(failure)]
        distributed.broadcast_object_list(said, n - failed, device=device)
        raise InputError(said[0])
    return [bool(each) for each in reached]


def ask(objective: Objective, x: Tensor, y: Tensor, share: Share | None, **told: Any) -> ObjectiveOutput:
    """Ask an objective for a share of a batch's loss; of one that works out the whole, each process takes its part.

    One that takes no share gets dense `positives` too.
    """
    positives = told.get("positives")
    if positives is not None and positives.is_sparse and not objective.takes_share:
        told["positives"] = positives.to_dense()
    if share is None:
        whole: ObjectiveOutput = objective(x, y, **told)
        return whole
    if objective.takes_share:
        output: ObjectiveOutput = objective(x, y, share=share, **told)
        return output
    output = objective(x, y, **told)
    return ObjectiveOutput(output.loss * ((share.rows.stop - share.rows.start) / len(x)), output.log)


class _Later:
    """What is to happen once the other processes' queries are known, all of it gathered at once."""

    def __init__(self) -> None:
        self.updates: list[tuple[Callable[..., None], tuple[Tensor, ...]]] = []

    def then(self, update: Callable[..., None], *found: Tensor) -> None:
        self.updates.append((update, found))

    def settle(self, sizes: list[int]) -> None:
        """Gather what was found, and do the updates in their order."""
        found = [each.detach() for _, several in self.updates for each in several]
        if not found:
            return
        columns = iter(gather(torch.stack([each.double() for each in found], dim=1), sizes).unbind(dim=1))
        for update, several in self.updates:
            update(*(next(columns).to(each.dtype) for each in several))


def _sum(own: Tensor) -> Tensor:
    """Return the sum over the processes, in float32 at least."""
    total = own.to(torch.promote_types(own.dtype, torch.float32), copy=True, memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total


class _Known(Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        ctx.dtypes = [each.dtype for each in inputs]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise InputError(
                "the loss of several processes has first derivatives only, and create_graph=True asks for more"
            )
        # The product first: in half precision a gradient that is scaled up must not be rounded before it is.
        known = zip(ctx.gradients, ctx.dtypes, strict=True)
        return None, None, *(None if each is None else (each * gradient).to(dtype) for each, dtype in known)
