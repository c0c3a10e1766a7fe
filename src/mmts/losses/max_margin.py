"""The max-margin (hinge) loss over both directions, with one margin for all, one a sample, or one a pair."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.checks import checked_positives, checked_relevance, checked_value, other_positives
from mmts.losses.fused_max_margin import fused_max_margin
from mmts.losses.normalize import cosine_similarity
from mmts.losses.tiles import choose_fused, triton_takes
from mmts.losses.triton_max_margin import triton_max_margin

Negatives = Literal["all", "hardest"]
NEGATIVES: tuple[Negatives, ...] = ("all", "hardest")
FUSED_FROM = 256
"""Pairs a batch from which the fused version is the faster on a CPU (benchmarks/losses.py measures it)."""
InTiles = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor]]
"""x, y, margin (B,), positives, squared -> the loss and the pull, as `fused_max_margin` has them."""
Hinges = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""For x to y and y to x: hinges (B, B), or (B, 1) where only the hardest counts, and how many they are, ()."""


def max_margin(
    x: Tensor,
    y: Tensor,
    margin: Tensor | float,
    *,
    positives: Tensor | None = None,
    negatives: Negatives = "all",
    squared: bool = False,
    relevance: Tensor | None = None,
    fused: bool | None = None,
) -> Tensor:
    """Return the symmetric max-margin loss of paired embeddings (docs/method.md, 4.8 to 4.10, 4.13, 4.17, 4.18).

    L = mean_{i != j} 1/2 [ relu(m_i - s_ii + s_ij) + relu(m_i - s_ii + s_ji) ],   s_ij = cos(x_i, y_j)

    Shapes: x (media) and y (text) (B, D) of any norm, normalised inside; result (). bfloat16 and half are computed in
    float32, float64 stays; autocast is off inside. The margin may require grad.

    margin: () or (B,) or (B, B), finite and not negative; (B,) is the query's own in both directions; (B, B): m_ij
        belongs to the pair x_i, y_j, hence is transposed for the other direction.
    positives: (B, B) bool, y_j is right for x_i too (transposed for the other direction; the diagonal is ignored).
        Such pairs are no negatives, and means run over the pairs that remain; none remains (B = 1): 0, gradient 0.
    negatives: "all": the mean over all remaining pairs of a direction; "hardest": each row's largest hinge, and the
        mean over the rows that have a negative.
    squared: square each hinge.
    relevance: (B, B) floating point in [0, 1], of medium i to text j: the margin of a pair is multiplied by
        1 - relevance (of the same medium and text in the other direction), so that what is nearly right may stay near.
    fused: True: in tiles, the same loss and gradients without a (B, B) matrix in memory. It has no (B, B) margin, no
        hardest negatives, no relevance, and no second derivatives. False: the plain version. None: fused where the
        options allow, on the CPU from a batch of FUSED_FROM on, on a GPU with Triton from GPU_FUSED_FROM on.

    InputError for wrong shapes or dtypes, a NaN or infinity (with argument and row), an unknown option, or what the
    fused version was told to do and cannot.
    Source: Karpathy and Fei-Fei, arXiv 1412.2306, equation 9; hardest: VSE++, arXiv 1707.05612, equation 6; a margin a
    sample: MM-TS, arXiv 2603.08202; relevance: Falcon et al., arXiv 2204.13001.

    >>> x = torch.eye(2)
    >>> round(max_margin(x, x, 0.2).item(), 4), round(max_margin(x, x.flip(0), 0.2).item(), 4)
    (0.0, 1.2)
    """
    with torch.autocast(x.device.type, enabled=False):
        margin, in_tiles = _checked(x, y, margin, negatives, relevance, fused)
        if in_tiles is not None:
            return in_tiles(x, y, margin.expand(len(x)), checked_positives(positives, x), squared)[0]
        return _loss(_hinges(x, y, margin, positives, negatives, relevance), squared)


def max_margin_and_pull(
    x: Tensor,
    y: Tensor,
    margin: Tensor | float,
    *,
    positives: Tensor | None = None,
    negatives: Negatives = "all",
    squared: bool = False,
    relevance: Tensor | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return max_margin, and how it pulls on each sample's own pair: -dL/ds_ii, (B,), detached (docs/method.md, 5.9).

    Arguments, dtypes and errors as in max_margin; the fused version has both from its one pass.

    >>> x, y = torch.eye(3), torch.eye(3)[[1, 0, 2]]  # the first two are taken for one another
    >>> loss, pull = max_margin_and_pull(x, y, 0.2)
    >>> pull
    tensor([0.3333, 0.3333, 0.0000])
    """
    with torch.autocast(x.device.type, enabled=False):
        margin, in_tiles = _checked(x, y, margin, negatives, relevance, fused)
        if in_tiles is not None:
            return in_tiles(x, y, margin.expand(len(x)), checked_positives(positives, x), squared)
        hinges = _hinges(x, y, margin, positives, negatives, relevance)
    with torch.no_grad():
        slopes = [(2 * hinge if squared else (hinge > 0).to(hinge)).sum(dim=1) / number for hinge, number in hinges]
        pull = (slopes[0] + slopes[1]) / 2
    return _loss(hinges, squared), pull


def _checked(
    x: Tensor, y: Tensor, margin: Tensor | float, negatives: Negatives, relevance: Tensor | None, fused: bool | None
) -> tuple[Tensor, InTiles | None]:
    """Return the margin as a tensor, and what takes the loss in tiles, None for the plain version."""
    if negatives not in NEGATIVES:
        raise InputError(f"negatives is {negatives!r}; it must be one of {', '.join(NEGATIVES)}")
    margin = checked_value("margin", margin, x, y, zero_allowed=True)
    cannot = {
        "a (B, B) margin": margin.ndim == 2,
        "negatives='hardest'": negatives == "hardest",
        "relevance": relevance is not None,
    }
    on_gpu = triton_takes(x, y)
    if not choose_fused("max_margin", fused, x, FUSED_FROM, cannot, on_gpu):
        return margin, None
    return margin, triton_max_margin if on_gpu else fused_max_margin


def _loss(hinges: Hinges, squared: bool) -> Tensor:
    loss_xy, loss_yx = ((hinge.square() if squared else hinge).sum() / number for hinge, number in hinges)
    return (loss_xy + loss_yx) / 2


def _hinges(
    x: Tensor, y: Tensor, margin: Tensor, positives: Tensor | None, negatives: Negatives, relevance: Tensor | None
) -> Hinges:
    """Return each direction's hinges, queries in rows, 0 where there is none, and the number their mean runs over."""
    others = other_positives(positives, x)
    similarity = cosine_similarity(x, y)  # (B, B): media in rows, texts in columns
    remain = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    if others is not None:
        remain = remain & ~others
    margin_xy = margin[:, None] if margin.ndim == 1 else margin
    margin_yx = margin[:, None] if margin.ndim == 1 else margin.T if margin.ndim == 2 else margin
    if relevance is not None:
        gap = 1.0 - checked_relevance(relevance, x, y)
        margin_xy, margin_yx = margin_xy * gap, margin_yx * gap.T
    return (
        _direction(similarity, margin_xy, remain, negatives),
        _direction(similarity.T, margin_yx, remain.T, negatives),
    )


def _direction(similarity: Tensor, margin: Tensor, remain: Tensor, negatives: Negatives) -> tuple[Tensor, Tensor]:
    hinge = (margin - similarity.diagonal()[:, None] + similarity).relu()
    hinge = hinge.masked_fill(~remain, 0.0)  # hinges are never negative, so 0 is never the larger of two
    if negatives == "hardest":
        return hinge.amax(dim=1, keepdim=True), remain.any(dim=1).sum().clamp_min(1)
    return hinge, remain.sum().clamp_min(1)
