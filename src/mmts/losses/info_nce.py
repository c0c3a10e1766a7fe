"""InfoNCE over both directions with one temperature for all, one a sample, or one a pair."""

from typing import Literal

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.checks import checked_positives, checked_value, other_positives
from mmts.losses.fused.info_nce import fused_rows
from mmts.losses.fused.tiles import choose_fused, refuse_transforms, triton_takes
from mmts.losses.fused.triton.info_nce import triton_rows
from mmts.losses.rows import (
    Stripes,
    checked_rows,
    cosine_stripes,
    own_of,
    own_pairs,
    own_values,
    query_values,
)

Anchor = Literal["row", "candidate", "media"]
ANCHORS: tuple[Anchor, ...] = ("row", "candidate", "media")
FUSED_FROM = 1024
"""Pairs a batch from which the fused version is the faster on a CPU (benchmarks/losses.py measures it)."""


def info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    label_smoothing: float = 0.0,
    scale_by_temperature: bool = False,
    decoupled: bool = False,
    multi_positive: bool = False,
    rows: slice | None = None,
    fused: bool | None = None,
) -> Tensor:
    """Return the symmetric InfoNCE loss of paired embeddings (docs/method.md, 4.3 to 4.7, 4.11, 4.12, 4.17 to 4.19).

    L = 1/2B sum_i [ CE_i(x_i . y_j / tau_i) + CE_i(y_i . x_j / tau_i) ]

    Shapes: x (media) and y (text) (B, D) of any norm, normalised inside; result (). bfloat16 and half are computed in
    float32, float64 stays; autocast is off inside. The temperature may require grad.

    temperature: () or (B,) or (B, B), finite and positive.
    anchor: whose value divides a logit when the temperature is (B,). "row": the query's, in both directions, so the two
        logit matrices are not each other's transpose; "candidate": the candidate's; "media": value i belongs to medium
        i in both directions (one matrix and its transpose). A (B, B) temperature t_ij belongs to the pair x_i, y_j,
        hence is transposed for the other direction, and `anchor` is not looked at.
    positives: (B, B) bool, dense or sparse (COO), y_j is right for x_i too (transposed for the other direction; the
        diagonal is ignored). Such pairs leave numerator, denominator and smoothing (but see multi_positive). A row with
        no other candidate left (B = 1) has loss 0 and gradient 0.
    label_smoothing: this share of the target is spread evenly over the candidates that remain, the own one included.
    scale_by_temperature: multiply row i by tau_i, which undoes the 1/tau_i in its gradient; not with a (B, B) value.
    decoupled: the targets leave the denominator, which then holds the negatives alone. The loss may be negative, and
        has no lower bound as tau falls. A row without a negative has loss 0 and gradient 0.
    multi_positive: the other positives stay as targets: minus the mean of log p over the own candidate and them (the
        mean outside the logarithm, SupCon's L_out), each p with all candidates in its denominator, positives too.
    rows: return these b queries' share of the loss alone; over slices that together are the batch, shares add up to it.
        Memory is that of their rows, (2, b, B), in which form a temperature a pair may then be given too: x to y, then
        y to x, the queries first.
    fused: True: in tiles, the same loss and gradients without a (B, B) matrix in memory. It has no (B, B) temperature,
        no multi_positive with positives, no second derivatives, no torch.func and no
        forward mode. False: the plain version. None: fused where the options allow, on the CPU from a
        batch of FUSED_FROM on, on a GPU with Triton from GPU_FUSED_FROM on.

    InputError for wrong shapes or dtypes, a NaN or infinity (with argument and row), an unknown option, or what the
    fused version was told to do and cannot.
    Source: van den Oord et al., arXiv 1807.03748; the symmetric form of CLIP, arXiv 2103.00020, figure 3; a temperature
    a sample: MM-TS, arXiv 2603.08202; decoupled: Yeh et al., arXiv 2110.06848; multi_positive: Khosla et al., arXiv
    2004.11362, equation 2.

    >>> x = torch.eye(2)
    >>> round(info_nce(x, x, 1.0).item(), 4)  # ln(1 + exp(-1))
    0.3133
    >>> info_nce(x, x, torch.tensor([0.1, float("nan")]))
    Traceback (most recent call last):
    mmts.errors.InputError: temperature[1] is nan; it must be finite and positive
    """
    return info_nce_and_pull(
        x,
        y,
        temperature,
        positives=positives,
        anchor=anchor,
        label_smoothing=label_smoothing,
        scale_by_temperature=scale_by_temperature,
        decoupled=decoupled,
        multi_positive=multi_positive,
        rows=rows,
        fused=fused,
    )[0]


def info_nce_and_pull(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    label_smoothing: float = 0.0,
    scale_by_temperature: bool = False,
    decoupled: bool = False,
    multi_positive: bool = False,
    rows: slice | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return info_nce, and how it pulls on each query's own pair: -dL/ds_ii, (b,), detached (docs/method.md, 5.1).

    Arguments, dtypes and errors as in info_nce; the fused version has both from its one pass.

    >>> loss, pull = info_nce_and_pull(torch.eye(2), torch.eye(2), torch.tensor([0.5, 1.0]))
    >>> pull  # (1 - p_ii) / tau_i over B, here the same in both directions
    tensor([0.1192, 0.1345])
    """
    if anchor not in ANCHORS:
        raise InputError(f"anchor is {anchor!r}; it must be one of {', '.join(ANCHORS)}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise InputError(f"label_smoothing is {label_smoothing}; it must lie in [0, 1]")
    with torch.autocast(x.device.type, enabled=False):
        B, rows = len(x), checked_rows(rows, len(x))
        tau = checked_value("temperature", temperature, x, y, pairs_allowed=not scale_by_temperature, rows=rows)
        multi_positive = multi_positive and positives is not None
        cannot = {"a (B, B) temperature": tau.ndim >= 2, "multi_positive with positives": multi_positive}
        on_gpu = triton_takes(x, y) and not (label_smoothing and positives is not None)
        if choose_fused("info_nce", fused, x, FUSED_FROM, cannot, on_gpu):
            refuse_transforms("info_nce", x, y, tau)
            rows_of = triton_rows if on_gpu else fused_rows
            positives = checked_positives(positives, x)
            found = rows_of(x, y, tau.expand(B), positives, anchor, label_smoothing, decoupled, rows)
        else:
            found = _entropies(x, y, tau, positives, anchor, label_smoothing, decoupled, multi_positive, rows)
        entropy, slope = (each.mean(dim=0) for each in found)  # (b,)
        if scale_by_temperature:
            return (entropy * tau.expand(B)[rows]).sum() / B, slope / B
        return entropy.sum() / B, slope / own_values(tau.detach(), rows) / B


def direction_temperatures(tau: Tensor, anchor: Anchor, rows: slice) -> Stripes:
    """Return what divides the queries' logits of x to y and of y to x, broadcastable to (b, B) (docs/method.md, 4.4).

    >>> xy, yx = direction_temperatures(torch.tensor([1.0, 2.0]), "media", slice(0, 1))
    >>> xy.shape, yx.shape
    (torch.Size([1, 1]), torch.Size([1, 2]))
    """
    of_query, of_query_too = query_values(tau, rows)
    if anchor == "row" or tau.ndim != 1:
        return of_query, of_query_too
    of_candidate = tau[None, :]
    return of_candidate if anchor == "candidate" else of_query, of_candidate


def _entropies(
    x: Tensor,
    y: Tensor,
    tau: Tensor,
    positives: Tensor | None,
    anchor: Anchor,
    label_smoothing: float,
    decoupled: bool,
    multi_positive: bool,
    rows: slice,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of the queries' rows and q - p of own pairs, (2, b) each, x to y and y to x."""
    similarity, temperatures = cosine_stripes(x, y, rows), direction_temperatures(tau, anchor, rows)
    found = []
    for s, t, others in zip(similarity, temperatures, other_positives(positives, x, rows), strict=True):
        if decoupled or multi_positive:
            found.append(_spread_entropy(s / t, rows, others, label_smoothing, decoupled, multi_positive))
        else:
            found.append(_cross_entropy(s / t, rows, others, label_smoothing))
    entropies, slopes = zip(*found, strict=True)
    return torch.stack(entropies), torch.stack(slopes)


def _cross_entropy(logits: Tensor, rows: slice, others: Tensor | None, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the rows' cross-entropy with their own pairs as targets and q - p of these, (b, B) -> (b,) each.

    `others` (b, B) bool are left out of the candidates.
    """
    remaining: Tensor | int = logits.shape[1]
    if others is not None:
        logits = logits.masked_fill(others, float("-inf"))
        remaining = remaining - others.sum(dim=1)
    log_p = logits.log_softmax(dim=1)
    own = own_of(log_p, rows)
    loss = -own
    if label_smoothing:
        spread = log_p if others is None else log_p.masked_fill(others, 0.0)
        loss = (1.0 - label_smoothing) * loss - label_smoothing * spread.sum(dim=1) / remaining
    return loss, (1.0 - label_smoothing) + label_smoothing / remaining - own.detach().exp()


def _spread_entropy(
    logits: Tensor,
    rows: slice,
    others: Tensor | None,
    label_smoothing: float,
    decoupled: bool,
    multi_positive: bool,
) -> tuple[Tensor, Tensor]:
    """Return the rows' cross-entropy, targets and denominators apart, and q - p of own pairs, (b, B) -> (b,) each."""
    targets = own_pairs(logits, rows)
    candidates = torch.ones_like(targets)
    if others is not None:
        targets, candidates = (targets | others, candidates) if multi_positive else (targets, ~others)
    denominator = candidates & ~targets if decoupled else candidates
    any_left = denominator.any(dim=1)
    # A row with nothing to sum keeps its logits, or its logarithm would be -inf and its gradient NaN.
    log_sum = logits.masked_fill(~denominator & any_left[:, None], float("-inf")).logsumexp(dim=1)
    share = (1.0 - label_smoothing) * _shares(targets, logits) + label_smoothing * _shares(candidates, logits)
    own_p = 0.0 if decoupled else (own_of(logits, rows) - log_sum).detach().exp()
    slope = own_of(share, rows) - own_p
    loss = log_sum - (share * logits).sum(dim=1)
    return loss.masked_fill(~any_left, 0.0), slope.masked_fill(~any_left, 0.0)


def _shares(mask: Tensor, like: Tensor) -> Tensor:
    """Return a distribution a row, even over what the mask (b, B) holds."""
    return mask.to(like.dtype) / mask.sum(dim=1, keepdim=True)
