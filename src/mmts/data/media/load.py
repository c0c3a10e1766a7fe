"""Load a medium as a model takes it: pixels of an image or a clip, or a row of precomputed features."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, stack

from mmts.data.media.image import Augmentation, augment, fit_square, load_image, to_pixels
from mmts.data.media.reading import check_file, kept_warnings
from mmts.data.media.video import FrameSampling, clip_frames, middle_frame
from mmts.data.records import Medium
from mmts.errors import DataError, InputError, shortened

_CHECK_SIZE = 256  # pixels of an image that `why_unreadable` decodes


def load_medium(
    medium: Medium,
    size: int,
    resize: str = "stretch",
    sampling: FrameSampling | None = None,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Return an image (3, size, size), or the frames of a video (F, 3, size, size), float32 in [0, 1].

    `sampling` is None if the model takes images, and `resize` is that of `mmts.data.media.image.fit_square`. All frames
    are changed alike by `augmentation`, which needs `rng`; without `rng` the choice of frames is not random either. A
    segment is cut at the video's end. Lost frames repeat the frame before them, but the middle one must be there.

    Raises DataError naming a medium that cannot be decoded, features, a video for a model of images, or the reverse.
    """
    if (medium.kind == "video") != (sampling is not None) or medium.is_features:
        what = "features" if medium.is_features else "a video" if medium.kind == "video" else "an image"
        wanted = "images" if sampling is None else "videos"
        raise DataError(f"{medium.path} (id {medium.id}) is {what}, and the model takes {wanted}")
    if augmentation is not None and rng is None:
        raise InputError("augmentation needs rng, the source of its randomness")
    needed = size if augmentation is None else math.ceil(size / math.sqrt(augmentation.crop_scale[0]))
    if sampling is None:
        images = [load_image(medium.path, needed, member=medium.member, place=medium.place)]
    else:
        images = clip_frames(medium, sampling, needed, resize if augmentation is None else "crop", rng)
    if augmentation is None or rng is None:
        squares = [fit_square(image, size, resize) for image in images]
    else:
        squares = augment(images, size, rng, augmentation, resize)
    return to_pixels(squares[0]) if sampling is None else stack([to_pixels(square) for square in squares])


def why_unreadable(medium: Medium) -> str | None:
    """Return in words why a medium cannot be read, or None if it can; of a video, the frame in the middle decides."""
    try:
        if medium.is_features:
            _read_features(medium.path)
        elif medium.kind == "video":
            middle_frame(medium, 1)
        else:
            load_image(medium.path, _CHECK_SIZE, member=medium.member, place=medium.place)
    except DataError as error:
        return str(error).removeprefix(f"{medium.path if medium.is_features else medium.place}: ")
    return None


def feature_rows(media: Sequence[Medium]) -> npt.NDArray[np.float32]:
    """Read one row of features for each medium: (M, W) float32; a file of (T, W) is averaged over T.

    Raises DataError naming a file that is not a .npy file of finite numbers, (W,) or (T, W), or whose width differs
    from that of the first. Nothing in a file is ever executed.
    """
    rows = np.empty((len(media), _read_features(media[0].path).shape[-1]), dtype=np.float32)
    for row, medium in zip(rows, media, strict=True):
        values = _read_features(medium.path)
        if values.shape[-1] != len(row):
            first = f"{media[0].path} is {len(row)}"
            raise DataError(f"{medium.path}: {values.shape[-1]} numbers wide, and {first}; all must agree")
        row[:] = values.mean(axis=0, dtype=np.float64) if values.ndim == 2 else values
    return rows


def _read_features(path: Path) -> npt.NDArray[Any]:
    try:
        check_file(path)
        with kept_warnings(path):
            values = np.load(path, allow_pickle=False)
    except (DataError, OSError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    except Exception as error:  # a damaged header raises almost anything
        # numpy takes every file but its own for a pickle, and advises how to load one.
        why = "Python objects are not read" if "pickle" in str(error) else shortened(" ".join(str(error).split()))
        raise DataError(f"{path}: is not a .npy file of numbers, or is truncated ({why})") from None
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path}: is an archive (.npz); it should be one .npy file per medium")
    if values.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds {values.dtype}, not numbers")
    if values.ndim not in (1, 2) or not values.size:
        raise DataError(f"{path}: has shape {values.shape}; it should be (W,) or (T, W)")
    with np.errstate(over="ignore"):
        if not np.isfinite(values.astype(np.float32)).all():
            raise DataError(f"{path}: holds values that are not finite in 32 bits")
    return values
