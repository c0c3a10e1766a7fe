"""SogCLR's loss: a batch against its negatives, weighted by sums over negatives that reach beyond the batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from mmts.losses.checks import checked_positives, checked_table, checked_value
from mmts.losses.fused.contrast import Extend, Terms, contrast_in_tiles, with_added
from mmts.losses.fused.tiles import choose_form, number_of_extra
from mmts.losses.queries import checked_queries, directions


class Contrast(NamedTuple):
    """The loss, (), with gradient. The rest has none: (2, b), x to y and y to x; 0 for a query without a negative."""

    loss: Tensor
    log_mean: Tensor  # log(S_i / n_i + added_i)
    log_sum: Tensor  # log S_i
    mean_exponent: Tensor  # sum_j w_ij (s_ij - s_ii) / tau_i
    weight: Tensor  # sum_j w_ij
    number: Tensor  # n_i, how many negatives the query has
    received: Tensor | None  # (2, B), of each candidate, if asked for

    @property
    def contrasted(self) -> Tensor:
        """Whether the query has a negative: (2, b) bool."""
        return self.number > 0

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
    lowered: Tensor | None = None,
    candidate_bias: Tensor | None = None,
    log_received: Tensor | None = None,
    positives: Tensor | None = None,
    queries: slice | None = None,
    fused: bool | None = None,
) -> Contrast:
    """Return a batch's contrast with its negatives (docs/method.md, 5.4, 5.5, 5.10 and 5.11).

    L = 1/B sum_i sum_{j != i} w_ij (s_ij - s_ii) + the same of y to x,   w_ij = exp(d_ij) / (S_i + n_i added_i) held
    fixed,   d_ij = (s_ij - s_ii - lowered_j) / tau_i + b_j,   log S_i = extend(log sum_{j != i} exp d_ij),
    n_i negatives

    temperatures: of x's and of y's queries, () or (B,) each, finite and positive, without gradient.
    extend: by default the negatives of the batch are all there are.
    log_added: log added_i, () or (2, b); None adds nothing.
    lowered: (2, B), of the candidates x to y (rows of y) and y to x; None is 0.
    candidate_bias: b, as in `info_nce`.
    log_received: log a_i, (2, b), for `received`: sum_{i != j} exp(d_ij) / (S_i / n_i + a_i) over the queries.
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
    if (bias := candidate_bias) is not None:
        bias = checked_table("candidate_bias", bias, x, y, ((B,), (2, B))).expand(2, B)
    number = (B - 1 - number_of_extra(positives, x))[:, queries]  # (2, b)
    form = choose_form("contrast", fused, x, y, taus, {}, kernels=False, queries=queries)
    log_number = number.to(taus).clamp_min(1).log()
    log_added = None if log_added is None else log_number + log_added

    def log_mean_of(log_sum: Tensor) -> Tensor:
        """Return log(S_i / n_i + a_i), by which `received` divides."""
        return with_added(log_sum - log_number, log_received)

    with torch.autocast(x.device.type, enabled=False):
        means = None if log_received is None else log_mean_of
        terms = Terms(x, y, taus, extend, log_added, lowered, bias, means, positives, queries)
        in_form = _plain if form == "plain" else contrast_in_tiles
        loss, log_sum, mean_exponent, weight, received = in_form(terms)
        log_mean = torch.where(number > 0, with_added(log_sum, log_added) - log_number, 0.0)
        return Contrast(loss, log_mean, log_sum.where(number > 0, 0.0), mean_exponent, weight, number, received)


def _plain(terms: Terms) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Return the loss, (), log S_i, sum_j w_ij (s_ij - s_ii) / tau_i and sum_j w_ij, (2, b) each, and `received`."""
    x, y, taus, extend, log_added, lowered, bias, log_mean_of, positives, queries = terms
    both = directions(x, y, taus[0], positives, queries)
    differences = [d.similarity - d.of_pair(d.similarity)[:, None] for d in both]
    exponents = torch.stack([s.detach() / tau[queries, None] for s, tau in zip(differences, taus, strict=True)])
    d_ij = exponents if lowered is None else exponents - lowered[:, None, :] / taus[:, queries, None]
    d_ij = d_ij if bias is None else d_ij + bias[:, None, :]
    positive = torch.stack([d.is_positive for d in both])  # like the exponents (2, b, B)
    log_sums = extend(d_ij.masked_fill(positive, float("-inf")).logsumexp(dim=2))
    log_divisors = with_added(log_sums, log_added)
    weights = (d_ij - log_divisors[:, :, None]).exp().masked_fill(positive, 0.0)
    loss = sum((w * difference).sum() for w, difference in zip(weights, differences, strict=True)) / len(x)
    received = None
    if log_mean_of is not None:
        factors = (log_divisors - log_mean_of(log_sums)).exp()
        received = (factors[:, :, None] * weights).sum(dim=1)
    return loss, log_sums, (weights * exponents).sum(dim=2), weights.sum(dim=2), received
