"""State per sample divided over the processes by range: each holds 1/n of the rows, and a checkpoint all of them.

A checkpoint is that of one process, so it resumes on any number of them. All processes call these functions together.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mmts.distributed.processes import num_processes, process_index
from mmts.errors import RunError
from mmts.objectives import Objective
from mmts.objectives.memory import ObjectiveWithMemory, Share


def divide_state(objective: Objective) -> None:
    """Let each of several processes hold its share of an objective's state per sample."""
    if num_processes() > 1 and isinstance(objective, ObjectiveWithMemory):
        objective.divide(Share(process_index(), num_processes(), distributed.all_reduce))


def copy_from_main(module: nn.Module) -> None:
    """Give every process the main one's parameters and buffers, except those of an objective that are divided."""
    if num_processes() > 1:
        divided = _sizes(module) if isinstance(module, Objective) else {}
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if name not in divided:
                distributed.broadcast(tensor.detach(), 0)


def whole_state(objective: Objective) -> dict[str, Any]:
    """Return on the main process the objective's state with all rows; on the others with their own."""
    state: dict[str, Any] = objective.state_dict()
    for name, size in _sizes(objective).items():
        own = state[name].cpu()
        if process_index():
            distributed.send(own.view(torch.uint8), 0)
            continue
        state[name] = own.new_empty(size)
        for process, rows in enumerate(_parts(objective, state[name])):
            rows.copy_(own) if process == 0 else distributed.recv(rows.view(torch.uint8), process)
    return state


def take_tables(objective: Objective, state: Any) -> dict[str, Tensor]:
    """Take out of a checkpoint's state the tables that are divided. Raises RunError if they do not fit."""
    tables = {}
    for name, size in _sizes(objective).items():
        table, own = state.pop(name, None), objective.get_buffer(name)
        if not isinstance(table, Tensor) or table.shape != (size,) or table.dtype != own.dtype:
            raise RunError(f"the checkpoint does not fit this run: {name} is not ({size},); choose another --out")
        tables[name] = table
    return tables


def own_tables(objective: Objective, tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return this process's rows of the tables that the main one has taken."""
    result = {}
    for name in _sizes(objective):
        own = torch.empty_like(objective.get_buffer(name), device="cpu")
        if process_index():
            distributed.recv(own.view(torch.uint8), 0)
        else:
            for process, rows in enumerate(_parts(objective, tables[name])):
                own.copy_(rows) if process == 0 else distributed.send(rows.view(torch.uint8), process)
        result[name] = own
    return result


def _sizes(objective: Objective) -> dict[str, int]:
    """Return the rows over all processes of each table that is divided."""
    if not isinstance(objective, ObjectiveWithMemory) or objective.share is None:
        return {}
    return {name: size for name, (_, size) in objective.tables().items()}


def _parts(objective: Objective, table: Tensor) -> list[Tensor]:
    """Return the rows of each process of a whole table."""
    share = objective.share
    assert isinstance(share, Share)
    return [table[share.held(len(table), process)] for process in range(share.number)]
