"""The trainer against a bare loop with the same model, loss, optimizer and batches, and a checkpoint after each epoch.

What the trainer does beside: positives, batches that can be resumed, looking for NaNs, the log and TensorBoard.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Comparison, compare
from mmts.console import quiet
from mmts.data.batches.epoch_plan import EpochPlan
from mmts.data.batches.loader import Batch, FeatureRows, make_loader
from mmts.data.records import Medium, Split
from mmts.models import TwoTower
from mmts.models.heads import build_head
from mmts.models.image_towers import SmallViT
from mmts.objectives import InfoNCE
from mmts.policies import Fixed
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.train_section import Train
from mmts.training.optimizer import learning_rate_schedule, parameter_groups
from mmts.training.trainer import Trainer

TEXT_WIDTH, D = 384, 256


def run() -> Iterator[Comparison]:
    """Compare heads on features as the recipe `catalogue` tunes them, and a small ViT that trains."""
    features, images = torch.randn(11_776, 1280), torch.randint(0, 256, (640, 3, 64, 64), dtype=torch.uint8)
    yield _compare(
        "trainer, tuning heads", features, lambda: TwoTower(None, None, *_heads(1280)), B=256, steps=138, repeats=7
    )
    yield _compare("trainer, small-vit at 64 px", images, lambda: TwoTower(SmallViT(64), None, *_heads(192)), 64, 10, 3)


def _heads(width: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    media, text = (build_head("two-layer", each, D, hidden=1024, dropout=0.2) for each in (width, TEXT_WIDTH))
    return media, text


def _compare(what: str, media: Tensor, build: Callable[[], TwoTower], B: int, steps: int, repeats: int) -> Comparison:
    text = torch.randn(len(media), TEXT_WIDTH)
    split = Split("train", [Medium(str(i), Path(f"{i}.jpg"), (f"caption {i}",)) for i in range(len(media))])
    settings = Train(steps=steps, batch_size=B, learning_rate=5e-4)

    def ours() -> Tensor:
        torch.manual_seed(0)
        model = build()
        plan = EpochPlan(split.owner, split.num_media, B, seed=0)
        text_rows = FeatureRows(text.numpy())

        def batches(epoch: int, first: int) -> Iterator[Batch]:
            return make_loader(split, plan, lambda at, epoch: media[at], text_rows, epoch, first)

        with tempfile.TemporaryDirectory() as folder, quiet():
            objective = InfoNCE(Fixed(0.05))
            trainer = Trainer(
                model, objective, settings, RunDirectory(Path(folder)), batches, plan.batches_per_epoch, B
            )
            trainer.fit()
        return torch.cat([each.flatten() for each in model.parameters()])

    def plain() -> Tensor:
        torch.manual_seed(0)
        model = build()
        objective = InfoNCE(Fixed(0.05))
        rate = learning_rate_schedule(settings)
        optimizer = torch.optim.AdamW(parameter_groups([model, objective], settings.weight_decay))
        plan = EpochPlan(split.owner, split.num_media, B, seed=0)
        model.train()
        done = 0
        while done < steps:
            for pairs in plan.batches(done // plan.batches_per_epoch)[: steps - done]:
                for group in optimizer.param_groups:
                    group["lr"] = rate(done / steps)
                optimizer.zero_grad()
                x, y = model(media[pairs.media], text[pairs.text])
                objective(x, y, progress=done / steps, index=pairs.index).loss.backward()
                optimizer.step()
                done += 1
            with tempfile.TemporaryFile() as file:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        return torch.cat([each.flatten() for each in model.parameters()])

    torch.testing.assert_close(ours(), plain())
    return compare(
        f"{what}, against a bare loop",
        f"batch {B}, {steps} steps",
        ours,
        plain,
        repeats,
        (B * steps, "pairs"),
        warm=True,
    )
