"""Read an image of any mode, and make it a square of pixels."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, JpegImagePlugin, UnidentifiedImageError
from torch import Tensor

from mmts.data.media.randaugment import draw_changes
from mmts.data.media.reading import check_file, kept_warnings
from mmts.data.media.suffixes import kind_of, reads_heif, why_not_read
from mmts.errors import DataError, InputError

PIXEL_LIMIT = 100_000_000
RESIZES = ("stretch", "crop", "pad")
# Without EPS, for which Pillow runs Ghostscript, and the many formats that photos do not use.
_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "AVIF", "HEIF", "BMP", "DIB", "TIFF", "MPO", "JPEG2000", "PPM", "TGA", "PCX", "QOI",
    "SGI", "PSD", "ICO",
)  # fmt: skip
_WHITE = (255, 255, 255)
_RATIOS = (math.log(3 / 4), math.log(4 / 3))  # of a crop's sides
_Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    path: str | Path, size_hint: int | None = None, *, member: tuple[int, int] | None = None, place: str | None = None
) -> Image.Image:
    """Read an image as RGB: upright (EXIF), transparent parts on white, 16 bits scaled to 8, first frame of several.

    Args:
        size_hint: pixels needed on the shorter side: a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size.
        member: byte offset and length of the image if `path` is a tar file.
        place: the name of the image in messages, see `Medium.place`; None for the file and the byte.

    Raises DataError naming the file and why: missing, empty, truncated, not an image, more than 100 million pixels.
    """
    path = Path(path)
    place = place or (str(path) if member is None else f"{path}, byte {member[0]}")
    try:
        with kept_warnings(place):
            return _decoded(path, member, size_hint)
    except Exception as error:  # decoders raise almost anything on damaged files
        raise DataError(f"{place}: {_reason(path, error)}") from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an opened image as `load_image` does: turned by its EXIF orientation, RGB, transparent parts on white."""
    try:
        turn = _TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data do not affect the pixels
        turn = None
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.array(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        result = Image.new("RGB", layer.size, _WHITE)
        result.paste(layer, mask=layer.getchannel("A"))
        return result
    return image.convert("RGB") if image.mode != "RGB" else image.copy()  # a copy outlives the file


def fit_square(image: Image.Image, size: int, resize: str = "stretch") -> Image.Image:
    """Return the image as a square of `size` pixels: stretched, cropped around the center, or padded with white.

    >>> fit_square(Image.new("RGB", (60, 80)), 32, "crop").size
    (32, 32)
    """
    width, height = image.size
    if resize == "stretch":
        return _resize(image, (size, size))
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _resize(image, (size, size), (left, top, left + side, top + side))
    if resize == "pad":
        scale = size / max(width, height)
        inner = _resize(image, (max(1, round(width * scale)), max(1, round(height * scale))))
        square = Image.new("RGB", (size, size), _WHITE)
        square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return square
    raise InputError(f"resize must be one of {', '.join(RESIZES)}, not {resize!r}")


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images, as the recipe's section `data.augment`, which checks them, explains them.

    The share of the area that a crop keeps is drawn from `crop_scale`. Brightness, contrast and saturation are each
    multiplied by a factor in [1 - color, 1 + color]. `randaugment`: see `draw_changes`.
    """

    crop_scale: tuple[float, float] = (0.6, 1.0)
    flip: bool = True
    color: float = 0.2
    crop_ratio: Literal["picture", "pixels"] = "picture"
    randaugment: tuple[int, float] | None = None


def augment(
    images: Sequence[Image.Image],
    size: int,
    rng: np.random.Generator,
    augmentation: Augmentation = Augmentation(),
    resize: str = "stretch",
) -> list[Image.Image]:
    """Return squares of `size` pixels, all images cropped, mirrored and colored by the same random numbers.

    The crop's sides are shares of the picture that `resize` would show: the whole image ("stretch"), a largest square
    anywhere in it ("crop"), the image padded to a square ("pad"). With `crop_ratio` "pixels" they are sides in pixels
    of the whole image (or the padded one). Images of another size than the first are resized to its size.
    """
    images = [image if image.size == images[0].size else _resize(image, images[0].size) for image in images]
    if resize == "pad":
        images = [fit_square(image, max(image.size), "pad") for image in images]
    width, height = images[0].size
    if augmentation.crop_ratio == "pixels":
        box = _box_of_pixels(width, height, augmentation.crop_scale, rng)
    else:
        side = min(width, height)
        shown = (side, side) if resize == "crop" else (width, height)
        box = _box_of_shares((width, height), shown, augmentation.crop_scale, rng)
    is_mirrored = augmentation.flip and rng.random() < 0.5
    low, high = 1 - augmentation.color, 1 + augmentation.color
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color) if augmentation.color else ()
    factors = [rng.uniform(low, high) for _ in enhancers]
    changes = [] if augmentation.randaugment is None else draw_changes(rng, *augmentation.randaugment)
    results = []
    for image in images:
        result = _resize(image, (size, size), box)
        if is_mirrored:
            result = result.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for change in changes:
            result = change(result)
        for enhancer, factor in zip(enhancers, factors, strict=True):
            result = enhancer(result).enhance(factor)
        results.append(result)
    return results


def _box_of_shares(
    size: tuple[int, int], shown: tuple[int, int], scale: tuple[float, float], rng: np.random.Generator
) -> _Box:
    """Draw a crop whose sides are shares of those of a part of the image, `shown`, which may lie anywhere in it."""
    area = rng.uniform(*scale)
    ratio = math.exp(rng.uniform(*_RATIOS) / 2)
    width, height = shown[0] * min(1.0, math.sqrt(area) * ratio), shown[1] * min(1.0, math.sqrt(area) / ratio)
    left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return left, top, left + width, top + height


def _box_of_pixels(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> _Box:
    """Draw a crop as torchvision's RandomResizedCrop does: ten tries, then the largest one in the center."""
    for _ in range(10):
        area, ratio = width * height * rng.uniform(*scale), math.exp(rng.uniform(*_RATIOS))
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
            return left, top, left + crop_width, top + crop_height
    low, high = map(math.exp, _RATIOS)
    crop_width, crop_height = min(width, height * high), min(height, width / low)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def to_pixels(image: Image.Image) -> Tensor:
    """Turn an RGB image into (3, height, width) float32 in [0, 1]."""
    # numpy, because torch would wake all its threads for every small image, from every decoding thread.
    values = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1), dtype=np.float32)
    values /= 255
    return torch.from_numpy(values)


def _decoded(path: Path, member: tuple[int, int] | None, size_hint: int | None) -> Image.Image:
    check_file(path)
    with open(path, "rb") as file:
        file.seek(0 if member is None else member[0])
        start = file.read(3 if member is None else member[1])
    source = path if member is None else io.BytesIO(start)
    reads_heif()
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    # Pillow's own limit of pixels applies before a JPEG is reduced, so a JPEG is opened without it.
    is_jpeg = start[:3] == b"\xff\xd8\xff"
    with JpegImagePlugin.JpegImageFile(source) if is_jpeg else Image.open(source, formats=formats) as image:
        if size_hint is not None:
            image.draft(None, (size_hint, size_hint))  # has no effect unless the format is JPEG
        width, height = image.size
        if width * height > PIXEL_LIMIT:
            raise ValueError(f"{width:,} x {height:,} pixels are more than the limit of {PIXEL_LIMIT:,}; scale it down")
        image.load()
        return upright_rgb(image)


def _to_8_bits(values: npt.NDArray[Any], mode: str) -> npt.NDArray[np.uint8]:
    """Scale the gray values of modes I;16, I and F: by the format's range if it is known, else by their own."""
    gray = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(gray.min()), float(gray.max())
    if mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif low >= 0:
        # The smallest usual range with all values: unit floats, 8 bits, 16 bits.
        usual = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next((top for top in usual if high <= top), high)
    scaled = (gray - low) / (high - low) if high > low else np.zeros_like(gray)
    return np.round(255 * scaled).astype(np.uint8)


def _resize(image: Image.Image, size: tuple[int, int], box: _Box | None = None) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _reason(path: Path, error: Exception) -> str:
    """Return in words why a file could not be read."""
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        if kind_of(path) == "video":
            return "is a video, not an image"
        advice = why_not_read(path)
        return f"is not an image that Pillow can read{f': {advice}' if advice else ''}"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more pixels than the limit of {PIXEL_LIMIT:,}; scale it down"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
