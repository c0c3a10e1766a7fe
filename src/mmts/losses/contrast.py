"""SogCLR's loss: a batch against its negatives, weighted by sums over negatives that reach beyond the batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses.checks import checked_positives, checked_value
from mmts.losses.fused.contrast import fused_contrast
from mmts.losses.fused.tiles import choose_fused, number_of_others, refuse_transforms
from mmts.losses.rows import checked_rows, cosine_stripes, own_of, own_pairs, positives_stripes

FUSED_FROM = 256
"""Pairs a batch from which the fused version is the faster on a CPU (benchmarks/losses.py measures it)."""

Extend = Callable[[Tensor], Tensor]
"""From the logarithms of the batch's sums over negatives, (2, b), -inf where there is none, to those that count."""


class Contrast(NamedTuple):
    """What is found of b queries, x to y and y to x: the loss, (), with gradient, and without (2, b) each.

    All of a query without a negative is 0.
    """

    loss: Tensor
    log_mean: Tensor  # log(S_i / number of negatives)
    log_sum: Tensor  # log S_i
    mean_exponent: Tensor  # sum_j w_ij d_ij
    weight: Tensor  # sum_j w_ij
    contrasted: Tensor  # bool, whether there is a negative

    def slack(self, rho: float) -> Tensor:
        """Return log_mean + rho - mean_exponent: dF/dtau_i of the robust loss F (docs/method.md, 5.6)."""
        return torch.where(self.contrasted, self.log_mean + rho - self.mean_exponent, 0.0)


def contrast(
    x: Tensor,
    y: Tensor,
    temperatures: tuple[Tensor, Tensor],
    extend: Extend = lambda log_sums: log_sums,
    *,
    positives: Tensor | None = None,
    rows: slice | None = None,
    fused: bool | None = None,
) -> Contrast:
    """Return a batch's contrast with its negatives, and what became of them (docs/method.md, 5.4, 5.5 and 5.10).

    L = 1/B sum_i sum_{j != i} w_ij (s_ij - s_ii) + the same of y to x,   w_ij = exp(d_ij) / S_i held fixed,
    d_ij = (s_ij - s_ii) / tau_i,   log S_i = extend(log sum_{j != i} exp d_ij)

    Shapes: x (media) and y (text) (B, D) of any norm and finite, normalised inside. bfloat16 and half are computed in
    float32, float64 stays; autocast is off inside.

    temperatures: of x's and of y's queries, () or (B,) each, finite and positive; no gradient runs through them.
    extend: makes the batch's sums those over all negatives there are; as it is, the loss knows the batch alone.
    positives: (B, B) bool, y_j is right for x_i too (transposed for the other direction; the diagonal is ignored):
        such pairs leave the negatives.
    rows: return these b queries' share of the loss alone; over slices that together are the batch, shares add up to it.
    fused: True: in tiles, without a matrix of b rows in memory, and without second derivatives, torch.func and forward
        mode. False: the plain version. None: fused on the CPU from a batch of FUSED_FROM on, elsewhere where b rows
        take 1 GiB.

    A query without a negative (B = 1) has loss 0 and gradient 0. InputError for wrong shapes or dtypes, a NaN or
    infinity (with argument and row).
    Source: Yuan et al., arXiv 2202.12387; two modalities: Qiu et al., arXiv 2305.11965.

    >>> x = torch.eye(2)
    >>> found = contrast(x, x, (torch.tensor(0.5), torch.tensor(0.5)))
    >>> found.loss, found.mean_exponent  # one negative each, of weight 1, at a difference of -1
    (tensor(-2.), tensor([[-2., -2.],
            [-2., -2.]]))
    """
    B, rows = len(x), checked_rows(rows, len(x))
    with torch.autocast(x.device.type, enabled=False):
        taus = torch.stack([_per_sample(each, x, y) for each in temperatures])
        others = checked_positives(positives, x)
        number = (B - 1 - number_of_others(others, x))[:, rows]  # (2, b)
        contrasted = number > 0
        large = (rows.stop - rows.start) * B * 4 >= 2**30
        if choose_fused("contrast", fused, x, FUSED_FROM, {}, on_gpu=False) or (fused is None and large):
            refuse_transforms("contrast", x, y)
            loss, log_sum, mean_exponent, weight = fused_contrast(x, y, taus, extend, others, rows)
        else:
            loss, log_sum, mean_exponent, weight = _plain(x, y, taus, extend, others, rows)
        log_mean = torch.where(contrasted, log_sum - number.to(log_sum).clamp_min(1).log(), 0.0)
        return Contrast(loss, log_mean, log_sum.where(contrasted, 0.0), mean_exponent, weight, contrasted)


def _per_sample(temperature: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return a side's temperatures, (B,), without gradient."""
    if temperature.ndim >= 2:
        raise InputError(
            f"temperature is {tuple(temperature.shape)}, one value a pair; objectives with memory need one a sample"
        )
    return checked_value("temperature", temperature.detach(), x, y).expand(len(x))


def _plain(
    x: Tensor,
    y: Tensor,
    taus: Tensor,
    extend: Extend,
    positives: Tensor | None,
    rows: slice,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, (), log S_i, sum_j w_ij d_ij and sum_j w_ij, (2, b) each."""
    no_negatives = positives_stripes(positives, rows)
    differences, exponents = [], []
    for s, tau, others in zip(cosine_stripes(x, y, rows), taus, no_negatives, strict=True):
        left_out = own_pairs(s, rows) if others is None else own_pairs(s, rows) | others
        difference = s - own_of(s, rows)[:, None]
        differences.append(difference)
        exponents.append((difference.detach() / tau[rows, None]).masked_fill(left_out, float("-inf")))
    log_sums = extend(torch.stack([each.logsumexp(dim=1) for each in exponents]))
    weights = [  # of a query without a negative -inf - -inf is NaN, and all of its row is left out
        (d - log_sum[:, None]).exp().masked_fill(d.isneginf(), 0.0)
        for d, log_sum in zip(exponents, log_sums, strict=True)
    ]
    loss = sum((w * each).sum() for w, each in zip(weights, differences, strict=True)) / len(x)
    means = [(w * d.masked_fill(d.isneginf(), 0.0)).sum(dim=1) for w, d in zip(weights, exponents, strict=True)]
    return loss, log_sums, torch.stack(means), torch.stack([w.sum(dim=1) for w in weights])
