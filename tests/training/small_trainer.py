"""A trainer small enough to run whole in a tenth of a second."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tests_support import captioned_split
from torch import nn

from mmts.data.batches.epoch_plan import EpochPlan
from mmts.data.batches.loader import Batch, FeatureRows, make_loader
from mmts.distributed.processes import num_processes, process_index
from mmts.models import TwoTower
from mmts.objectives import InfoNCE, Objective
from mmts.policies import Fixed
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Train
from mmts.training.trainer import Trainer

N = 40


def settings(**changes: Any) -> Train:
    return Train(**({"epochs": 4, "batch_size": 10, "learning_rate": 1e-2, "log_every": 1, "trackers": ()} | changes))


def make_trainer(
    run: Path,
    train: Train | None = None,
    objective: Objective | None = None,
    before_batch: Callable[[int], None] = lambda step: None,
    change: Callable[[int, Batch], None] = lambda step, batch: None,
    dropout: float = 0.2,
    recipe: dict[str, Any] | None = None,
) -> Trainer:
    """Return a trainer over features of which the captions' are a rotation of the media's.

    `before_batch` and `change` are called with the step (and the batch) before the trainer gets a batch. Of several
    processes each gets its share of the features.
    """
    train = train or settings()
    generator = torch.Generator().manual_seed(0)
    media = torch.randn(N, 6, generator=generator)
    text = media @ torch.randn(6, 5, generator=generator)
    split = captioned_split([[f"caption {i}"] for i in range(N)], "train")
    plan = EpochPlan(split.owner, N, train.batch_size, train.seed)
    torch.manual_seed(train.seed)
    head = [nn.Linear(6, 16), nn.Dropout(dropout), nn.Linear(16, 4)]
    model = TwoTower(None, None, nn.Sequential(*head), nn.Linear(5, 4))

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        sources = FeatureRows(media.numpy()), FeatureRows(text.numpy())
        process = (process_index(), num_processes())
        for at, batch in enumerate(make_loader(split, plan, *sources, epoch, first, process=process), first):
            step = epoch * plan.batches_per_epoch + at
            before_batch(step)
            change(step, batch)
            yield batch

    def evaluate(model: TwoTower) -> dict[str, Any]:
        with torch.no_grad():
            x, y = model(media, text)
        hits = (x @ y.T).argmax(dim=1) == torch.arange(N)
        return {"image_to_text": {"R@1": 100 * hits.double().mean().item()}}

    return Trainer(
        model,
        objective or InfoNCE(Fixed(0.1)),
        train,
        RunDirectory(run),
        batches=batches,
        batches_per_epoch=plan.batches_per_epoch,
        batch_size=plan.batch_size,
        evaluate=evaluate,
        groups=torch.arange(N) % 3,
        recipe=recipe,
    )


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.whole.state_dict().items()}
