"""Made-up captions and pictures, on which an export is compared with its run."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmts.data.media.image import fit_square, to_pixels
from mmts.models.base import MediaTower, TextTower
from mmts.models.text_towers import SmallTransformer

_CAPTIONS = (
    "a photo of a red shoe",
    "Two men, one with a GREEN hat, repair a bicycle in the street.",
    "l'été à Zürich: 3 cafés, 12 €",
    "dog",
    "a blue cup on a white table beside a window with flowers, " * 20,  # longer than towers accept
)


def captions_for(tower: TextTower) -> list[str]:
    """Return captions, at least one of them with words that the tower knows."""
    known = [" ".join(tower.vocabulary.words[:6])] if isinstance(tower, SmallTransformer) else []
    return [*_CAPTIONS, *known]


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Return a smooth color picture with some noise for each (width, height), always the same."""
    rng = np.random.default_rng(0)
    images = []
    for width, height in sizes:
        across, down = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
        waves = np.stack([np.sin(across + phase) * np.cos(down * phase) for phase in (1.0, 2.0, 3.0)], axis=-1)
        values = 127 + 100 * waves + rng.normal(0, 12, waves.shape)
        images.append(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    return images


def to_inputs(images: list[Image.Image], tower: MediaTower) -> Tensor:
    """Return images as the pixels (B, 3, size, size) that a tower accepts, in [0, 1]."""
    return torch.stack([to_pixels(fit_square(image, tower.size, tower.resize)) for image in images])


def pixels_for(tower: MediaTower, count: int = 5) -> Tensor:
    """Return images (B, 3, size, size), or clips (B, F, 3, size, size) for a video tower."""
    frames = tower.frames or 1
    pixels = to_inputs(pictures(*[(60 + 7 * number, 80) for number in range(count * frames)]), tower)
    return pixels if tower.frames is None else pixels.reshape(count, frames, *pixels.shape[1:])


def features_for(head: nn.Module, width: int, count: int = 5) -> Tensor:
    """Return feature rows (B, W) for a head; `width` is W if the head has no weights."""
    first = next(head.parameters(), None)  # of a norm (W,) or a linear layer (D, W)
    return torch.randn(count, width if first is None else first.shape[-1], generator=torch.Generator().manual_seed(0))


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference of two tensors; infinite if one has a NaN.

    >>> largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    0.5
    """
    difference = (a.double() - b.double()).abs().max()
    return float("inf") if difference.isnan() else float(difference)
