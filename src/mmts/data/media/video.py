"""Clips of videos as tensors: the frames to take, and the same square, mirroring and colors for all of them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmts.data.media.clips import Clip, Detail, open_clip
from mmts.data.media.image import Augmentation, augment, fit_square, to_pixels
from mmts.data.records import Medium
from mmts.errors import DataError, InputError

KINDS = ("uniform", "random", "stride")


@dataclass(frozen=True)
class FrameSampling:
    """The frames that stand for a segment of a video.

    Attributes:
        frames: F, their number.
        kind: "uniform": the frame in the middle of each of F equal parts of the segment; "random": a random frame of
            each part; "stride": F frames, `stride` apart, from a random place in the segment.
        stride: for "stride" only: the window of F * stride frames must fit into the segment. A shorter segment is taken
            from its start, and its last frame repeated.

    LaViLa (https://github.com/facebookresearch/LaViLa) and AVION (https://github.com/zhaoyue-zephyrus/AVION) do
    "uniform" and "random" on EPIC-KITCHENS-100, by frame numbers where we use timestamps. AVION's option of a clip
    stride (4) has no effect there; LaViLa strides on EGTEA only, and pads a short segment with black.
    """

    frames: int = 16
    kind: str = "uniform"
    stride: int = 4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.frames < 1 or self.stride < 1:
            raise InputError(f"need frames >= 1 and stride >= 1, not {self.frames} and {self.stride}")

    def times(self, start: float, end: float, rate: float, rng: np.random.Generator | None = None) -> list[float]:
        """Return F ascending times in [start, end), in the unit of these two.

        Args:
            start, end: the segment, for instance in seconds; start < end.
            rate: frames per unit, on average; for "stride".
            rng: chooses the frames; without it every choice is the middle one.

        >>> FrameSampling(4).times(0, 8, rate=30)
        [1.0, 3.0, 5.0, 7.0]
        >>> FrameSampling(3, "stride", stride=2).times(0, 10, rate=1)
        [2.5, 4.5, 6.5]
        """
        if self.kind != "stride":
            within = np.full(self.frames, 0.5) if rng is None or self.kind == "uniform" else rng.random(self.frames)
            times: list[float] = (start + (np.arange(self.frames) + within) * (end - start) / self.frames).tolist()
            return times
        count = max(1, round((end - start) * rate))
        spare = max(0, count - self.frames * self.stride)
        first = spare // 2 if rng is None else int(rng.integers(spare + 1))
        # Half a frame later, so that rounding cannot select the frame before.
        return [start + (min(first + at * self.stride, count - 1) + 0.5) / rate for at in range(self.frames)]


def load_clip(
    medium: Medium,
    sampling: FrameSampling,
    size: int,
    resize: str = "stretch",
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
) -> Tensor:
    """Decode frames of a video's segment as (F, 3, size, size) float32 in [0, 1], all changed alike by `augmentation`.

    A segment that reaches beyond the video's end is cut there. Frames lost in a damaged or truncated file repeat the
    frame before them; a segment whose middle is lost is an error.

    Args:
        medium: a video file, a folder of 15-second chunks or a folder of frames, with its segment.
        sampling: the frames to take.
        size: side in pixels.
        resize: how a rectangle becomes a square, see `mmts.data.media.image.fit_square`.
        augmentation: random changes, the same for all frames; None for none.
        rng: source of the changes and of random frames; without it every choice is the middle one.

    Raises:
        DataError: naming the file, the segment and why it cannot be decoded.
    """
    if augmentation is not None and rng is None:
        raise InputError("augmentation needs rng, the source of its randomness")
    if size < 1:
        raise InputError(f"size must be at least 1, not {size}")
    share = augmentation.crop_scale[0] if augmentation is not None else 1.0
    detail = Detail(math.ceil(size / math.sqrt(share)), resize if augmentation is None else "crop")
    try:
        with open_clip(medium) as clip:
            images = _images(clip, sampling.times(clip.start, clip.end, clip.rate, rng), detail)
    except DataError as error:
        raise DataError(f"{medium.place}: {_reason(medium, error)}") from None
    if augmentation is None or rng is None:
        squares = [fit_square(image, size, resize) for image in images]
    else:
        squares = augment(images, size, rng, augmentation, resize)
    return torch.stack([to_pixels(square) for square in squares])


def middle_frame(medium: Medium, size: int) -> Image.Image:
    """Decode the frame in the middle of a video's segment, its longer side at most `size`.

    Raises DataError, naming the file, the segment and why, if there is no such frame.
    """
    try:
        with open_clip(medium) as clip:
            return _middle(clip, Detail(size, "pad"))
    except DataError as error:
        raise DataError(f"{medium.place}: {_reason(medium, error)}") from None


def why_unreadable_clip(medium: Medium) -> str | None:
    """Return in words why `load_clip` cannot decode this medium, or None if it can.

    It decodes the frame in the middle of the segment: if that works, `load_clip` does not fail.
    """
    try:
        with open_clip(medium) as clip:
            _middle(clip, Detail(1, "crop"))
    except DataError as error:
        return _reason(medium, error)
    return None


def _images(clip: Clip, times: list[float], detail: Detail) -> list[Image.Image]:
    images: list[Image.Image | None] = []
    for time in times:
        try:
            images.append(clip.image(time, detail))
        except DataError:  # one damaged chunk or picture: the middle decides
            images.append(None)
    present = [image for image in images if image is not None]
    if len(present) == len(images):
        return present
    middle = _middle(clip, detail)
    # A lost frame is the nearest one before it; at the start the first present one, or else the middle of the segment.
    latest = present[0] if present else middle
    result = []
    for image in images:
        latest = image or latest
        result.append(latest)
    return result


def _middle(clip: Clip, detail: Detail) -> Image.Image:
    image = clip.image((clip.start + clip.end) / 2, detail)
    if image is None:
        raise DataError("is truncated or incomplete: the frame in the middle of the segment cannot be decoded")
    return image


def _reason(medium: Medium, error: DataError) -> str:
    return str(error).removeprefix(f"{medium.path}: ").removeprefix(f"{medium.path}/")
