"""Load a medium as pixels: an image file, an image in a tar, or frames of a video."""

import numpy as np
from torch import Tensor

from mmts.data.media.image import Augmentation, load_pixels
from mmts.data.media.video import FrameSampling, load_clip
from mmts.data.records import Medium
from mmts.errors import DataError


def load_medium(
    medium: Medium,
    size: int,
    resize: str = "stretch",
    sampling: FrameSampling | None = None,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Return an image (3, size, size), or the frames of a video (F, 3, size, size), float32 in [0, 1].

    Args:
        medium: an image or video, not features.
        size: side in pixels.
        resize: how a rectangle becomes a square, see `mmts.data.media.image.fit_square`.
        sampling: the frames of a video; None if the model takes images.
        augmentation: random changes; None for none.
        rng: source of the changes and of random frames; without it every choice is the middle one.

    Raises:
        DataError: naming a medium that cannot be decoded, or a video for a model of images, or the reverse.
    """
    if (medium.kind == "video") != (sampling is not None) or medium.is_features:
        what = "features" if medium.is_features else "a video" if medium.kind == "video" else "an image"
        wanted = "images" if sampling is None else "videos"
        raise DataError(f"{medium.path} (id {medium.id}) is {what}, and the model takes {wanted}")
    if sampling is not None:
        return load_clip(medium, sampling, size, resize, augmentation, rng)
    return load_pixels(medium.path, size, resize, augmentation, rng, member=medium.member, place=medium.place)
