"""From a medium to pixels, wherever it lies: an image file, an image in a tar, or frames of a video."""

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
        medium: what to decode; not one of features.
        size: side in pixels.
        resize: how a rectangle becomes square, see `mmts.data.media.image.fit_square`.
        sampling: which frames of a video; None where the model takes images.
        augmentation: random changes; None for none.
        rng: of the changes and of random frames; None takes the middle of everything.

    Raises:
        DataError: it cannot be decoded, or is a video where images are wanted, or the other way round; names it.
    """
    if (medium.kind == "video") != (sampling is not None) or medium.is_features:
        what = "features" if medium.is_features else "a video" if medium.kind == "video" else "an image"
        wanted = "images" if sampling is None else "videos"
        raise DataError(f"{medium.path} (id {medium.id}) is {what}, and the model takes {wanted}")
    if sampling is not None:
        return load_clip(medium, sampling, size, resize, augmentation, rng)
    return load_pixels(medium.path, size, resize, augmentation, rng, member=medium.member, place=medium.place)
