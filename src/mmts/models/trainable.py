"""What of a tower trains: nothing, its last blocks, low-rank additions to its linear layers (LoRA), or all of it."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field
from torch import nn

from mmts.errors import RecipeError, counted, nearest
from mmts.models.base import Tower

FORMS = ("none", "head", "last-N", "lora", "all")
_LAST = re.compile(r"last-([1-9]\d*)")
# The projections of attention, by the name of a class's model type in transformers; others adapt all linear layers.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_TARGETS = {
    "clip": _ATTENTION,
    "siglip": _ATTENTION,
    "bert": ("query", "key", "value"),
    "vit": ("query", "key", "value"),
}


def _known_form(form: str) -> str:
    if form not in FORMS[:2] + FORMS[3:] and not _LAST.fullmatch(form):
        raise ValueError(f"unknown form {form!r}; {nearest(form, FORMS)}, such as last-2")
    return form


Form = Annotated[
    str,
    AfterValidator(_known_form),
    Field(
        description="What trains on this side. `none`: nothing; `head`: the head alone, on features of the tower that "
        "are computed once and cached; `last-N`: the last N blocks of the tower, what follows them, and the head; "
        "`lora`: low-rank additions to the tower's linear layers, and the head; `all`: everything."
    ),
]
"""A value of the key `train` of a tower."""


def set_trainable(
    tower: Tower, form: str, *, rank: int = 8, alpha: int = 16, targets: Sequence[str] | None = None
) -> None:
    """Let so much of a tower train as `form` says (see `Form`), and freeze the rest.

    With "lora" the weight W (out, in) of a linear layer becomes W + alpha / rank * B A, where A (rank, in) is random
    and B (out, rank) starts at 0, so that the tower computes what it did before.

    targets: the ends of the names of the linear layers that "lora" adapts; None chooses by the family of the model.

    Raises RecipeError for more blocks than the tower has, a tower without linear layers, or targets that none has.

    Source: Hu et al., LoRA, arXiv 2106.09685.
    """
    if form == "all":
        tower.requires_grad_(True)
        return
    tower.freeze()
    if last := _LAST.fullmatch(form):
        for parameter in _last_parameters(tower, int(last[1])):
            parameter.requires_grad_(True)
    elif form == "lora":
        _add_lora(tower, rank, alpha, targets)
    tower.train()


def _last_parameters(tower: Tower, count: int) -> Iterator[nn.Parameter]:
    """Yield the parameters of the last blocks, and of the modules after them: norms and projections."""
    lists = {name: module for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise RecipeError(f"tower {tower.name!r} has no blocks, of which train last-{count} could take the last")
    name = max(lists, key=lambda name: len(lists[name]))
    blocks = lists[name]
    if count > len(blocks):
        raise RecipeError(f"tower {tower.name!r} has {counted(len(blocks), 'block')}; train cannot be last-{count}")
    embeddings = [module for module in tower.modules() if isinstance(module, nn.Embedding)]
    before = {id(value) for module in embeddings for value in module.parameters()}
    before |= {id(value) for value in tower.parameters(recurse=False)}
    first, found = f"{name}.{len(blocks) - count}.", False
    for key, parameter in tower.named_parameters():
        found = found or key.startswith(first)
        # A projection that is a bare parameter, as in open_clip, is named before the blocks.
        if (found and id(parameter) not in before) or key.endswith(("proj", "projection")):
            yield parameter


def _add_lora(tower: Tower, rank: int, alpha: int, targets: Sequence[str] | None) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    linear = [name for name, module in tower.named_modules() if isinstance(module, nn.Linear)]
    # Attention of nn.MultiheadAttention reads its output projection's weight itself, without calling the layer.
    fused = [name for name, module in tower.named_modules() if isinstance(module, nn.MultiheadAttention)]
    linear = [name for name in linear if not name.startswith(tuple(f"{outer}." for outer in fused))]
    if not linear:
        raise RecipeError(f"tower {tower.name!r} has no linear layers for LoRA; set its key train to last-N or all")
    if targets is None:
        family = str(getattr(getattr(getattr(tower, "model", None), "config", None), "model_type", ""))
        own = next((ends for start, ends in _TARGETS.items() if family.startswith(start)), ())
        chosen = [name for name in linear if name.rpartition(".")[2] in own] or linear
    else:
        chosen = [name for name in linear if name.endswith(tuple(targets))]
        if not chosen:
            ends = sorted({name.rpartition(".")[2] for name in linear})
            raise RecipeError(f"tower {tower.name!r}: lora.targets fits none of its linear layers: {', '.join(ends)}")
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, lora_dropout=0.0, bias="none")
    inject_adapter_in_model(config, tower)
    for layer in tower.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = 0  # its fast path in evaluation would read the weights without LoRA


def merge_lora(tower: nn.Module) -> None:
    """Write W + alpha / rank * B A into every linear layer that LoRA adapts, and remove A and B."""
    if not hasattr(tower, "peft_config"):
        return
    from peft.tuners.lora import LoraLayer

    del tower.peft_config  # peft would warn of a second adapter if another LoRA is added
    for name, module in [*tower.named_modules()]:
        if isinstance(module, LoraLayer):
            module.merge()
            outer, _, key = name.rpartition(".")
            setattr(tower.get_submodule(outer), key, module.get_base_layer())
