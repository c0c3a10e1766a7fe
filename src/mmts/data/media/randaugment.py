"""RandAugment as ALBEF's code has it, and after it that of SogCLR, iSogCLR, TempNet, NUCLR and MM-TS, with Pillow."""

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MOST = 10  # the largest magnitude
_GRAY = (128, 128, 128)  # where an operation leaves no picture
_Change = Callable[[Image.Image], Image.Image]


def draw_changes(rng: np.random.Generator, operations: int, magnitude: float) -> list[_Change]:
    """Draw that many of the ten operations, with repetition, and return those that are applied: each with chance 1/2.

    With m = magnitude / 10: AutoContrast and Equalize (of each channel), Brightness and Sharpness (factor .1 + 1.8 m),
    ShearX and ShearY (.3 m), TranslateX and TranslateY (10 m pixels, whatever the size), Rotate (30 m degrees), and
    Identity. Shears, translations and rotations go either way with equal chance; what they uncover is gray (128).

    Source: Cubuk et al., arXiv 1909.13719; the operations, the chance of 1/2 and the scales are those of
    salesforce/ALBEF, dataset/randaugment.py, which Pillow follows up to rounding and half a pixel.

    >>> image = Image.new("RGB", (8, 8), "white")
    >>> changes = draw_changes(np.random.default_rng(0), operations=2, magnitude=7)
    >>> [change(image).size for change in changes]
    [(8, 8), (8, 8)]
    """
    changes: list[_Change] = []
    for _ in range(operations):
        name = _NAMES[rng.integers(len(_NAMES))]
        is_applied, sign = rng.random() < 0.5, 1 if rng.random() < 0.5 else -1
        if is_applied:
            changes.append(partial(OPERATIONS[name], m=magnitude / MOST * (sign if name in _SIGNED else 1)))
    return changes


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Return the image whose pixel (x, y) is that at (a x + b y + c, d x + e y + f), matrix being (a, ..., f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_GRAY)


# By name: of an image and of m, with its sign for those that go either way.
OPERATIONS: dict[str, Callable[..., Image.Image]] = {
    "Identity": lambda image, m: image,
    "AutoContrast": lambda image, m: ImageOps.autocontrast(image),
    "Equalize": lambda image, m: ImageOps.equalize(image),
    "Brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * m),
    "Sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * m),
    "ShearX": lambda image, m: _affine(image, (1, -0.3 * m, 0, 0, 1, 0)),
    "ShearY": lambda image, m: _affine(image, (1, 0, 0, -0.3 * m, 1, 0)),
    "TranslateX": lambda image, m: _affine(image, (1, 0, -10 * m, 0, 1, 0)),
    "TranslateY": lambda image, m: _affine(image, (1, 0, 0, 0, 1, -10 * m)),
    "Rotate": lambda image, m: image.rotate(30 * m, Image.Resampling.BILINEAR, fillcolor=_GRAY),
}
_NAMES = tuple(OPERATIONS)
_SIGNED = _NAMES[5:]
