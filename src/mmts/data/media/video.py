"""Clips of videos as tensors: which frames to take, and the same square, mirroring and colours for all of them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmts.data.media.clips import Clip, Detail, open_clip
from mmts.data.media.image import Augmentation, augment_alike, fit_square, to_pixels
from mmts.data.records import Medium
from mmts.errors import DataError, InputError

KINDS = ("uniform", "random", "stride")


@dataclass(frozen=True)
class FrameSampling:
    """Which frames stand for a segment of a video.

    Attributes:
        frames: F, how many.
        kind: "uniform": the one in the middle of each of F equal parts of the segment; "random": a random one of each
            part; "stride": F frames, `stride` apart, from a random place in the segment.
        stride: for "stride" only: F * stride frames are the window that must fit into the segment. A shorter segment
            is taken from its start and repeats its last frame.

    "uniform" and "random" are what LaViLa (https://github.com/facebookresearch/LaViLa) and AVION
    (https://github.com/zhaoyue-zephyrus/AVION) do on EPIC-KITCHENS-100, by frame numbers where we go by timestamps.
    AVION's option of a clip stride (4) reaches no code on that path; LaViLa strides for EGTEA only, and fills up a
    short segment with black.
    """

    frames: int = 16
    kind: str = "uniform"
    stride: int = 4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.frames < 1 or self.stride < 1:
            raise InputError(f"need frames >= 1 and stride >= 1, not {self.frames} and {self.stride}")

    def times(self, start: float, end: float, rate: float, rng: np.random.Generator | None = None) -> list[float]:
        """Return F ascending times in [start, end), in the unit of these two.

        Args:
            start, end: the segment, for instance in seconds; start < end.
            rate: frames in one such unit, on average; for "stride".
            rng: chooses the frames; None takes the middle of everything.

        >>> FrameSampling(4).times(0, 8, rate=30)
        [1.0, 3.0, 5.0, 7.0]
        >>> FrameSampling(3, "stride", stride=2).times(0, 10, rate=1)
        [2.5, 4.5, 6.5]
        """
        if self.kind != "stride":
            within = np.full(self.frames, 0.5) if rng is None or self.kind == "uniform" else rng.random(self.frames)
            return [float(each) for each in start + (np.arange(self.frames) + within) * (end - start) / self.frames]
        count = max(1, round((end - start) * rate))
        spare = max(0, count - self.frames * self.stride)
        first = spare // 2 if rng is None else int(rng.integers(spare + 1))
        # Half a frame on, so that rounding cannot lead to the frame before.
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

    A segment that reaches beyond the video's end is cut there. Where the file is damaged or truncated, frames that are
    lost repeat the one before them; but a segment whose middle is lost is an error.

    Args:
        medium: a video file, a folder of 15-second chunks or a folder of frames, with what part of it to take.
        sampling: which frames.
        size: side in pixels.
        resize: how a rectangle becomes square, see `mmts.data.media.image.fit_square`.
        augmentation: random changes, the same for all frames; None for none.
        rng: of the changes and of random frames; None takes the middle of everything.

    Raises:
        DataError: naming the file, the segment and why it cannot be decoded.
    """
    if augmentation is not None and rng is None:
        raise InputError("augmentation needs rng, the source of its randomness")
    if size < 1:
        raise InputError(f"size is at least 1, not {size}")
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
        squares = augment_alike(images, size, rng, augmentation, resize)
    return torch.stack([to_pixels(square) for square in squares])


def middle_frame(medium: Medium, size: int) -> Image.Image:
    """Decode the frame in the middle of a video's segment, its longer side at most `size`, to stand for the clip.

    Raises DataError, naming the file, the segment and why, where there is none.
    """
    try:
        with open_clip(medium) as clip:
            return _middle(clip, Detail(size, "pad"))
    except DataError as error:
        raise DataError(f"{medium.place}: {_reason(medium, error)}") from None


def why_unreadable_clip(medium: Medium) -> str | None:
    """Return in words why `load_clip` cannot decode this medium, or None where it can.

    Decodes one frame, in the middle of the segment: where that works `load_clip` has something to show.
    """
    try:
        with open_clip(medium) as clip:
            _middle(clip, Detail(1, "crop"))
    except DataError as error:
        return _reason(medium, error)
    return None


def _images(clip: Clip, times: list[float], detail: Detail) -> list[Image.Image]:
    found: list[Image.Image | None] = []
    for time in times:
        try:
            found.append(clip.image(time, detail))
        except DataError:  # one chunk or picture of many: the middle decides
            found.append(None)
    present = [image for image in found if image is not None]
    if len(present) == len(found):
        return present
    middle = _middle(clip, detail)
    # The nearest one before; for those at the start, the first there is, or at least the middle of the segment.
    latest = present[0] if present else middle
    result = []
    for image in found:
        latest = image or latest
        result.append(latest)
    return result


def _middle(clip: Clip, detail: Detail) -> Image.Image:
    image = clip.image((clip.start + clip.end) / 2, detail)
    if image is None:
        raise DataError("is truncated or incomplete: there is nothing to decode in the middle of the segment")
    return image


def _reason(medium: Medium, error: DataError) -> str:
    text = str(error)
    for prefix in (f"{medium.path}: ", f"{medium.path}/"):
        text = text.removeprefix(prefix)
    return text
