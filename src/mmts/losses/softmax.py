"""What the InfoNCE losses share: the checks, the choice between plain rows and tiles, and the mean over the queries."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.checks import checked_positives, checked_value
from mmts.losses.fused.info_nce import rows_in_tiles
from mmts.losses.fused.tiles import choose_form
from mmts.losses.queries import ANCHORS, Anchor, Direction, checked_queries, directions, pair_values

RowLoss = Callable[[Tensor, Direction, float], tuple[Tensor, Tensor]]
"""Logits (b, B), their direction, label smoothing -> each query's loss, and minus its slope in z_ii, detached, (b,)."""


def softmax_loss(
    name: str,
    row_loss: RowLoss,
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    positives: Tensor | None,
    anchor: Anchor,
    label_smoothing: float,
    scale_by_temperature: bool,
    queries: slice | None,
    fused: bool | None,
) -> tuple[Tensor, Tensor]:
    """Return 1/2B of the sum of `row_loss` over the queries of both directions, and the pulls -dL/ds_ii, (b,).

    name: of the loss, in messages and in TILES_FROM. Arguments and errors are those of `info_nce`.
    """
    check_options(anchor, label_smoothing)
    B, queries = len(x), checked_queries(queries, len(x))
    per_sample_for = "scale_by_temperature" if scale_by_temperature else None
    tau = checked_value("temperature", temperature, x, y, per_sample_for=per_sample_for, queries=queries)
    positives = checked_positives(positives, x)
    kernels = not (label_smoothing and positives is not None)
    form = choose_form(name, fused, x, y, tau, {"a (B, B) temperature": tau.ndim >= 2}, kernels)
    with torch.autocast(x.device.type, enabled=False):
        if form != "plain":
            decoupled = name == "decoupled_info_nce"
            rows = rows_in_tiles(form, x, y, tau.expand(B), positives, anchor, label_smoothing, decoupled, queries)
        else:
            both = directions(x, y, tau, positives, queries, anchor)
            losses, slopes = zip(*(row_loss(d.similarity / d.value, d, label_smoothing) for d in both), strict=True)
            rows = torch.stack(losses), torch.stack(slopes)  # (2, b)
        loss, slope = (both.mean(dim=0) for both in rows)
        if scale_by_temperature:
            return (loss * tau.expand(B)[queries]).sum() / B, slope / B
        return loss.sum() / B, slope / pair_values(tau.detach(), queries) / B


def check_options(anchor: str = "row", label_smoothing: float = 0.0) -> None:
    """Raise InputError, naming which, unless the anchor is one of ANCHORS and label smoothing lies in [0, 1]."""
    if anchor not in ANCHORS:
        raise InputError(f"anchor is {anchor!r}; it must be one of {', '.join(ANCHORS)}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise InputError(f"label_smoothing is {label_smoothing}; it must lie in [0, 1]")
