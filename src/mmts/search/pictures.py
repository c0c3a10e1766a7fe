"""Pictures of what was found, small or large, always decoded and drawn again: no file is passed on as it is."""

import base64
import io

from PIL import ImageOps

from mmts.data.media.image import load_image
from mmts.data.media.video import middle_frame
from mmts.data.records import Medium

SMALL, LARGE = 320, 1600  # pixels, the longer side
_CLIP = 640  # the most that a frame of a clip is drawn at


def picture(medium: Medium, side: int) -> bytes:
    """Return an image, or the frame in the middle of a clip, as a JPEG of at most `side` pixels.

    Raises DataError, naming it, where it cannot be read any more.
    """
    if medium.kind == "video":
        image = middle_frame(medium, min(side, _CLIP))
    else:
        image = load_image(medium.path, side, member=medium.member, place=medium.place)
        if max(image.size) > side:
            image = ImageOps.contain(image, (side, side))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=85)
    return file.getvalue()


def data_uri(content: bytes) -> str:
    """Return a JPEG as the address that a page of one file has for it."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
