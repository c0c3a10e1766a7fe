"""The max-margin (hinge) loss over both directions, with one margin for all, one a sample, or one a pair."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.checks import checked_positives, checked_relevance, checked_value
from mmts.losses.fused.max_margin import fused_max_margin
from mmts.losses.fused.tiles import choose_fused, number_of_others, refuse_transforms, triton_takes
from mmts.losses.fused.triton.max_margin import triton_max_margin
from mmts.losses.rows import checked_rows, cosine_stripes, own_of, own_pairs, positives_stripes, query_values, stripes

Negatives = Literal["all", "hardest"]
NEGATIVES: tuple[Negatives, ...] = ("all", "hardest")
FUSED_FROM = 256
"""Pairs a batch from which the fused version is the faster on a CPU (benchmarks/losses.py measures it)."""
InTiles = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool, slice], tuple[Tensor, Tensor]]
"""x, y, margin (B,), positives, squared, rows -> the loss and the pull, as `fused_max_margin` has them."""
Hinges = list[tuple[Tensor, Tensor]]
"""For x to y and y to x: the queries' hinges, (b, B), or (b, 1) where only the hardest counts, and the number, (), that
the mean over the whole batch's runs over."""


def max_margin(
    x: Tensor,
    y: Tensor,
    margin: Tensor | float,
    *,
    positives: Tensor | None = None,
    negatives: Negatives = "all",
    squared: bool = False,
    relevance: Tensor | None = None,
    rows: slice | None = None,
    fused: bool | None = None,
) -> Tensor:
    """Return the symmetric max-margin loss of paired embeddings (docs/method.md, 4.8 to 4.10, 4.13, 4.17 to 4.19).

    L = mean_{i != j} 1/2 [ relu(m_i - s_ii + s_ij) + relu(m_i - s_ii + s_ji) ],   s_ij = cos(x_i, y_j)

    Shapes: x (media) and y (text) (B, D) of any norm, normalised inside; result (). bfloat16 and half are computed in
    float32, float64 stays; autocast is off inside. The margin may require grad.

    margin: () or (B,) or (B, B), finite and not negative; (B,) is the query's own in both directions; (B, B): m_ij
        belongs to the pair x_i, y_j, hence is transposed for the other direction.
    positives: (B, B) bool, dense or sparse (COO), y_j is right for x_i too (transposed for the other direction; the
        diagonal is ignored). Such pairs are no negatives, and means run over the pairs that remain; none remains
        (B = 1): 0, gradient 0.
    negatives: "all": the mean over all remaining pairs of a direction; "hardest": each row's largest hinge, and the
        mean over the rows that have a negative.
    squared: square each hinge.
    relevance: (B, B) floating point in [0, 1], of medium i to text j: the margin of a pair is multiplied by
        1 - relevance (of the same medium and text in the other direction), so that what is nearly right may stay near.
    rows: return these b queries' share of the loss alone; over slices that together are the batch, shares add up to it.
        Memory is that of their rows, (2, b, B), in which form a margin a pair and relevance may then be given too: x to
        y, then y to x, the queries first.
    fused: True: in tiles, the same loss and gradients without a (B, B) matrix in memory. It has no (B, B) margin, no
        hardest negatives, no relevance, no second derivatives, no torch.func and no
        forward mode. False: the plain version. None: fused where the options allow, on the CPU from a
        batch of FUSED_FROM on, on a GPU with Triton from GPU_FUSED_FROM on.

    InputError for wrong shapes or dtypes, a NaN or infinity (with argument and row), an unknown option, or what the
    fused version was told to do and cannot.
    Source: Karpathy and Fei-Fei, arXiv 1412.2306, equation 9; hardest: VSE++, arXiv 1707.05612, equation 6; a margin a
    sample: MM-TS, arXiv 2603.08202; relevance: Falcon et al., arXiv 2204.13001.

    >>> x = torch.eye(2)
    >>> round(max_margin(x, x, 0.2).item(), 4), round(max_margin(x, x.flip(0), 0.2).item(), 4)
    (0.0, 1.2)
    """
    rows = checked_rows(rows, len(x))
    with torch.autocast(x.device.type, enabled=False):
        margin, in_tiles = _checked(x, y, margin, negatives, relevance, rows, fused)
        if in_tiles is not None:
            return in_tiles(x, y, margin.expand(len(x)), checked_positives(positives, x), squared, rows)[0]
        return _loss(_hinges(x, y, margin, positives, negatives, relevance, rows), squared)


def max_margin_and_pull(
    x: Tensor,
    y: Tensor,
    margin: Tensor | float,
    *,
    positives: Tensor | None = None,
    negatives: Negatives = "all",
    squared: bool = False,
    relevance: Tensor | None = None,
    rows: slice | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return max_margin, and how it pulls on each query's own pair: -dL/ds_ii, (b,), detached (docs/method.md, 5.9).

    Arguments, dtypes and errors as in max_margin; the fused version has both from its one pass.

    >>> x, y = torch.eye(3), torch.eye(3)[[1, 0, 2]]  # the first two are taken for one another
    >>> loss, pull = max_margin_and_pull(x, y, 0.2)
    >>> pull
    tensor([0.3333, 0.3333, 0.0000])
    """
    rows = checked_rows(rows, len(x))
    with torch.autocast(x.device.type, enabled=False):
        margin, in_tiles = _checked(x, y, margin, negatives, relevance, rows, fused)
        if in_tiles is not None:
            return in_tiles(x, y, margin.expand(len(x)), checked_positives(positives, x), squared, rows)
        hinges = _hinges(x, y, margin, positives, negatives, relevance, rows)
    with torch.no_grad():
        slopes = [(2 * hinge if squared else (hinge > 0).to(hinge)).sum(dim=1) / number for hinge, number in hinges]
        pull = (slopes[0] + slopes[1]) / 2
    return _loss(hinges, squared), pull


def _checked(
    x: Tensor,
    y: Tensor,
    margin: Tensor | float,
    negatives: Negatives,
    relevance: Tensor | None,
    rows: slice,
    fused: bool | None,
) -> tuple[Tensor, InTiles | None]:
    """Return the margin as a tensor, and what takes the loss in tiles, None for the plain version."""
    if negatives not in NEGATIVES:
        raise InputError(f"negatives is {negatives!r}; it must be one of {', '.join(NEGATIVES)}")
    margin = checked_value("margin", margin, x, y, zero_allowed=True, rows=rows)
    cannot = {
        "a (B, B) margin": margin.ndim >= 2,
        "negatives='hardest'": negatives == "hardest",
        "relevance": relevance is not None,
    }
    on_gpu = triton_takes(x, y)
    if not choose_fused("max_margin", fused, x, FUSED_FROM, cannot, on_gpu):
        return margin, None
    refuse_transforms("max_margin", x, y, margin)
    return margin, triton_max_margin if on_gpu else fused_max_margin


def _loss(hinges: Hinges, squared: bool) -> Tensor:
    loss_xy, loss_yx = ((hinge.square() if squared else hinge).sum() / number for hinge, number in hinges)
    return (loss_xy + loss_yx) / 2


def _hinges(
    x: Tensor,
    y: Tensor,
    margin: Tensor,
    positives: Tensor | None,
    negatives: Negatives,
    relevance: Tensor | None,
    rows: slice,
) -> Hinges:
    """Return each direction's hinges, 0 where there is none, and the number that their mean runs over."""
    positives = checked_positives(positives, x)
    no_negatives = positives_stripes(positives, rows)
    margins = query_values(margin, rows)
    if relevance is not None:
        of_pairs = stripes(checked_relevance(relevance, x, y, rows), rows)
        margins = margins[0] * (1.0 - of_pairs[0]), margins[1] * (1.0 - of_pairs[1])
    found = []
    for s, m, others, number in zip(
        cosine_stripes(x, y, rows), margins, no_negatives, len(x) - 1 - number_of_others(positives, x), strict=True
    ):
        left_out = own_pairs(s, rows) if others is None else own_pairs(s, rows) | others
        hinge = (m - own_of(s, rows)[:, None] + s).relu()
        hinge = hinge.masked_fill(left_out, 0.0)  # hinges are never negative, so 0 is never the larger of two
        if negatives == "hardest":
            found.append((hinge.amax(dim=1, keepdim=True), (number > 0).sum().clamp_min(1)))
        else:
            found.append((hinge, number.sum().clamp_min(1)))
    return found
