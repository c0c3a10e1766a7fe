"""SigLIP's sigmoid loss: every pair judged by itself, right or wrong."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmts.errors import InputError
from mmts.losses.checks import checked_value, other_positives
from mmts.losses.rows import checked_rows, cosine_stripes, own_pairs, query_values


def siglip(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    bias: Tensor | float,
    *,
    positives: Tensor | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Return the sigmoid loss of paired embeddings (docs/method.md, 4.15).

    L = 1/2B sum_ij [ softplus(-k_ij (s_ij / tau_i + b)) + softplus(-k_ij (s_ji / tau_i + b)) ],
    k_ij = 1 where i = j, else -1

    With one temperature for all both terms sum to the same, and L is SigLIP's with t = 1 / tau.

    Shapes: x (media) and y (text) (B, D) of any norm, normalised inside; result (). bfloat16 and half are computed in
    float32, float64 stays; autocast is off inside. Temperature and bias may require grad.

    temperature: () or (B,) or (B, B), finite and positive; (B,) is the query's own in both directions; (B, B): t_ij
        belongs to the pair x_i, y_j.
    bias: (), finite.
    positives: (B, B) bool, y_j is right for x_i too (transposed for the other direction; the diagonal is ignored).
        Such pairs are no negatives: they leave the sum. The own pair always stays, so a batch of one has a loss.
    rows: return these queries' share of the loss alone, as in info_nce.

    InputError for wrong shapes or dtypes, a NaN or infinity (with argument and row).
    Source: Zhai et al., arXiv 2303.15343, algorithm 1 (bias started at -10, t at 10).

    >>> x = torch.eye(2)
    >>> round(siglip(x, x, 0.1, -5.0).item(), 4)  # 2 ln(1 + exp(-5)) a row
    0.0134
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = checked_rows(rows, len(x))
        tau = checked_value("temperature", temperature, x, y, rows=rows)
        bias = torch.as_tensor(bias, dtype=tau.dtype, device=tau.device)
        if bias.ndim or not bool(torch.isfinite(bias)):
            raise InputError(f"bias is {bias.tolist()}; it must be one finite number")
        similarity, temperatures = cosine_stripes(x, y, rows), query_values(tau, rows)
        total = tau.new_zeros(())
        for s, t, others in zip(similarity, temperatures, other_positives(positives, x, rows), strict=True):
            logits = s / t + bias
            cost = softplus(torch.where(own_pairs(s, rows), -logits, logits))
            total = total + (cost if others is None else cost.masked_fill(others, 0.0)).sum()
        return total / (2 * len(x))
