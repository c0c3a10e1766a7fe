"""A batch in micro-batches (GradCache), compared with the whole batch at once: saved memory for more time."""

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
    """Compare a forward and backward pass of small-vit with features as the text side."""
    B, size = 32, 8
    torch.manual_seed(0)
    model = TwoTower(SmallViT(size=64), None, nn.Linear(192, 128), nn.Linear(384, 128))
    index = torch.arange(B)
    batch = Batch(torch.rand(B, 3, 64, 64), torch.randn(B, 384), index, index)
    info_nce = InfoNCE(Fixed(0.07))

    def objective(x: Tensor, y: Tensor) -> ObjectiveOutput:
        output: ObjectiveOutput = info_nce(x, y, progress=0.0, index=index)
        return output

    def gradients() -> list[Tensor]:
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    def in_micro_batches() -> list[Tensor]:
        model.zero_grad()
        micro_batch_step(model, batch, size, objective)
        return gradients()

    def at_once() -> list[Tensor]:
        model.zero_grad()
        objective(*model(batch.media, batch.text)).loss.backward()
        return gradients()

    for ours, expected in zip(in_micro_batches(), at_once(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    what = "gradients in micro-batches with a quarter of the memory, against the whole batch"
    yield compare(what, f"small-vit, 64 px, {B} pairs in micro-batches of {size}", in_micro_batches, at_once, 3)
