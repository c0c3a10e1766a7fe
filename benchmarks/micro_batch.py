"""A batch in pieces (GradCache) against the same batch at once: what the saved memory costs in time."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import Comparison, compare
from mmts.data.batches.loader import Batch
from mmts.models import TwoTower
from mmts.models.image_towers import SmallViT
from mmts.objectives import InfoNCE, ObjectiveOutput
from mmts.policies import Fixed
from mmts.training.micro_batch import micro_batch_step


def run() -> Iterator[Comparison]:
    """Compare a forward and backward pass of small-vit; the text side is rows."""
    B, size = 32, 8
    torch.manual_seed(0)
    model = TwoTower(SmallViT(size=64), None, nn.Linear(192, 128), nn.Linear(384, 128))
    index = torch.arange(B)
    batch = Batch(torch.rand(B, 3, 64, 64), torch.randn(B, 384), index, index)
    info_nce = InfoNCE(Fixed(0.07))

    def objective(x: Tensor, y: Tensor) -> ObjectiveOutput:
        output: ObjectiveOutput = info_nce(x, y, progress=0.0, index=index)
        return output

    def in_pieces() -> list[Tensor]:
        model.zero_grad()
        micro_batch_step(model, batch, size, objective)
        return [each.grad for each in model.parameters() if each.grad is not None]

    def at_once() -> list[Tensor]:
        model.zero_grad()
        objective(*model(batch.media, batch.text)).loss.backward()
        return [each.grad for each in model.parameters() if each.grad is not None]

    for ours, wanted in zip(in_pieces(), at_once(), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)
    setting = f"small-vit, 64 px, {B} pairs in pieces of {size}"
    yield compare("gradients in pieces, a quarter of the memory", setting, in_pieces, at_once, 3)
