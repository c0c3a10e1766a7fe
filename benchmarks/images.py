"""Reading and augmenting a training image on one core, compared with doing all of it at the image's full size."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from benchmarks.measure import Comparison, compare
from mmts.data.media.image import Augmentation
from mmts.data.media.load import load_medium
from mmts.data.records import Medium

SIZE, NUMBER = 224, 16


def run() -> Iterator[Comparison]:
    """Compare on photo-like JPEGs as large as those of a data set and of a camera."""
    yield _compare(640, 480)
    yield _compare(2048, 1536)


def _compare(width: int, height: int) -> Comparison:
    def rng() -> np.random.Generator:
        return np.random.default_rng(0)

    with tempfile.TemporaryDirectory() as folder:
        files = [photo(Path(folder) / f"{seed}.jpg", width, height, seed) for seed in range(NUMBER)]
        media = [Medium(file.stem, file, ("x",)) for file in files]
        return compare(
            "decoding and augmenting images, one core",
            f"JPEG of {width}x{height} to {SIZE} px: crop, mirror, colors",
            lambda: [load_medium(medium, SIZE, augmentation=Augmentation(), rng=rng()) for medium in media],
            lambda: [_plain(file, rng()) for file in files],
            5,
            (NUMBER, "images"),
        )


def _plain(file: Path, rng: np.random.Generator) -> Tensor:
    """Crop 60 to 100 % of the area, mirror, and change brightness, contrast and saturation by up to 20 %."""
    image = Image.open(file).convert("RGB")
    share = rng.uniform(0.6, 1.0) ** 0.5
    width, height = int(image.width * share), int(image.height * share)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    image = image.crop((left, top, left + width, top + height)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(rng.uniform(0.8, 1.2))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def photo(file: Path, width: int, height: int, seed: int) -> Path:
    """Draw smooth colors with some grain, which are about as hard to decode as a camera's picture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.integers(-8, 9, (height, width, 1), dtype=np.int16)
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return file
