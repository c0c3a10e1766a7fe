"""Losses with per-sample values against the textbook loss with one number, forward and backward."""

from collections.abc import Iterator

import torch
from torch.nn.functional import cross_entropy, normalize

from benchmarks.measure import Comparison, compare
from mmts.losses import info_nce, max_margin


def run() -> Iterator[Comparison]:
    """Compare at one batch size; gradients reach the embeddings."""
    B, D = 2048, 512
    torch.manual_seed(0)
    x = torch.randn(B, D, requires_grad=True)
    y = torch.randn(B, D, requires_grad=True)
    values = torch.rand(B) * 0.15 + 0.05
    setting = f"B = {B}, D = {D}, float32, forward and backward"

    def textbook() -> None:
        logits = normalize(x) @ normalize(y).T / 0.1
        target = torch.arange(B)
        ((cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2).backward()

    yield compare("info_nce, a temperature a sample", setting, lambda: info_nce(x, y, values).backward(), textbook)

    def index_lists() -> None:
        """The published form: every positive beside every negative, as two long columns."""
        for similarity in (normalize(x) @ normalize(y).T, normalize(y) @ normalize(x).T):
            positive = similarity.diagonal()[:, None].expand(B, B).reshape(-1, 1)
            pairs = torch.cat([positive, similarity.reshape(-1, 1)], dim=1)
            off_diagonal = (~torch.eye(B, dtype=torch.bool)).reshape(-1).nonzero().squeeze(1)
            chosen = pairs.index_select(0, off_diagonal)
            margin = values[:, None].expand(B, B).reshape(-1).index_select(0, off_diagonal)
            ((margin - chosen[:, 0] + chosen[:, 1]).relu().mean() / 2).backward()

    yield compare("max_margin, a margin a sample", setting, lambda: max_margin(x, y, values).backward(), index_lists, 3)
