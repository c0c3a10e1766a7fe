"""The vision transformer over the patches of all frames of a clip, with one class token: joint space-time attention."""

import torch
from torch import Tensor, nn

from mmts.models.blocks import ClipBlock


class SpaceTimeViT(nn.Module):
    """Clips of F frames, G patches each, to rows: CLIP's vision transformer with a temporal embedding.

    The token of patch g in frame f is  patches(pixels) + position[1 + g] + temporal[f];  the class token has position 0
    and no time. All 1 + F G tokens attend to each other; the class token's last state is normalised and projected.

    With one frame and a zero temporal embedding it is CLIP's vision transformer. A patch is flattened in the order
    channel, row, column, so that the matrix of patches is a convolution's weight flattened.

    Source: Zhao and Kraehenbuehl, Training a Large Video Model on a Single Machine in a Day (AVION), arXiv 2309.16669.

    >>> network = SpaceTimeViT(size=16, patch=8, frames=3, width=8, depth=1, heads=2, inner=32, output_width=5)
    >>> network(torch.rand(2, 3, 3, 16, 16)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        *,
        size: int,
        patch: int,
        frames: int,
        width: int,
        depth: int,
        heads: int,
        inner: int,
        output_width: int,
        activation: str = "gelu",
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.patches = nn.Linear(3 * patch**2, width, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + (size // patch) ** 2, width))
        self.temporal_embedding = nn.Parameter(torch.zeros(frames, width))
        self.ln_pre = nn.LayerNorm(width, eps)
        self.blocks = nn.ModuleList(
            ClipBlock(width, heads=heads, inner=inner, activation=activation, eps=eps) for _ in range(depth)
        )
        self.ln_post = nn.LayerNorm(width, eps)
        self.image_projection = nn.Parameter(torch.empty(width, output_width))
        nn.init.trunc_normal_(self.patches.weight, std=0.02)
        nn.init.normal_(self.class_embedding, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.02)
        nn.init.normal_(self.image_projection, std=width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the rows (B, output_width) of normalised clips (B, F, 3, size, size)."""
        B, F, C, size, _ = pixels.shape
        p, side = self.patch, size // self.patch
        cut = pixels.reshape(B, F, C, side, p, side, p).permute(0, 1, 3, 5, 2, 4, 6)  # (B, F, row, column, 3, p, p)
        tokens = self.patches(cut.reshape(B, F, side * side, C * p * p))
        tokens = tokens + self.positional_embedding[1:] + self.temporal_embedding[:, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(B, 1, -1)
        states: Tensor = self.ln_pre(torch.cat([first, tokens.flatten(1, 2)], dim=1))  # (B, 1 + F G, width)
        for block in self.blocks:
            states = block(states)
        rows: Tensor = self.ln_post(states[:, 0]) @ self.image_projection
        return rows
