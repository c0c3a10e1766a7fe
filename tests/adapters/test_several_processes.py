"""Several processes train under another library's loop as one with the whole batch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters.made import COUNTS, published, shifted
from distributed.together import together
from torch import Tensor, distributed, nn

from mmts.adapters.batch_loss import Rule, batch_loss
from mmts.distributed.processes import num_processes, process_index
from mmts.objectives import InfoNCE
from mmts.policies import Learned

PLAIN: dict[str, Any] = {"max_steps": 2, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1}
SHARES = [slice(0, 3), slice(3, 8)]  # as the last batch of a loader that divides by itself may be


def gradients(rule: Rule, samples: Tensor) -> list[Tensor]:
    """Return the loss of the whole batch and the mean over the processes of a tower's gradient, as DDP has it."""
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    torch.manual_seed(0)
    tower = nn.Linear(4, 4, dtype=torch.float64)
    x, y = torch.randn(2, 8, 4, dtype=torch.float64)
    own = SHARES[process_index()] if num_processes() > 1 else slice(None)
    media = torch.arange(8) // 2
    output = batch_loss(rule, tower(x[own]), y[own], progress=0.3, samples=samples[own], media=media[own])
    output.loss.backward()
    assert tower.weight.grad is not None
    if num_processes() > 1:
        distributed.all_reduce(tower.weight.grad)
    return [output.loss.detach(), tower.weight.grad / num_processes(), output.log["temperature"]]


@pytest.mark.parametrize(("rule", "samples"), [(shifted, torch.arange(8)), (published, COUNTS)])
def test_unequal_shares_have_the_gradients_of_the_whole_batch(rule: Any, samples: Tensor) -> None:
    wanted = gradients(rule(), samples)
    for given in together(2, gradients, rule(), samples):
        for found, each in zip(given, wanted, strict=True):
            torch.testing.assert_close(found, each, rtol=1e-12, atol=1e-12)


def clip(folder: Path, batch_size: int, **backend: str) -> list[Tensor]:
    """Return a tiny CLIP's and its learned temperature's weights after two steps with all eight pairs."""
    from adapters.test_huggingface import make_trainer, rows

    trainer = make_trainer(
        folder, InfoNCE(Learned()), rows(index=torch.arange(8)), **PLAIN, **of(batch_size), **backend
    )
    trainer.train()
    return [each.detach().clone() for each in (*trainer.model.parameters(), *trainer.rule.parameters())]


def texts(folder: Path, batch_size: int, **backend: str) -> list[Tensor]:
    """Return the same of a text model in the trainer of sentence-transformers."""
    from adapters.test_sentence_transformers import make_trainer, pairs, text_model

    from mmts.adapters.sentence_transformers import PairLoss

    loss = PairLoss(text_model(), InfoNCE(Learned()))
    make_trainer(folder, loss, pairs(list(range(8))), **PLAIN, **of(batch_size), **backend).train()
    return [each.detach().clone() for each in loss.parameters()]


def of(batch_size: int) -> dict[str, Any]:
    return {"per_device_train_batch_size": batch_size}


def over_gloo(trained: Callable[..., list[Tensor]], folder: Path) -> list[Tensor]:
    return trained(folder, batch_size=4, ddp_backend="gloo")


@pytest.mark.slow
@pytest.mark.parametrize("trained", [clip, texts])
def test_a_trainer_over_two_processes_ends_where_one_does(trained: Any, tmp_path: Path) -> None:
    wanted = trained(tmp_path / "one", batch_size=8)
    for given in together(2, over_gloo, trained, tmp_path / "two"):
        assert isinstance(given, list), given
        for found, each in zip(given, wanted, strict=True):
            torch.testing.assert_close(found, each, rtol=1e-5, atol=1e-6)
