"""InfoNCE whose rows count the more the less of their probability is still to be won: the row weight of MACL."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mmts.errors import InputError
from mmts.losses.checks import checked_value, other_positives
from mmts.losses.info_nce import ANCHORS, Anchor, direction_temperatures
from mmts.losses.rows import checked_rows, cosine_stripes, own_of, own_pairs


def reweighted_info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    rows: slice | None = None,
) -> Tensor:
    """Return InfoNCE with row i of each direction multiplied by 1/(1 - P_i), without gradient (docs/method.md, 4.16).

    L = 1/2B sum_i [ CE_i / (1 - P_i) + CE'_i / (1 - P'_i) ],   P_i = exp(-CE_i) the softmax probability of its own pair

    Arguments, `rows` too, shapes, dtypes, errors and rows without a negative as in `info_nce`; result (). The
    temperature may require grad. P runs over the candidates of its direction: the paper has one list of both views'
    negatives.

    The gradient is exactly that of `info_nce(..., decoupled=True)`: the weight cancels the factor 1 - P_i in it. It is
    taken that way, so a row with P_i = 1 is no division by zero; the number shown tends to 1 there.
    Source: Huang et al., arXiv 2207.07874 (its gradient reweighting), decoupled: Yeh et al., arXiv 2110.06848.

    >>> x = torch.eye(2)
    >>> round(reweighted_info_nce(x, x, 1.0).item(), 4)  # ln(1 + 1/e) (1 + e)
    1.1648
    """
    gaps = row_gaps(x, y, temperature, positives=positives, anchor=anchor, rows=rows)
    return reweighted_rows(gaps).sum() / (2 * len(x))


def row_gaps(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    rows: slice | None = None,
) -> Tensor:
    """Return d_i = log sum over the negatives of exp(logit) minus the own pair's logit: (2, b), x to y and y to x.

    CE_i = softplus(d_i) and 1 - P_i = sigmoid(d_i). A row without a negative has d_i = -inf, and no gradient.

    >>> row_gaps(torch.eye(2), torch.eye(2), 0.5)
    tensor([[-2., -2.],
            [-2., -2.]])
    """
    if anchor not in ANCHORS:
        raise InputError(f"anchor is {anchor!r}; it must be one of {', '.join(ANCHORS)}")
    with torch.autocast(x.device.type, enabled=False):
        rows = checked_rows(rows, len(x))
        tau = checked_value("temperature", temperature, x, y, rows=rows)
        similarity, temperatures = cosine_stripes(x, y, rows), direction_temperatures(tau, anchor, rows)
        gaps = []
        for s, t, others in zip(similarity, temperatures, other_positives(positives, x, rows), strict=True):
            logits, left_out = s / t, own_pairs(s, rows)
            if others is not None:
                left_out = left_out | others
            empty = left_out.all(dim=1)
            # An empty row keeps its logits until the end, or its gradient would be NaN.
            log_sum = logits.masked_fill(left_out & ~empty[:, None], float("-inf")).logsumexp(dim=1)
            gaps.append((log_sum - own_of(logits, rows)).masked_fill(empty, float("-inf")))
        return torch.stack(gaps)


def reweighted_rows(gaps: Tensor) -> Tensor:
    """Return softplus(d)/sigmoid(d) with the gradient of d, of any shape; 0 without gradient where d is -inf.

    >>> reweighted_rows(torch.tensor([-1000.0, 0.0, float("-inf")]))
    tensor([1.0000, 1.3863, 0.0000])
    """
    empty = gaps == float("-inf")
    d = gaps.masked_fill(empty, 0.0)
    above = d.detach().clamp(min=-40.0)  # below, the quotient is 1 to the last digit, but would be 0/0
    value = (softplus(above) / above.sigmoid()).masked_fill(empty, 0.0)
    return value + (d - d.detach())
