"""Judging in chunks against one dense similarity matrix sorted whole."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Comparison, compare
from mmts.data.records import Medium, Split
from mmts.evaluation.rank import judge
from mmts.losses import unit

PER_MEDIUM, D = 5, 256
Ranks = tuple[Tensor, Tensor]


def run() -> Iterator[Comparison]:
    """Compare ranks of 25,000 captions by 5,000 images, five captions an image."""
    ours, plain = ways(500)
    # Sorting puts ties in any order and another product rounds otherwise, so a few ranks may differ by one.
    for expected, ranks in zip(plain(), ours(), strict=True):
        if (expected - ranks).abs().max() > 1 or (expected != ranks).double().mean() > 0.01:
            raise AssertionError("both ways must give the same ranks")
    setting = "25,000 captions by 5,000 images"
    yield compare("ranks of both directions", setting, *ways(5000), repeats=1, warm=True)


def ways(N: int) -> tuple[Callable[[], Ranks], Callable[[], Ranks]]:
    """Return ours and the plain way to rank N images for their captions and the captions for their images."""
    torch.manual_seed(0)
    media, text = unit(torch.randn(N, D)), unit(torch.randn(N * PER_MEDIUM, D))
    captions = [tuple(f"caption {i} {j}" for j in range(PER_MEDIUM)) for i in range(N)]
    split = Split("test", tuple(Medium(str(i), Path(f"{i}.jpg"), captions[i]) for i in range(N)))

    def ours() -> Ranks:
        found = judge(media, text, split, "own")
        return found.text_ranks, found.media_ranks

    def dense() -> Ranks:
        similarity = text @ media.T
        order = similarity.argsort(dim=1, descending=True)
        text_ranks = (order == split.owner[:, None]).int().argmax(dim=1) + 1
        back = similarity.T.argsort(dim=1, descending=True)
        media_ranks = (split.owner[back] == torch.arange(N)[:, None]).int().argmax(dim=1) + 1
        return text_ranks, media_ranks

    return ours, dense
