"""What image and text towers have in common: a width, a fingerprint of their weights, and being frozen."""

import hashlib
from typing import Any

import torch
from torch import nn

from mmts.files import content_hash


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
