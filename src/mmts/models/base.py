"""What towers have in common: a width, a fingerprint of their weights, being frozen, and (media) wanting pixels."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmts.data.media.image import RESIZES
from mmts.data.media.video import FrameSampling
from mmts.errors import RecipeError
from mmts.files import content_hash
from mmts.models.blocks import Checkpointed
from mmts.models.options import check_choice, check_int


class Tower(nn.Module):
    """A network that turns one side's inputs into feature rows (B, width).

    Attributes:
        name: what a recipe calls it.
        width: number of features of a row.
        from_scratch: whether its weights start at random, so that freezing it makes no sense.
    """

    name: str
    width: int
    from_scratch: bool = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @property
    def fingerprint(self) -> str:
        """Name and hash of the present weights and of every setting that changes the features; computed when asked."""
        return f"{self.name}-{content_hash(*self.settings(), hash_weights(self))}"

    def settings(self) -> tuple[str, ...]:
        """Return whatever else than the weights decides about the features."""
        return ()

    def freeze(self) -> None:
        """Stop training it: evaluation mode, no gradients."""
        self.requires_grad_(False).eval()

    def enable_gradient_checkpointing(self) -> None:
        """Keep only what enters each block for the backward pass, and compute the rest again then.

        Less memory for about a third more time; the gradients are the same. Raises RecipeError where the tower has no
        blocks to do this with.
        """
        blocks = [module for module in self.modules() if isinstance(module, Checkpointed)]
        if not blocks:
            raise RecipeError(
                f"tower {self.name!r} cannot checkpoint its gradients; set gradient_checkpointing to false"
            )
        for block in blocks:
            block.checkpointing = True


class MediaTower(Tower):
    """Images or clips, with values in [0, 1], to feature rows (B, width); normalises them itself.

    Attributes:
        size: side of the square input in pixels.
        mean: (3,) subtracted from each colour.
        std: (3,) each colour is divided by.
        resize: how a rectangle becomes that square, see `mmts.data.media.image.fit_square`.
        frames: F, of a clip; None for images.
        sampling: which frames of a video; None for images.
    """

    mean: Tensor
    std: Tensor
    frames: int | None = None
    sampling: FrameSampling | None = None

    def __init__(self, name: str, size: int, mean: Sequence[float], std: Sequence[float], resize: str) -> None:
        super().__init__(name)
        self.size = check_int(name, "size", size, 8)
        self.resize = check_choice(name, "resize", resize, RESIZES)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return pixels (..., 3, size, size), in [0, 1] or uint8, less the mean, over the standard deviation."""
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(self.mean.dtype) / 255
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]

    def settings(self) -> tuple[str, ...]:
        """Size, resize, mean and std: all that happens to the pixels."""
        return (str(self.size), self.resize, str(self.mean.tolist()), str(self.std.tolist()))


class TextTower(Tower):
    """Captions to feature rows (B, width): `tower(tower.tokenize(captions))`."""

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return what `forward` takes, each (B, L); captions longer than the tower's limit are cut."""
        raise NotImplementedError

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the features (B, width) of what `tokenize` gave."""
        raise NotImplementedError


def is_frozen(tower: nn.Module) -> bool:
    """Return whether nothing in `tower` trains."""
    return not any(parameter.requires_grad for parameter in tower.parameters())


def hash_weights(module: nn.Module) -> str:
    """Name the weights and buffers of `module` by their bytes, whatever device they are on.

    >>> layer = nn.Linear(2, 2)
    >>> before = hash_weights(layer)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> hash_weights(layer) == before
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        flat: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(flat)
    return digest.hexdigest()
