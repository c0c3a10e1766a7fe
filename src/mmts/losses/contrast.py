"""SogCLR's loss: a batch against its negatives, weighted by sums over negatives that reach beyond the batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmts.losses.checks import checked_positives, checked_value
from mmts.losses.fused.contrast import contrast_in_tiles, with_added
from mmts.losses.fused.tiles import choose_form, number_of_extra
from mmts.losses.queries import checked_queries, directions

Extend = Callable[[Tensor], Tensor]
"""Makes log sums over a batch's negatives, (2, b), -inf for an empty sum, those over all negatives."""


class Contrast(NamedTuple):
    """The loss, (), with gradient, and five tensors (2, b) without, x to y and y to x; 0 without a negative."""

    loss: Tensor
    log_mean: Tensor  # log((S_i + added_i) / number of negatives)
    log_sum: Tensor  # log S_i
    mean_exponent: Tensor  # sum_j w_ij d_ij
    weight: Tensor  # sum_j w_ij
    contrasted: Tensor  # bool, whether the query has a negative

    def slack(self, rho: float) -> Tensor:
        """Return log_mean + rho - mean_exponent: dF/dtau_i of the robust loss F (docs/method.md, 5.6)."""
        return torch.where(self.contrasted, self.log_mean + rho - self.mean_exponent, 0.0)


def contrast(
    x: Tensor,
    y: Tensor,
    temperatures: tuple[Tensor, Tensor],
    extend: Extend = lambda log_sums: log_sums,
    *,
    log_added: Tensor | float | None = None,
    positives: Tensor | None = None,
    queries: slice | None = None,
    fused: bool | None = None,
) -> Contrast:
    """Return a batch's contrast with its negatives (docs/method.md, 5.4, 5.5 and 5.10).

    L = 1/B sum_i sum_{j != i} w_ij (s_ij - s_ii) + the same of y to x,   w_ij = exp(d_ij) / (S_i + added_i) held fixed,
    d_ij = (s_ij - s_ii) / tau_i,   log S_i = extend(log sum_{j != i} exp d_ij)

    temperatures: of x's and of y's queries, () or (B,) each, finite and positive, without gradient.
    extend: by default the negatives of the batch are all there are.
    log_added: log added_i, () or (2, b); None adds nothing.
    fused: as in `info_nce`; None: in tiles on the CPU from TILES_FROM pairs on, and anywhere if b rows take 1 GiB.

    The rest is as in `info_nce`. A query without a negative (B = 1) has loss 0 and gradient 0.
    Source: Yuan et al., arXiv 2202.12387; two modalities: Qiu et al., arXiv 2305.11965.

    >>> x = torch.eye(2)
    >>> result = contrast(x, x, (torch.tensor(0.5), torch.tensor(0.5)))
    >>> result.loss, result.mean_exponent  # one negative each, of weight 1, at a difference of -1
    (tensor(-2.), tensor([[-2., -2.],
            [-2., -2.]]))
    """
    B, queries = len(x), checked_queries(queries, len(x))
    per_sample = (
        checked_value("temperature", tau.detach(), x, y, per_sample_for="an objective with memory")
        for tau in temperatures
    )
    taus = torch.stack([tau.expand(B) for tau in per_sample])
    positives = checked_positives(positives, x)
    number = (B - 1 - number_of_extra(positives, x))[:, queries]  # (2, b)
    contrasted = number > 0
    if fused is None and (queries.stop - queries.start) * B * 4 >= 2**30:
        fused = True
    form = choose_form("contrast", fused, x, y, taus, {}, kernels=False)
    with torch.autocast(x.device.type, enabled=False):
        in_form = _plain if form == "plain" else contrast_in_tiles
        loss, log_sum, mean_exponent, weight = in_form(x, y, taus, extend, log_added, positives, queries)
        log_mean = with_added(log_sum, log_added) - number.to(log_sum).clamp_min(1).log()
        log_mean = torch.where(contrasted, log_mean, 0.0)
        return Contrast(loss, log_mean, log_sum.where(contrasted, 0.0), mean_exponent, weight, contrasted)


def _plain(
    x: Tensor,
    y: Tensor,
    taus: Tensor,
    extend: Extend,
    log_added: Tensor | float | None,
    positives: Tensor | None,
    queries: slice,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, (), log S_i, sum_j w_ij d_ij and sum_j w_ij, (2, b) each."""
    both = directions(x, y, taus[0], positives, queries)
    differences = [d.similarity - d.of_pair(d.similarity)[:, None] for d in both]
    exponents = torch.stack([s.detach() / tau[queries, None] for s, tau in zip(differences, taus, strict=True)])
    positive = torch.stack([d.is_positive for d in both])  # like the exponents (2, b, B)
    log_sums = extend(exponents.masked_fill(positive, float("-inf")).logsumexp(dim=2))
    log_divisors = with_added(log_sums, log_added)
    weights = (exponents - log_divisors[:, :, None]).exp().masked_fill(positive, 0.0)
    loss = sum((w * difference).sum() for w, difference in zip(weights, differences, strict=True)) / len(x)
    return loss, log_sums, (weights * exponents).sum(dim=2), weights.sum(dim=2)
