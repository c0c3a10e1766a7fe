"""A model of which each process holds a share of every weight, its gradient and its moments (FSDP2).

Each of n processes holds 1/n of the rows of every weight. A group of weights is gathered before it is used and dropped
afterward: each block of a tower that trains is a group, what remains of each tower is another, and what remains of the
model the last. Gradients are the mean over the processes, as DistributedDataParallel takes it. What a tower keeps
frozen (LoRA, last-N) is shared out too; the objective's parameters are few, and every process has all of them.

Evaluation needs whole weights. It uses the model that was sharded, which keeps its modules and borrows the weights.

Source: Zhao et al., PyTorch FSDP, arXiv 2304.11277; torch.distributed.fsdp.fully_shard.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmts.distributed.divided_state import copy_from_main
from mmts.distributed.processes import num_processes, process_index
from mmts.errors import RunError

M = TypeVar("M", bound=nn.Module)


def launcher_shards() -> bool:
    """Return whether accelerate's launcher asks for a sharded model; RunError if it asks for what mmts does not do."""
    sharded = _is_set("ACCELERATE_USE_FSDP")
    shard = "set train.shard to true, which divides the model by torch's FSDP2"
    refused = {
        "DeepSpeed": (_is_set("ACCELERATE_USE_DEEPSPEED"), f"launch without it, and {shard}"),
        "FSDP version 1": (
            sharded and os.environ.get("FSDP_VERSION", "1") != "2",
            f"Add --fsdp_version 2, or launch without --use_fsdp and {shard}",
        ),
        "--fsdp_offload_params": (sharded and _is_set("FSDP_OFFLOAD_PARAMS"), "drop it: the shares stay on the device"),
        "--fsdp_activation_checkpointing": (
            sharded and _is_set("FSDP_ACTIVATION_CHECKPOINTING"),
            "set train.gradient_checkpointing to true instead",
        ),
    }
    for what, (is_asked, remedy) in refused.items():
        if is_asked:
            raise RunError(f"accelerate launch asks for {what}, which mmts does not use; {remedy}")
    return sharded


def _is_set(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"


def refuse_old_torch() -> None:
    """Raise RunError, naming a version that can, if this torch cannot shard a model over processes on the CPU."""
    if num_processes() > 1 and not torch.cuda.is_available() and not hasattr(torch.cpu.Stream, "record_event"):
        raise RunError(f"torch {torch.__version__} cannot shard a model on the CPU; install 2.7 or drop train.shard")


def shard_model(model: M, towers: Sequence[nn.Module], device: torch.device) -> M:
    """Return a copy of `model` of which this process holds its share; `model` itself is left without weights.

    All processes call it together, and start from the main one's weights.

    towers: the towers of `model` that train, whose blocks are gathered one at a time.

    Raises RunError, naming it, for a weight that cannot be shared out.
    """
    copy_from_main(model)
    names = {id(weight): name for name, weight in model.named_parameters()}
    sharded = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})  # the same weights
    places = [name for tower in towers for name, module in model.named_modules() if module is tower]
    mesh = init_device_mesh(device.type, (num_processes(),))
    done: set[int] = set()
    for group in _groups(sharded, [sharded.get_submodule(name) for name in places]):
        own = [weight for weight in group.parameters() if not isinstance(weight, DTensor)]
        for weight in own:
            if id(weight) in done or weight.ndim == 0:
                why = "belongs to two blocks" if weight.ndim else "is a number without a dimension"
                raise RunError(f"{names[id(weight)]} {why}, and cannot be shared out; leave train.shard out")
        if own or group is sharded:
            fully_shard(group, mesh=mesh)
        _release(own)
        done.update(map(id, own))
    model.to(device)
    return sharded


def _groups(model: nn.Module, towers: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules whose weights are gathered together, inner ones first."""
    blocks = dict.fromkeys(block for tower in towers for block in _blocks(tower))
    weights = [weight for tower in towers for weight in tower.parameters()]
    # A model of the caller's own can be both towers: what is outside its blocks is then gathered once, for both.
    return [*blocks, *(towers if len({*weights}) == len(weights) else ()), model]


def _blocks(tower: nn.Module) -> list[nn.Module]:
    """Return the blocks of a tower: the members of its lists of modules, or what it says must not be split."""
    unsplit = {name for module in tower.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    listed = [*_outermost(tower, lambda parent, child: isinstance(parent, nn.ModuleList))]
    return listed or [*_outermost(tower, lambda parent, child: type(child).__name__ in unsplit)]


def _outermost(module: nn.Module, chosen: Callable[[nn.Module, nn.Module], bool]) -> Iterator[nn.Module]:
    for child in module.children():
        if chosen(module, child) and not isinstance(child, nn.ModuleList | nn.ModuleDict):  # those are never called
            yield child
        else:
            yield from _outermost(child, chosen)


def _release(weights: Sequence[Tensor]) -> None:
    for weight in weights:
        weight.data = weight.data.new_empty(0)


def lend(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the model that was sharded the whole weights of a state of the sharded one; all processes call it."""
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    for name, value in state.items():
        own[name].data = _whole(value).detach().to(own[name].dtype)


@contextmanager
def lent(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, the model that was sharded has the whole weights of `state`."""
    lend(model, state)
    try:
        yield
    finally:
        _release([*model.parameters()])


def on_main_process(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the whole tensors of a sharded state, on the main process's CPU, and none elsewhere; another state as is.

    All processes call it. One weight at a time is whole on the device.
    """
    if not any(isinstance(value, DTensor) for value in state.values()):
        return dict(state)
    result = {}
    for name, value in state.items():
        whole = _whole(value)
        if process_index() == 0:
            result[name] = whole.cpu()
    return result


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def shared_out(state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors as shares where `like` has shares; all processes have the same tensors and call it."""
    return {
        name: distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
        if isinstance(own := like.get(name), DTensor)
        else value
        for name, value in state.items()
    }


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together, of which this process may hold shares: ()."""
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    shares = [value.to_local() for value in gradients if isinstance(value, DTensor)]
    norm = torch.nn.utils.get_total_norm([value for value in gradients if not isinstance(value, DTensor)])
    if shares:
        squares = torch.nn.utils.get_total_norm(shares).double().square()
        distributed.all_reduce(squares)
        norm = (norm.double().square() + squares).sqrt().float()
    return norm


def clip_gradients(parameters: Sequence[Tensor], largest: float, norm: Tensor) -> None:
    """Scale all gradients so that their norm, which is `norm` now, is at most `largest`."""
    for shared in (False, True):  # torch does not mix them
        chosen = [weight for weight in parameters if isinstance(weight, DTensor) == shared]
        torch.nn.utils.clip_grads_with_norm_(chosen, largest, norm)
