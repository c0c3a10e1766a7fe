"""Projection heads: from a tower's features (B, W) to the common space (B, D)."""

from torch import nn

from mmts.errors import RecipeError
from mmts.models.options import check_rate, nearest

KINDS = ("linear", "two-layer", "none")


def build_head(kind: str, in_width: int, out_width: int, *, hidden: int = 512, dropout: float = 0.0) -> nn.Module:
    """Return a head (B, in_width) -> (B, out_width).

    Args:
        kind: "linear" is one affine map; "two-layer" is linear, GELU, dropout, linear; "none" passes rows through.
        in_width: width of the tower's features.
        out_width: width of the embeddings.
        hidden: width between the two layers; only for "two-layer".
        dropout: share of hidden units dropped in training; only for "two-layer".

    Raises:
        RecipeError: an unknown kind, or "none" where the widths differ.

    >>> build_head("linear", 384, 256)
    Linear(in_features=384, out_features=256, bias=True)
    """
    if kind == "linear":
        return nn.Linear(in_width, out_width)
    if kind == "two-layer":
        rate = check_rate("two-layer head", "dropout", dropout)
        return nn.Sequential(nn.Linear(in_width, hidden), nn.GELU(), nn.Dropout(rate), nn.Linear(hidden, out_width))
    if kind == "none":
        if in_width != out_width:
            raise RecipeError(
                f"head 'none' keeps the tower's width {in_width}, but the model's width is {out_width}; "
                f"set width to {in_width}, or use a linear or two-layer head"
            )
        return nn.Identity()
    raise RecipeError(f"unknown head {kind!r}; {nearest(kind, KINDS)}")
