"""Batches that the loss tests share."""

from typing import get_args

import torch
from torch import Tensor

from mmts.losses.max_margin import Negatives
from mmts.losses.queries import Anchor

ANCHORS: tuple[Anchor, ...] = get_args(Anchor)
NEGATIVES: tuple[Negatives, ...] = get_args(Negatives)


def embeddings(B: int = 6, D: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Paired embeddings (B, D) of assorted norms, resembling their partners, leaves that require grad."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(B, D, generator=generator, dtype=torch.float64)
    x = common + 0.7 * torch.randn(B, D, generator=generator, dtype=torch.float64)
    y = 3.0 * (common + 0.7 * torch.randn(B, D, generator=generator, dtype=torch.float64))
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()


def values(B: int = 6, ndim: int = 1, seed: int = 0) -> Tensor:
    """Positive values: (), (B,) or (B, B), between .05 and .3, a leaf that requires grad."""
    generator = torch.Generator().manual_seed(seed + 100)
    return (0.05 + 0.25 * torch.rand((B,) * ndim, generator=generator, dtype=torch.float64)).requires_grad_()


def some_positives(B: int = 6, seed: int = 0) -> Tensor:
    """(B, B) bool, deliberately not symmetric, with a few on the diagonal, and row 0 without any negative left."""
    generator = torch.Generator().manual_seed(seed + 200)
    positives = torch.rand(B, B, generator=generator) < 0.3
    positives[0] = True
    return positives


def loss_and_gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    """The loss and its gradients, for comparing two ways to compute the same thing."""
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def graded(B: int = 6, seed: int = 0) -> Tensor:
    """(B, B) relevance in [0, 1], deliberately not symmetric, in coarse steps so that many pairs are as relevant as the
    own one; own pairs fully relevant but for the last, which others surpass."""
    generator = torch.Generator().manual_seed(seed + 300)
    relevance = torch.randint(0, 5, (B, B), generator=generator).double() / 4
    relevance.fill_diagonal_(1.0)
    relevance[-1, -1] = 0.5
    return relevance
