"""What the InfoNCE losses share: the checks, the choice between plain rows and tiles, and the mean over the queries."""

from collections.abc import Callable
from functools import update_wrapper
from inspect import signature
from typing import Any, ParamSpec, Protocol, cast

import torch
from torch import Tensor

from mmts.losses.checks import checked_positives, checked_table, checked_value
from mmts.losses.fused.info_nce import rows_in_tiles
from mmts.losses.fused.tiles import KnownGradients, choose_form
from mmts.losses.queries import Anchor, Direction, LossFunction, checked_queries, directions, pair_values, with_pull
from mmts.options import NotNegative

P = ParamSpec("P")
RowLoss = Callable[[Tensor, Direction, float], tuple[Tensor, Tensor]]
"""Logits (b, B), their direction, label smoothing -> each query's loss, and minus its slope in z_ii, detached, (b,)."""


class RowsFunction(LossFunction[P], Protocol[P]):
    """A loss that is the mean of `rows` over the queries."""

    rows: RowLoss


def like(loss: LossFunction[P]) -> Callable[[RowLoss], RowsFunction[P]]:
    """Turn a RowLoss into a loss with the arguments of another one, such as `info_nce`."""

    def with_rows(rows: RowLoss) -> RowsFunction[P]:
        def both(x: Tensor, y: Tensor, temperature: Tensor | float, **options: Any) -> tuple[Tensor, Tensor]:
            return softmax_loss(rows.__name__, rows, x, y, temperature, **options)

        update_wrapper(both, rows).__annotations__ = loss.with_pull.__annotations__
        both.__signature__ = signature(loss.with_pull)  # type: ignore[attr-defined]
        result: Any = with_pull(both)
        result.rows = rows
        return cast(RowsFunction[P], result)

    return with_rows


def softmax_loss(
    name: str,
    row_loss: RowLoss,
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    label_smoothing: float = 0.0,
    scale_by_temperature: bool = False,
    margin: Tensor | float | None = None,
    candidate_bias: Tensor | None = None,
    bias_positives: bool = True,
    weights: Tensor | None = None,
    queries: slice | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return 1/2B of the sum of `row_loss` over the queries of both directions, and the pulls -dL/ds_ii, (b,).

    name: of the loss, in messages and in TILES_FROM, for the losses with a fused version. The rest is as in `info_nce`.
    """
    B, queries = len(x), checked_queries(queries, len(x))
    per_sample_for = "scale_by_temperature" if scale_by_temperature else None
    tau = checked_value("temperature", temperature, x, y, per_sample_for=per_sample_for, queries=queries)
    positives = checked_positives(positives, x)
    if margin is not None:
        margin = checked_value("margin", margin, x, y, zero_allowed=True, per_sample_for=name).expand(B)
    if (bias := candidate_bias) is not None:
        bias = checked_table("candidate_bias", bias, x, y, ((B,), (2, B))).expand(2, B)
    if weights is not None:
        weights = checked_table("weights", weights, x, y, ((B,),), NotNegative)[queries]
    kernels = margin is None and bias is None and not (label_smoothing and positives is not None)
    plain_only = {
        "a (B, B) temperature": tau.ndim >= 2,
        "positives": name == "multi_positive_info_nce" and positives is not None,
    }
    form = choose_form(name, fused, x, y, tau, plain_only, kernels, queries)
    with torch.autocast(x.device.type, enabled=False):
        gradients = None
        if form != "plain":
            pull = tau.new_full((queries.stop - queries.start,), 1 / B) / 2
            pull = pull * tau.detach().expand(B)[queries] if scale_by_temperature else pull
            pull = pull if weights is None else pull * weights
            options = anchor, label_smoothing, name == "decoupled_info_nce", queries, margin, bias, bias_positives
            *rows, gradients = rows_in_tiles(form, x, y, tau.expand(B), positives, pull.expand(2, -1), *options)
        else:
            both = directions(x, y, tau, positives, queries, anchor)
            biases = (None, None) if bias is None else bias
            logits = (_logits(d, margin, of_d, bias_positives) for d, of_d in zip(both, biases, strict=True))
            results = (row_loss(z, d, label_smoothing) for z, d in zip(logits, both, strict=True))
            rows = [torch.stack(each) for each in zip(*results, strict=True)]  # (2, b) each
        losses, slope = (both.mean(dim=0) for both in rows)
        if weights is not None:
            losses, slope = losses * weights, slope * weights
        if scale_by_temperature:
            losses = losses * tau.expand(B)[queries]
        else:
            slope = slope / pair_values(tau.detach(), queries)
        loss = losses.sum() / B
        if gradients is not None:
            inputs = (x, y, tau.expand(B)) if margin is None else (x, y, tau.expand(B), margin)
            loss = KnownGradients.apply(loss, gradients[: len(inputs)], ("the fused info_nce",), *inputs)  # type: ignore[no-untyped-call]
        return loss, slope / B


def _logits(d: Direction, margin: Tensor | None, bias: Tensor | None, bias_positives: bool) -> Tensor:
    """Return z_ij = s_ij / tau_ij + b_j, (b, B), with s_ii - m_i for s_ii, from m (B,) and b (B,) of the candidates."""
    similarity = d.similarity
    if margin is not None:
        of_queries = margin[d.start : d.start + len(similarity), None]
        similarity = similarity - torch.where(d.is_pair, of_queries, 0.0)
    logits = similarity / d.value
    if bias is None:
        return logits
    return logits + (bias if bias_positives else torch.where(d.is_positive, 0.0, bias))
