"""Pictures of media, small or large, always decoded and drawn again: no file is passed on as it is."""

import base64
import io

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
    if medium.is_features:
        return None
    try:
        image = _drawn(medium, side)
    except DataError:
        return None
    content, kind = min(((_encoded(image, kind), kind) for kind in ("png", "jpeg")), key=lambda pair: len(pair[0]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _drawn(medium: Medium, side: int) -> Image.Image:
    if medium.kind == "video":
        return middle_frame(medium, min(side, _LARGEST_FRAME))
    image = load_image(medium.path, side, member=medium.member, place=medium.place)
    return ImageOps.contain(image, (side, side)) if max(image.size) > side else image


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=85, optimize=kind == "png")
    return file.getvalue()
