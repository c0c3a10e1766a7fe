"""Transformer blocks that towers share."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmts.errors import RecipeError
from mmts.models.options import check_int, check_rate


class Checkpointed(nn.Module):
    """A block that can keep only its inputs for the backward pass, and compute the rest of its activations again then.

    `checkpointing` switches it on; random state is kept, so that dropout draws the same units again.
    """

    checkpointing = False

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call `forward`, checkpointed where that is on and a graph is recorded."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False, **options)
        return super().__call__(*inputs, **options)


class EncoderLayer(Checkpointed, nn.TransformerEncoderLayer):
    """torch's own block, checkpointed where that is on."""


def transformer(name: str, width: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Return pre-norm transformer blocks (GELU, four times the width inside, a last norm); checks the options."""
    check_int(name, "depth", depth, 1)
    check_heads(name, width, heads)
    check_rate(name, "dropout", dropout)
    layer = EncoderLayer(width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True)
    blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
    for block in blocks.layers:  # the encoder copies one layer; each gets its own start
        for module in block.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.MultiheadAttention):
                nn.init.xavier_uniform_(module.in_proj_weight)
    return blocks


def check_heads(name: str, width: int, heads: int) -> None:
    """Raise RecipeError where `width` cannot be shared out among `heads`."""
    check_int(name, "width", width, 1)
    check_int(name, "heads", heads, 1)
    if width % heads:
        raise RecipeError(f"tower {name!r}: width {width} is not a multiple of heads {heads}")


def default_heads(width: int) -> int:
    """Return one head per 64 features, as ViT and CLIP have them, or a single one where that does not come out even."""
    return width // 64 if width % 64 == 0 else 1


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class ClipBlock(Checkpointed):
    """The pre-norm block of CLIP's transformers, with query, key and value in one matrix (in this order).

    x + out(attention(qkv(ln_1(x)))), then x + fc2(activation(fc1(ln_2(x))))

    >>> ClipBlock(8, heads=2, inner=32, activation="gelu", eps=1e-6)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self, width: int, *, heads: int, inner: int, activation: str, eps: float, causal: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.activation = ACTIVATIONS[activation]
        self.ln_1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        for linear in (self.qkv, self.out, self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next states (B, L, width)."""
        B, L, width = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(B, L, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # (B, heads, L, width / heads)
        x = x + self.out(attended.transpose(1, 2).reshape(B, L, width))
        hidden: Tensor = self.fc2(self.activation(self.fc1(self.ln_2(x))))
        return x + hidden
