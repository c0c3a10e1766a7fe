"""A model that is cut up over processes (torch's fully_shard) trains in one's own loop as a whole one does."""

import os

import torch
from distributed.together import skip_if_torch_cannot_shard, together
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mmts.adapters.batch_loss import batch_loss
from mmts.distributed.processes import num_processes, process_index
from mmts.models import TwoTower, build_head
from mmts.objectives import InfoNCE, Objective
from mmts.policies import Shifted
from mmts.schedules import Cosine

B, STEPS = 12, 2


def trained() -> list[Tensor]:
    """Return the weights of two heads after two steps; of several processes each has a piece of every weight."""
    torch.manual_seed(0)
    model: nn.Module = TwoTower(None, None, *(build_head("two-layer", width, 8, hidden=16) for width in (10, 6)))
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (num_processes(),))
        for part in (*model.children(), model):
            fully_shard(part, mesh=mesh)
    rule: Objective = InfoNCE(Shifted(Cosine(-0.02, 0.02, cycles=1), torch.linspace(0.05, 0.2, B)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    media, text = torch.randn(B, 10), torch.randn(B, 6)
    own = torch.arange(B).chunk(num_processes())[process_index()]
    for step in range(STEPS):
        x, y = model(media[own], text[own])
        batch_loss(rule, x, y, progress=step / STEPS, samples=own).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return [getattr(each, "full_tensor", lambda each=each: each)().detach() for each in model.parameters()]


def test_a_model_in_pieces_ends_where_a_whole_one_does() -> None:
    skip_if_torch_cannot_shard()
    wanted = trained()
    for given in together(2, trained):
        assert isinstance(given, list), given
        for found, each in zip(given, wanted, strict=True):
            torch.testing.assert_close(found, each, rtol=1e-5, atol=1e-6)
