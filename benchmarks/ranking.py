"""Ranking a split in chunks, compared with sorting one dense similarity matrix."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Comparison, compare
from mmts.data.records import Medium, Split
from mmts.evaluation.rank import judge
from mmts.losses import unit

CAPTIONS_PER_MEDIUM, D = 5, 256
Ranks = tuple[Tensor, Tensor]


def run() -> Iterator[Comparison]:
    """Compare the ranks of 5,000 images with five captions each."""
    ours, plain = ways(500)
    # A sort leaves ties in any order and another product rounds differently, so a few ranks may differ by one.
    for expected, ranks in zip(plain(), ours(), strict=True):
        if (expected - ranks).abs().max() > 1 or (expected != ranks).double().mean() > 0.01:
            raise AssertionError("both ways must give the same ranks")
    setting = "5,000 images, 25,000 captions"
    yield compare("ranks in both directions", setting, *ways(5000), repeats=1, warm=True)


def ways(M: int) -> tuple[Callable[[], Ranks], Callable[[], Ranks]]:
    """Return our way and the plain way to rank M images for their captions and the captions for their images."""
    torch.manual_seed(0)
    media, text = unit(torch.randn(M, D)), unit(torch.randn(M * CAPTIONS_PER_MEDIUM, D))
    captions = [tuple(f"caption {i} {j}" for j in range(CAPTIONS_PER_MEDIUM)) for i in range(M)]
    split = Split("test", tuple(Medium(str(i), Path(f"{i}.jpg"), captions[i]) for i in range(M)))

    def ours() -> Ranks:
        of_text, of_media = judge(media, text, split, "own")
        return of_text.ranks, of_media.ranks

    def plain() -> Ranks:
        similarity = text @ media.T
        order = similarity.argsort(dim=1, descending=True)
        text_ranks = (order == split.owner[:, None]).int().argmax(dim=1) + 1
        order = similarity.T.argsort(dim=1, descending=True)
        media_ranks = (split.owner[order] == torch.arange(M)[:, None]).int().argmax(dim=1) + 1
        return text_ranks, media_ranks

    return ours, plain
