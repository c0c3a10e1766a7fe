"""A batch of any size through the towers in pieces, with the whole batch's gradients (GradCache; docs/method.md, 5.2).

Gradients of a contrastive loss need every embedding of the batch at once, but not every tower's activations at once:

    dL/dw = sum over the pieces of  dL/dx_piece . dx_piece/dw + dL/dy_piece . dy_piece/dw

So the batch is embedded piece by piece without a graph, the loss of all embeddings gives dL/dx and dL/dy, and each
piece is embedded again, with a graph and the same dropout, to carry its share of them back. Memory is a piece's; the
price is one more forward pass. Adding up the gradients of small batches' losses is another thing: it has only the
negatives within each small batch, and is not offered.

Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv 2101.06983.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmts.data.batches.loader import Batch, Tokens
from mmts.errors import RunError
from mmts.objectives import ObjectiveOutput
from mmts.training.checkpoint import random_state, restore_random_state

Piece = tuple[Tensor, Tensor | Tokens]
"""The media and the text of some pairs, as a model takes them."""


def micro_batch_step(
    model: nn.Module,
    batch: Batch,
    size: int,
    objective: Callable[[Tensor, Tensor], ObjectiveOutput],
    backward: Callable[[Tensor], object] = Tensor.backward,
    device: torch.device | str = "cpu",
    alone: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> ObjectiveOutput:
    """Add the batch's gradients to the parameters of `model` and `objective`, and return what the objective gave.

    The gradients are those of one pass with a graph through all pieces, whose embeddings are joined before one loss;
    so is the random state afterwards. Without dropout both are those of the whole batch at once.

    Args:
        model: (media, text) -> x, y, both (b, D); what a row becomes must not depend on the other rows of its piece,
            see `refuse_batch_norm`.
        batch: B pairs, of which this process has b.
        size: pairs a piece, 1 or more; the last piece has what is left.
        objective: all embeddings x, y (b, D) -> loss and log; its own parameters get their gradients too.
        backward: back-propagates a loss, without scaling it.
        device: where the model is; pieces go there one at a time.
        alone: within it, gradients stay on this process; they are shared with those of the last piece.
    """
    x, y, states = embed_without_graph(model, batch, size, device)
    output, x_gradient, y_gradient = embedding_gradients(x, y, objective, backward)
    after = random_state()
    replay(model, batch, size, states, x_gradient, y_gradient, backward, device, alone)
    restore_random_state(after)
    return output


def pieces(batch: Batch, size: int, device: torch.device | str) -> Iterator[Piece]:
    """Yield the media and text of `size` pairs after the other, on `device`."""
    for start in range(0, len(batch.media), size):
        rows = slice(start, start + size)
        text = batch.text
        yield (
            batch.media[rows].to(device),
            text[rows].to(device)
            if isinstance(text, Tensor)
            else {name: each[rows].to(device) for name, each in text.items()},
        )


@torch.no_grad()
def embed_without_graph(
    model: nn.Module, batch: Batch, size: int, device: torch.device | str
) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """Return all embeddings x, y (b, D), and the random state that each piece started from."""
    xs, ys, states = [], [], []
    for media, text in pieces(batch, size, device):
        states.append(random_state())
        x, y = model(media, text)
        xs.append(x)
        ys.append(y)
    return torch.cat(xs), torch.cat(ys), states


def embedding_gradients(
    x: Tensor,
    y: Tensor,
    objective: Callable[[Tensor, Tensor], ObjectiveOutput],
    backward: Callable[[Tensor], object],
) -> tuple[ObjectiveOutput, Tensor, Tensor]:
    """Return what the objective gives for x, y (b, D), and dL/dx and dL/dy (b, D)."""
    x, y = x.requires_grad_(), y.requires_grad_()
    output = objective(x, y)
    backward(output.loss)
    assert x.grad is not None
    assert y.grad is not None
    return ObjectiveOutput(output.loss.detach(), output.log), x.grad, y.grad


def replay(
    model: nn.Module,
    batch: Batch,
    size: int,
    states: list[dict[str, Any]],
    x_gradient: Tensor,
    y_gradient: Tensor,
    backward: Callable[[Tensor], object],
    device: torch.device | str,
    alone: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Embed each piece again from its random state, now with a graph, and carry its rows of dL/dx and dL/dy back."""
    gradients = zip(torch.split(x_gradient, size), torch.split(y_gradient, size), strict=True)
    for at, (piece, gradient) in enumerate(zip(pieces(batch, size, device), gradients, strict=True)):
        restore_random_state(states[at])
        with nullcontext() if at == len(states) - 1 else alone():
            sides = [each for each in zip(model(*piece), gradient, strict=True) if each[0].requires_grad]
            if sides:  # else nothing before the loss trains
                backward(torch.stack([(embedding * share).sum() for embedding, share in sides]).sum())


def refuse_batch_norm(model: nn.Module) -> None:
    """Raise RunError, naming it, where a batch norm of `model` takes its statistics from the batch it is given.

    Those would be each piece's and not the whole batch's, so no way of adding up the pieces gives its gradients.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise RunError(
                f"train.micro_batch: {name} is a batch norm that trains; its statistics would be those of each piece, "
                "so pieces cannot give the whole batch's gradients. Take a tower without batch norm (small-vit, a "
                "CLIP or other ViT), freeze this one, or leave train.micro_batch out"
            )
