"""Transformer blocks that towers share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.models.base import Checkpointed
from mmts.models.clip_weights import ClipWeights


class _EncoderLayer(Checkpointed, nn.TransformerEncoderLayer):
    pass


def transformer(width: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Return pre-norm transformer blocks with GELU, an inner width of 4 `width`, and a last norm."""
    _check_heads(width, heads)
    layer = _EncoderLayer(width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True)
    blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
    for name, parameter in blocks.named_parameters():  # the encoder copies one layer; each gets its own start
        if parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return blocks


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise InputError(f"width {width} is not a multiple of heads {heads}")


def default_heads(width: int) -> int:
    """Return one head per 64 features, as in ViT and CLIP, or a single one if 64 does not divide the width."""
    return width // 64 if width % 64 == 0 else 1


def _quick_gelu(x: Tensor) -> Tensor:
    """Approximate GELU as OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": _quick_gelu}


class _ClipBlock(Checkpointed):
    """The pre-norm block of CLIP's transformers, with query, key and value in one matrix (in this order).

    x + out(attention(qkv(ln_1(x)))), then x + fc2(activation(fc1(ln_2(x))))
    """

    def __init__(self, width: int, heads: int, inner: int, activation: str, eps: float, causal: bool) -> None:
        super().__init__()
        _check_heads(width, heads)
        self.heads = heads
        self.causal = causal
        self.activation = _ACTIVATIONS[activation]
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
        B, L, width = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(B, L, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # (B, heads, L, width / heads)
        x = x + self.out(attended.transpose(1, 2).reshape(B, L, width))
        hidden: Tensor = self.fc2(self.activation(self.fc1(self.ln_2(x))))
        return x + hidden


class ClipBlocks(nn.ModuleList):
    """The blocks of one of CLIP's transformers. An option that is None follows the weights, or CLIP without weights.

    >>> ClipBlocks(8, 1, heads=2, activation=None, weights=None, eps=1e-6)(torch.rand(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int | None,
        activation: str | None,
        weights: ClipWeights | None,
        eps: float,
        causal: bool = False,
    ) -> None:
        self.heads = heads or (default_heads(width) if weights is None else weights.heads_for(width))
        self.activation = activation or ("gelu" if weights is None else weights.activation)
        self.eps = eps if weights is None else weights.eps
        if self.activation not in _ACTIVATIONS:
            raise InputError(f"the weights need the activation {self.activation!r}, which mmts does not have")
        inner = 4 * width if weights is None else weights.matrix("blocks.0.fc1.weight")[0]
        super().__init__(_ClipBlock(width, self.heads, inner, self.activation, self.eps, causal) for _ in range(depth))

    def forward(self, states: Tensor) -> Tensor:
        """Return the last states (B, L, width)."""
        for block in self:
            states = block(states)
        return states

    def _settings(self) -> tuple[str, ...]:
        return (str(self.heads), self.activation, str(self.eps))
