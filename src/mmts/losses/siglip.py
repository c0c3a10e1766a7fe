"""SigLIP's sigmoid loss, with one yes-or-no decision per pair."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmts.errors import InputError
from mmts.losses.checks import checked_positives, checked_value
from mmts.losses.queries import checked_queries, directions, pair_values, with_pull


@with_pull
def siglip(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    bias: Tensor | float,
    *,
    positives: Tensor | None = None,
    queries: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sigmoid loss of paired embeddings (docs/method.md, 4.15).

    L = 1/2B sum_ij [ softplus(-k_ij (s_ij / tau_i + b)) + softplus(-k_ij (s_ji / tau_i + b)) ],
    k_ij = 1 where i = j, else -1

    With one temperature for all, L is SigLIP's with t = 1 / tau. Shapes, dtypes, errors, `queries` and `with_pull` are
    as in `info_nce`.

    temperature: () or (B,), the query's own in both directions, or (B, B), of the pair x_i, y_j; finite and positive.
    bias: (), finite; may require grad.
    positives: as in `info_nce`; extra positives leave the sum. The positive pair stays, so a batch of one has a loss.

    Source: Zhai et al., arXiv 2303.15343, algorithm 1 (bias started at -10, t at 10).

    >>> x = torch.eye(2)
    >>> round(siglip(x, x, 0.1, -5.0).item(), 4)  # 2 ln(1 + exp(-5)) per row
    0.0134
    """
    queries = checked_queries(queries, len(x))
    tau = checked_value("temperature", temperature, x, y, queries=queries)
    bias = torch.as_tensor(bias, dtype=tau.dtype, device=tau.device)
    if bias.ndim or not bool(torch.isfinite(bias)):
        raise InputError(f"bias is {bias.tolist()}; it must be one finite number")
    loss, pull = tau.new_zeros(()), tau.new_zeros(())
    with torch.autocast(x.device.type, enabled=False):
        for d in directions(x, y, tau, checked_positives(positives, x), queries):
            logits = d.similarity / d.value + bias
            cost = softplus(torch.where(d.is_pair, -logits, logits))
            loss = loss + (cost if d.extra is None else cost.masked_fill(d.extra, 0.0)).sum()
            pull = pull + torch.sigmoid(-d.of_pair(logits.detach())) / pair_values(tau.detach(), queries)
        return loss / (2 * len(x)), pull / (2 * len(x))
