"""Judging in chunks against one dense similarity matrix sorted whole."""

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.measure import Comparison, compare
from mmts.data.records import Medium, Split
from mmts.evaluation import judge
from mmts.losses import unit


def run() -> Iterator[Comparison]:
    """Compare ranks of 25,000 captions by 5,000 images, five captions an image."""
    N, per_medium, D = 5000, 5, 256
    torch.manual_seed(0)
    media, text = unit(torch.randn(N, D)), unit(torch.randn(N * per_medium, D))
    captions = [tuple(f"caption {i} {j}" for j in range(per_medium)) for i in range(N)]
    split = Split("test", tuple(Medium(str(i), Path(f"{i}.jpg"), captions[i]) for i in range(N)))

    def dense() -> tuple[torch.Tensor, torch.Tensor]:
        similarity = text @ media.T
        order = similarity.argsort(dim=1, descending=True)
        text_ranks = (order == split.owner[:, None]).int().argmax(dim=1) + 1
        back = similarity.T.argsort(dim=1, descending=True)
        media_ranks = (split.owner[back] == torch.arange(N)[:, None]).int().argmax(dim=1) + 1
        return text_ranks, media_ranks

    # Sorting puts ties in any order and another product rounds otherwise, so a few ranks may differ by one.
    found = judge(media, text, split, "own")
    for expected, ranks in zip(dense(), (found.text_ranks, found.media_ranks), strict=True):
        if (expected - ranks).abs().max() > 1 or (expected != ranks).double().mean() > 0.01:
            raise AssertionError("both ways must give the same ranks")
    yield compare(
        "ranks of both directions",
        "25,000 captions by 5,000 images",
        lambda: judge(media, text, split, "own"),
        dense,
        repeats=1,
        warm=True,
    )
