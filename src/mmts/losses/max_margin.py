"""The max-margin (hinge) loss over both directions, with one margin for all, one per sample, or one per pair."""

from typing import Literal

import torch
from torch import Tensor

from mmts.losses.checks import checked_positives, checked_relevance, checked_value
from mmts.losses.fused.max_margin import max_margin_in_tiles
from mmts.losses.fused.tiles import choose_form, number_of_extra
from mmts.losses.queries import checked_queries, directions, query_rows, with_pull

Negatives = Literal["all", "hardest"]


@with_pull
def max_margin(
    x: Tensor,
    y: Tensor,
    margin: Tensor | float,
    *,
    positives: Tensor | None = None,
    negatives: Negatives = "all",
    squared: bool = False,
    relevance: Tensor | None = None,
    queries: slice | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the symmetric max-margin loss of paired embeddings (docs/method.md, 4.8 to 4.10, 4.13, 4.17 to 4.19).

    L = mean_{i != j} 1/2 [ relu(m_i - s_ii + s_ij) + relu(m_i - s_ii + s_ji) ],   s_ij = cos(x_i, y_j)

    Shapes, dtypes, errors, `queries` and `with_pull` (5.9) are as in `info_nce`.

    margin: () or (B,), the query's own in both directions, or (B, B), of the pair x_i, y_j; finite and not negative.
    positives: as in `info_nce`; extra positives are not negatives, and means run over the pairs that remain. If none
        remains (B = 1) loss and gradient are 0.
    negatives: "all": the mean over all remaining pairs of a direction; "hardest": each row's largest hinge, and the
        mean over the rows that have a negative.
    squared: square each hinge.
    relevance: (B, B) floating point in [0, 1], of medium i to text j; multiplies the margin of a pair by 1 - relevance.
    fused: as in `info_nce`; the fused version has no (B, B) margin, no hardest negatives and no relevance.

    Source: Karpathy and Fei-Fei, arXiv 1412.2306, equation 9; hardest: VSE++, arXiv 1707.05612, equation 6; a margin
    per sample: MM-TS, arXiv 2603.08202; relevance: Falcon et al., arXiv 2204.13001.

    >>> x = torch.eye(2)
    >>> round(max_margin(x, x, 0.2).item(), 4), round(max_margin(x, x.flip(0), 0.2).item(), 4)
    (0.0, 1.2)
    """
    queries = checked_queries(queries, len(x))
    margin = checked_value("margin", margin, x, y, zero_allowed=True, queries=queries)
    positives = checked_positives(positives, x)
    plain_only = {
        "a (B, B) margin": margin.ndim >= 2,
        "negatives='hardest'": negatives == "hardest",
        "relevance": relevance is not None,
    }
    form = choose_form("max_margin", fused, x, y, margin, plain_only)
    with torch.autocast(x.device.type, enabled=False):
        if form != "plain":
            return max_margin_in_tiles(form, x, y, margin.expand(len(x)), positives, squared, queries)
        both = directions(x, y, margin, positives, queries)
        factors: tuple[Tensor | float, Tensor | float] = (1.0, 1.0)
        if relevance is not None:
            rows = query_rows(checked_relevance(relevance, x, y, queries), queries)
            factors = 1.0 - rows[0], 1.0 - rows[1]
        losses, pulls = [], []
        for d, factor, number in zip(both, factors, len(x) - 1 - number_of_extra(positives, x), strict=True):
            hinge = (d.value * factor - d.of_pair(d.similarity)[:, None] + d.similarity).relu()
            hinge = hinge.masked_fill(d.is_positive, 0.0)  # a hinge is never negative, so 0 is never the largest
            if negatives == "hardest":
                hinge, number = hinge.amax(dim=1, keepdim=True), number > 0
            mean_over = number.sum().clamp_min(1)
            losses.append((hinge.square() if squared else hinge).sum() / mean_over)
            pulls.append((2 * hinge.detach() if squared else (hinge > 0).to(hinge)).sum(dim=1) / mean_over)
        return (losses[0] + losses[1]) / 2, (pulls[0] + pulls[1]) / 2
