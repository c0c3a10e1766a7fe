"""The trainer, compared with a bare loop with the same model, loss, optimizer, batches and checkpoint after each epoch.

The trainer also finds extra positives, can resume within an epoch, checks for NaNs, and writes the log and TensorBoard.
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
from mmts.models import TwoTower, build_head
from mmts.models.image_towers import SmallViT
from mmts.objectives import InfoNCE
from mmts.policies import Fixed
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Train
from mmts.training.optimizer import learning_rate_schedule, parameter_groups
from mmts.training.trainer import Trainer

TEXT_WIDTH, D = 384, 256


def run() -> Iterator[Comparison]:
    """Compare heads on frozen features, as in the recipe `catalogue`, and a small ViT that is trained."""
    features, images = torch.randn(11_776, 1280), torch.randint(0, 256, (640, 3, 64, 64), dtype=torch.uint8)
    yield _compare("heads on features", features, lambda: TwoTower(None, None, *_heads(1280)), 256, 138, 7)
    yield _compare("small-vit at 64 px", images, lambda: TwoTower(SmallViT(64), None, *_heads(192)), 64, 10, 3)


def _heads(width: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    media, text = (build_head("two-layer", features, D, hidden=1024, dropout=0.2) for features in (width, TEXT_WIDTH))
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
        return torch.nn.utils.parameters_to_vector(model.parameters())

    def plain() -> Tensor:
        torch.manual_seed(0)
        model = build()
        objective = InfoNCE(Fixed(0.05))
        learning_rate = learning_rate_schedule(settings)
        optimizer = torch.optim.AdamW(parameter_groups([model, objective], settings.weight_decay))
        plan = EpochPlan(split.owner, split.num_media, B, seed=0)
        model.train()
        step = 0
        while step < steps:
            for pairs in plan.batches(step // plan.batches_per_epoch)[: steps - step]:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step / steps)
                optimizer.zero_grad()
                x, y = model(media[pairs.media], text[pairs.text])
                objective(x, y, progress=step / steps, index=pairs.index).loss.backward()
                optimizer.step()
                step += 1
            with tempfile.TemporaryFile() as file:
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        return torch.nn.utils.parameters_to_vector(model.parameters())

    torch.testing.assert_close(ours(), plain())
    setting = f"{what}, batch {B}, {steps} steps"
    return compare("trainer, against a bare loop", setting, ours, plain, repeats, (B * steps, "pairs"), warm=True)
