"""Pictures of media, small or large, always decoded and drawn again: no file is passed on as it is."""

import base64
import io
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mmts.data.media.image import load_image
from mmts.data.media.video import middle_frame
from mmts.data.records import Medium
from mmts.errors import DataError

_LARGEST_FRAME = 640  # pixels, the longer side of a frame of a clip


def picture(medium: Medium, side: int) -> bytes:
    """Return an image, or the frame in the middle of a clip, as a JPEG of at most `side` pixels on the longer side.

    Raises DataError, naming the file, if it cannot be read.
    """
    return _encoded(_drawn(medium, side), "jpeg")


def data_uri(medium: Medium, side: int) -> str | None:
    """Return the same picture as a data URI, as PNG if that is smaller; None for features and unreadable files."""
    if (image := _readable(medium, side)) is None:
        return None
    content, kind = min(((_encoded(image, kind), kind) for kind in ("png", "jpeg")), key=lambda pair: len(pair[0]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def thumbnail(medium: Medium) -> npt.NDArray[np.float32] | None:
    """Return a picture of any size as 16 x 16 x 3 numbers from 0 to 255; None for features and unreadable files."""
    image = _readable(medium, 64)
    small = image and image.convert("RGB").resize((16, 16), Image.Resampling.BOX)
    return None if small is None else np.asarray(small, np.float32)


def _readable(medium: Medium, side: int) -> Image.Image | None:
    """Return a picture; None for features and unreadable files."""
    with suppress(DataError):
        return None if medium.is_features else _drawn(medium, side)
    return None


def _drawn(medium: Medium, side: int) -> Image.Image:
    if medium.kind == "video":
        return middle_frame(medium, min(side, _LARGEST_FRAME))
    image = load_image(medium.path, side, member=medium.member, place=medium.place)
    return ImageOps.contain(image, (side, side)) if max(image.size) > side else image


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=85, optimize=kind == "png")
    return file.getvalue()
