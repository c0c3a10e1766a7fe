"""InfoNCE over both directions, with one temperature for all, one per sample, or one per pair."""

from torch import Tensor

from mmts.losses.queries import Anchor, Direction, with_pull
from mmts.losses.softmax import softmax_loss
from mmts.options import ZeroToOne


@with_pull
def info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor | float,
    *,
    positives: Tensor | None = None,
    anchor: Anchor = "row",
    label_smoothing: ZeroToOne = 0.0,
    scale_by_temperature: bool = False,
    margin: Tensor | float | None = None,
    candidate_bias: Tensor | None = None,
    bias_positives: bool = True,
    weights: Tensor | None = None,
    queries: slice | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the symmetric InfoNCE loss of paired embeddings (docs/method.md, 4.3 to 4.7, 4.17 to 4.22).

    L = 1/2B sum_i [ CE_i(x_i . y_j / tau_i) + CE_i(y_i . x_j / tau_i) ]

    Shapes: x (media) and y (text) (B, D) of any norm, normalised inside; result (), computed in float32 at least with
    autocast off. `info_nce.with_pull` returns also the pull on each query's positive pair, -dL/ds_ii, (b,), detached.

    temperature: () or (B,) or (B, B), t_ij of the pair x_i, y_j; finite and positive. It may require grad.
    anchor: whose value divides a logit if the temperature is (B,). "row": the query's, in both directions, so the two
        logit matrices are not each other's transpose; "candidate": the candidate's; "media": value i belongs to medium
        i in both directions (one matrix and its transpose).
    positives: (B, B) bool, dense or sparse (COO): y_j is also right for x_i (transposed for the other direction; the
        diagonal is ignored). These extra positives leave numerator, denominator and smoothing. A row without a negative
        (B = 1) has loss 0 and gradient 0.
    label_smoothing: this share of the target is spread evenly over the remaining candidates, the positive included.
    scale_by_temperature: multiply row i by tau_i, which cancels the 1/tau_i in its gradient; not with a (B, B) value.
    margin: () or (B,), finite and not negative; subtracted from the cosine of each positive pair. It may require grad.
    candidate_bias: (B,) or (2, B), finite, without gradient; b_j is added to every logit of candidate j, as in logit
        adjustment, where it is minus the logarithm of the candidate's prior. Row 0 is of texts as candidates (x to y),
        row 1 of media.
    bias_positives: False leaves the logits of positives without the bias.
    weights: (B,), finite and not negative; row i of each direction is multiplied by w_i. The sum is still over 2B.
    queries: compute the part of these b queries only; the parts of a whole batch add up to its loss. Values per pair
        may then also be the queries' rows, (2, b, B).
    fused: True: in tiles, without a (B, B) matrix in memory; not for a (B, B) temperature, second derivatives,
        torch.func or forward mode. False: the plain version. None: the faster one. The Triton kernels have no margin
        and no candidate_bias.

    InputError names the argument and the row.
    Source: van den Oord et al., arXiv 1807.03748; symmetric: CLIP, arXiv 2103.00020, figure 3; a temperature per
    sample: MM-TS, arXiv 2603.08202.

    >>> import torch
    >>> x = torch.eye(2)
    >>> round(info_nce(x, x, 1.0).item(), 4)  # ln(1 + exp(-1))
    0.3133
    >>> info_nce(x, x, torch.tensor([0.1, float("nan")]))
    Traceback (most recent call last):
    mmts.errors.InputError: temperature[1] is nan; it must be finite and positive
    """
    options = positives, anchor, label_smoothing, scale_by_temperature, margin, candidate_bias, bias_positives, weights
    return softmax_loss("info_nce", cross_entropy, x, y, temperature, *options, queries, fused)


def cross_entropy(logits: Tensor, direction: Direction, label_smoothing: float) -> tuple[Tensor, Tensor]:
    """Return CE_i = -log p_ii, smoothed, and q_ii - p_ii, q the target: (b, B) -> (b,) each."""
    if direction.extra is not None:
        logits = logits.masked_fill(direction.extra, float("-inf"))
    log_p = logits.log_softmax(dim=1)
    of_pair = direction.of_pair(log_p)
    if not label_smoothing:
        return -of_pair, 1.0 - of_pair.detach().exp()
    mean, remaining = direction.mean_over_candidates(log_p)
    target = (1.0 - label_smoothing) + label_smoothing / remaining
    return -(1.0 - label_smoothing) * of_pair - label_smoothing * mean, target - of_pair.detach().exp()
