"""A few made-up captions and pictures, on which an export is compared with the run it came from."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmts.data.media.image import fit_square, to_pixels
from mmts.models.base import MediaTower, TextTower
from mmts.models.text_towers import SmallTransformer

CAPTIONS = (
    "a photo of a red shoe",
    "Two men, one with a GREEN hat, repair a bicycle in the street.",
    "l'été à Zürich: 3 cafés, 12 €",
    "dog",
    "a blue cup on a white table beside a window with flowers, " * 20,  # longer than towers take
)


def captions_for(tower: TextTower) -> list[str]:
    """Return captions, of which some have words that the tower knows."""
    known = [" ".join(tower.vocabulary.words[:6])] if isinstance(tower, SmallTransformer) else []
    return [*CAPTIONS, *known]


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Return a smooth coloured picture with some noise for each (width, height), always the same."""
    rng = np.random.default_rng(0)
    drawn = []
    for width, height in sizes:
        across, down = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
        waves = np.stack([np.sin(across + phase) * np.cos(down * phase) for phase in (1.0, 2.0, 3.0)], axis=-1)
        values = 127 + 100 * waves + rng.normal(0, 12, waves.shape)
        drawn.append(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    return drawn


def pixels_for(tower: MediaTower, count: int = 5) -> Tensor:
    """Return images (count, 3, size, size) or clips (count, F, 3, size, size) as the tower takes them, in [0, 1]."""
    frames = tower.frames or 1
    drawn = pictures(*[(60 + 7 * number, 80) for number in range(count * frames)])
    images = torch.stack([to_pixels(fit_square(each, tower.size, tower.resize)) for each in drawn])
    return images if tower.frames is None else images.reshape(count, frames, *images.shape[1:])


def features_for(head: nn.Module, width: int, count: int = 5) -> Tensor:
    """Return feature rows (count, W) as a head takes them; `width` is what a head without weights passes through."""
    first = next(head.parameters(), None)  # of a norm (W,) or a linear layer (D, W)
    return torch.randn(count, width if first is None else first.shape[-1], generator=torch.Generator().manual_seed(0))


def largest_difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference of two tensors; infinite where one has a NaN.

    >>> largest_difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    0.5
    """
    difference = (a.double() - b.double()).abs().max()
    return float("inf") if difference.isnan() else float(difference)
