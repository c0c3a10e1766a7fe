"""The loss of a batch that several processes share: each works out the rows of its own queries.

Each of n processes embeds its b of the B pairs, and the embeddings of all are gathered. Of the loss L = sum_k L_k each
works out L_k, the rows of its own pairs in both directions (docs/method.md, 4.19), and dL_k/dx of all B rows; the sum
of those over the processes is dL/dx, of which it carries its own rows back through its model. What the objective trains
gets the sum over the processes too. DistributedDataParallel takes the mean of what the models get, hence the factor n:

    dL/dw = sum_k dL/dx_k . dx_k/dw = mean_k (n dL/dx_k) . dx_k/dw        x_k: the rows of process k

A process needs O(B D) for the embeddings and their gradients and, for its part of the loss, O(b B) or a few tiles.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function

from mmts.errors import FailedElsewhere, InputError
from mmts.objectives import Objective, ObjectiveOutput
from mmts.objectives.base import Share
from mmts.training.gathered import gather
from mmts.training.processes import largest, num_processes, process_index

Part = Callable[[Tensor, Tensor, Share | None], ObjectiveOutput]
"""From all embeddings x, y (B, D) to the loss and the log; of the share of the batch, where there is one."""


def shared_loss(
    part: Part, parameters: Iterable[nn.Parameter], x: Tensor, y: Tensor, sizes: list[int]
) -> ObjectiveOutput:
    """Return the loss of all processes' embeddings, and what to log of them, given this one's x, y (b, D).

    sizes: how many rows each process has. parameters: what the loss trains beside the embeddings; every process gets
    the whole gradient of each. With one process it is what `part` gives. Where a process raises InputError, those that
    do not themselves raise FailedElsewhere.

    >>> shared_loss(lambda x, y, share: ObjectiveOutput((x * y).sum(), {}), [], torch.ones(2), torch.ones(2), [2]).loss
    tensor(2.)
    """
    if num_processes() == 1:
        return part(x, y, None)
    start = sum(sizes[: process_index()])
    rows, later = slice(start, start + len(x)), _Later()
    trained = [each for each in parameters if each.requires_grad]
    sides = [gather(each, sizes).requires_grad_(each.requires_grad) for each in (x, y)]
    inputs = [each for each in (*sides, *trained) if each.requires_grad]
    failure = None
    try:
        with torch.enable_grad():
            output = part(sides[0], sides[1], Share(rows, later.then))
            found = torch.autograd.grad(output.loss, inputs, allow_unused=True) if inputs else ()
    except InputError as error:
        failure = error
    # Where only one of them gave up, the others would wait for its gradients.
    if largest(int(failure is not None), x.device):
        raise failure or FailedElsewhere
    gradients = [None if each is None else _sum(each) for each in found]
    later.settle(sizes)
    of_sides = sum(each.requires_grad for each in sides)
    gradients[:of_sides] = [None if each is None else each[rows] * num_processes() for each in gradients[:of_sides]]
    own = [each for each in (x, y) if each.requires_grad]
    loss: Tensor = _Known.apply(_sum(output.loss.detach()), gradients, *own, *trained)  # type: ignore[no-untyped-call]
    return ObjectiveOutput(loss, output.log)


def ask(objective: Objective, x: Tensor, y: Tensor, share: Share | None, **told: Any) -> ObjectiveOutput:
    """Ask an objective for a share of a batch's loss; of one that works out the whole, each process takes its part."""
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
    """Return the sum over the processes, added up in float32 at least."""
    total = own.to(torch.promote_types(own.dtype, torch.float32), copy=True, memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total.to(own.dtype)


class _Known(Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if each is None else (each * gradient).to(each.dtype) for each in ctx.gradients)
