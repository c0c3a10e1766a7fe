"""Transformer blocks that the small image and text towers share."""

from torch import nn

from mmts.errors import RecipeError
from mmts.models.options import check_int, check_rate


def transformer(name: str, width: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Return pre-norm transformer blocks (GELU, four times the width inside, a last norm); checks the options."""
    check_int(name, "width", width, 1)
    check_int(name, "depth", depth, 1)
    check_int(name, "heads", heads, 1)
    check_rate(name, "dropout", dropout)
    if width % heads:
        raise RecipeError(f"tower {name!r}: width {width} is not a multiple of heads {heads}")
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
    for block in blocks.layers:  # the encoder copies one layer; each gets its own start
        for module in block.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.MultiheadAttention):
                nn.init.xavier_uniform_(module.in_proj_weight)
    return blocks
