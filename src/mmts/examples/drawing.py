"""Draw the pictures and films of the examples: shapes that differ in color, form and motion."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (40, 70, 230), "yellow": (235, 215, 50)}
SHAPES = ("square", "bar", "column")


def picture(colour: str, shape: str, phase: float = 0.0, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """Return (height, width, 3): a shape on gray; `phase` in [0, 1] moves it from left to right."""
    pixels = np.full((height, width, 3), 90, dtype=np.uint8)
    side = height // 3
    left = round(phase * (width - side))
    top = (height - side) // 2
    rows, columns = slice(top, top + side), slice(left, left + side)
    if shape == "bar":
        rows, columns = slice(top, top + side // 2), slice(None)
    elif shape == "column":
        rows = slice(None)
    pixels[rows, columns] = COLOURS[colour]
    return pixels


def write_image(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write (height, width, 3) as an image file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_film(path: Path, pictures: Sequence[npt.NDArray[np.uint8]], rate: int = 10) -> None:
    """Write pictures (height, width, 3) of one size as an MP4 (H.264, a key frame per second), making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": str(rate), "preset": "ultrafast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        for pixels in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
