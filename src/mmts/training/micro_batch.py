"""A batch of any size through the towers in pieces, with the whole batch's gradients (GradCache; docs/method.md, 5.2).

The loss needs every embedding of the batch at once, but not every tower's activations:

    dL/dw = sum over the pieces of  dL/dx_piece . dx_piece/dw + dL/dy_piece . dy_piece/dw

So the batch is embedded piece by piece without a graph, the loss of all embeddings gives dL/dx and dL/dy, and each
piece is embedded again, with a graph and the same dropout, to carry its rows of them back. This needs the memory of one
piece and one more forward pass.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv 2101.06983.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmts.data.batches.loader import Batch, Tokens
from mmts.distributed.processes import process_sizes
from mmts.errors import RunError
from mmts.objectives import ObjectiveOutput
from mmts.training.checkpoint import random_state, restore_random_state


def micro_batch_step(
    model: nn.Module,
    batch: Batch,
    size: int,
    compute_loss: Callable[[Tensor, Tensor], ObjectiveOutput],
    backward: Callable[[Tensor], object] = Tensor.backward,
    device: torch.device | str = "cpu",
    alone: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> ObjectiveOutput:
    """Add the batch's gradients to the parameters of model and objective, and return what `compute_loss` gave.

    The gradients, and the random state afterwards, are those of one pass with a graph through all pieces and one loss
    of their joined embeddings; without dropout, those of the whole batch at once.

    Args:
        model: (media, text) -> x, y, both (b, D); without batch norm that trains (see `refuse_batch_norm`).
        batch, size: B pairs, of which this process embeds b, at most `size` at a time.
        compute_loss: all embeddings x, y (b, D) -> loss and log.
        backward: back-propagates a loss, without scaling it.
        device: where the model is; pieces go there one at a time.
        alone: within it, gradients stay on this process; all are shared with those of the last piece.
    """
    states, embeddings = [], []
    with torch.no_grad():
        for piece in pieces(batch, size, device):
            states.append(random_state())
            embeddings.append(model(*piece))
    x, y = (torch.cat(side).requires_grad_() for side in zip(*embeddings, strict=True))
    output = compute_loss(x, y)
    backward(output.loss)
    after = random_state()
    assert x.grad is not None
    assert y.grad is not None
    lengths = [len(rows) for rows, _ in embeddings]
    gradients = zip(torch.split(x.grad, lengths), torch.split(y.grad, lengths), strict=True)
    for i, (piece, gradient) in enumerate(zip(pieces(batch, size, device), gradients, strict=True)):
        restore_random_state(states[i])
        with nullcontext() if i == len(states) - 1 else alone():
            sides = [(rows, grad) for rows, grad in zip(model(*piece), gradient, strict=True) if rows.requires_grad]
            if sides:  # empty if only the objective trains
                backward(torch.stack([(rows * grad).sum() for rows, grad in sides]).sum())
    restore_random_state(after)
    return ObjectiveOutput(output.loss.detach(), output.log)


def pieces(batch: Batch, size: int, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor | Tokens]]:
    """Yield the media and text of at most `size` pairs, on `device`: as many pieces on all processes (if sharded)."""
    b, text = len(batch.media), batch.text
    number = min(b, math.ceil(max(process_sizes(len(batch))) / size))
    for start, end in pairwise(b * k // number for k in range(number + 1)):
        rows = slice(start, end)
        if isinstance(text, Tensor):
            yield batch.media[rows].to(device), text[rows].to(device)
        else:
            yield batch.media[rows].to(device), {name: value[rows].to(device) for name, value in text.items()}


def refuse_batch_norm(model: nn.Module) -> None:
    """Raise RunError, naming it, if a batch norm of `model` takes its statistics from the batch.

    They would be each piece's and not the whole batch's, so pieces could not give the whole batch's gradients.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise RunError(
                f"train.micro_batch: {name} is a batch norm that trains; its statistics would be those of each piece, "
                "so pieces cannot give the whole batch's gradients. Use a tower without batch norm (small-vit, a "
                "CLIP or other ViT), freeze this one, or leave train.micro_batch out"
            )
