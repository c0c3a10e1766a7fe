"""Projection heads: from a tower's features (B, W) to the common space (B, D)."""

from torch import nn

from mmts.errors import RecipeError, nearest

_KINDS = ("linear", "two-layer", "none")


def build_head(
    kind: str, in_width: int, out_width: int, *, hidden: int = 512, dropout: float = 0.0, layer_norm: bool = True
) -> nn.Module:
    """Return a head (B, in_width) -> (B, out_width).

    Args:
        kind: "linear" is one affine map; "two-layer" is linear, GELU, dropout, linear; "none" passes features through.
        in_width: width of the tower's features.
        out_width: width of the embeddings.
        hidden: width between the two layers; only for "two-layer".
        dropout: share of hidden units dropped in training; only for "two-layer".
        layer_norm: normalize each feature row first, so that towers of any scale train alike; not for "none".

    Raises:
        RecipeError: an unknown kind, or "none" for two different widths.

    >>> build_head("linear", 384, 256, layer_norm=False)
    Sequential(
      (0): Linear(in_features=384, out_features=256, bias=True)
    )
    """
    if kind not in _KINDS:
        raise RecipeError(f"unknown head {kind!r}; {nearest(kind, _KINDS)}")
    if kind == "none":
        if in_width != out_width:
            raise RecipeError(
                f"head 'none' keeps the tower's width {in_width}, but the model's width is {out_width}; "
                f"set width to {in_width}, or use a linear or two-layer head"
            )
        return nn.Identity()
    layers: list[nn.Module] = [nn.LayerNorm(in_width)] if layer_norm else []
    if kind == "two-layer":
        layers += [nn.Linear(in_width, hidden), nn.GELU(), nn.Dropout(dropout)]
        in_width = hidden
    return nn.Sequential(*layers, nn.Linear(in_width, out_width))
