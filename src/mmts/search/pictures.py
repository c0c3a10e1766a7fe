"""Pictures of what was found, small or large, always decoded and drawn again: no file is passed on as it is."""

import base64
import io

from PIL import Image, ImageOps

from mmts.data.image import load_image
from mmts.data.records import Medium
from mmts.data.video import FrameSampling, load_clip

SMALL, LARGE = 320, 1600  # pixels, the longer side
_CLIP = 640  # the most that a frame of a clip is drawn at


def picture(medium: Medium, side: int) -> bytes:
    """Return an image, or the frame in the middle of a clip, as a JPEG of at most `side` pixels.

    Raises DataError, naming it, where it cannot be read any more.
    """
    if medium.kind == "video":
        pixels = load_clip(medium, FrameSampling(1), min(side, _CLIP))[0]
        image = Image.fromarray((255 * pixels).round().byte().permute(1, 2, 0).numpy())
    else:
        image = load_image(medium.path, side, member=medium.member)
        if max(image.size) > side:
            image = ImageOps.contain(image, (side, side))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=85)
    return file.getvalue()


def data_uri(content: bytes) -> str:
    """Return a JPEG as the address that a page of one file has for it."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
