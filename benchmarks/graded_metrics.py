"""mAP and nDCG of graded relevance from one sort in chunks, compared with one metric at a time on the whole matrix."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.measure import Comparison, compare
from mmts.metrics import graded_scores

Figures = list[Tensor]


def run() -> Iterator[Comparison]:
    """Compare both directions on a matrix with the size and the sparse relevance of EPIC-KITCHENS-100's test split."""
    ours, plain = ways(967, 384)
    # A plain sort leaves the few equal scores in any order.
    torch.testing.assert_close(torch.stack(ours()), torch.stack(plain()), rtol=0, atol=1e-5)
    M, N = 9668, 3842
    setting = f"{M:,} clips, {N:,} captions, graded relevance"
    yield compare("mAP and nDCG in both directions", setting, *ways(M, N), 1, warm=True)


def ways(M: int, N: int) -> tuple[Callable[[], Figures], Callable[[], Figures]]:
    """Return our way and the plain way to compute all figures of M clips and N captions."""
    generator = torch.Generator().manual_seed(0)
    verb, noun = ((classes * torch.rand(M, generator=generator) ** 3).long() for classes in (60, 200))
    owner = torch.randint(M, (N,), generator=generator)  # the clip of each caption
    relevance = (verb[:, None] == verb[owner]).double() / 2 + (noun[:, None] == noun[owner]).double() / 2
    relevance[:, 0] = 1.0  # every clip has a caption that fits
    similarity = torch.randn(M, N, generator=generator)
    directions = ((similarity, relevance), (similarity.T, relevance.T))

    def ours() -> Figures:
        results = [graded_scores(*direction) for direction in directions]
        return [figure.mean() for result in results for figure in (result.average_precision, result.ndcg)]

    def plain() -> Figures:
        return [metric(*direction) for direction in directions for metric in (dense_map, dense_ndcg)]

    return ours, plain


def dense_map(similarity: Tensor, relevance: Tensor) -> Tensor:
    """Mean average precision by its definition."""
    ordered = relevance.gather(1, similarity.double().argsort(dim=1, descending=True))
    precision = ordered.cumsum(dim=1) / torch.arange(1, ordered.shape[1] + 1)
    hit = ordered == 1
    return ((precision * hit).sum(dim=1) / hit.sum(dim=1)).mean()


def dense_ndcg(similarity: Tensor, relevance: Tensor) -> Tensor:
    """The nDCG by its definition, cut at the number of relevant items."""
    ordered = relevance.gather(1, similarity.double().argsort(dim=1, descending=True))
    discount = torch.arange(2, ordered.shape[1] + 2).double().log2()
    within = torch.arange(ordered.shape[1]) < (relevance > 0).sum(dim=1, keepdim=True)
    ideal = relevance.sort(dim=1, descending=True).values
    return ((ordered * within / discount).sum(dim=1) / (ideal / discount).sum(dim=1)).mean()
