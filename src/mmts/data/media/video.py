"""The frames of a clip, wherever they are: in a video file, in a folder of its chunks, or in a folder of pictures."""

import os
import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from PIL import Image

from mmts.data.media.decoding import VideoFile
from mmts.data.media.image import load_image, upright_rgb
from mmts.data.media.suffixes import is_medium
from mmts.data.records import Medium
from mmts.errors import DataError

_CHUNK = re.compile(r"(\d{1,9})(\.\w+)")
_PICTURE = re.compile(r"(.*?)(\d{1,18})(\.\w+)")


@dataclass(frozen=True)
class FrameSampling:
    """The F frames that stand for a segment of a video.

    `kind` "uniform" takes the frame in the middle of each of F equal parts of the segment, "random" a random frame of
    each part, and "stride" F frames, `stride` apart, from a random place in the segment. If F * stride frames do not
    fit into it, "stride" begins at its start and repeats its last frame.

    Source: "uniform" and "random" are those of facebookresearch/LaViLa and zhaoyue-zephyrus/AVION on EPIC-KITCHENS-100,
    which use frame numbers where we use timestamps.
    """

    frames: int = 16
    kind: str = "uniform"
    stride: int = 4

    def times(self, start: float, end: float, rate: float, rng: np.random.Generator | None = None) -> list[float]:
        """Return F ascending times in [start, end), in any unit; `rate` is the average number of frames per unit.

        Without `rng` every choice is the middle one.

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


def clip_frames(
    medium: Medium, sampling: FrameSampling, size: int, resize: str, rng: np.random.Generator | None
) -> list[Image.Image]:
    """Decode F frames of a video's segment, none larger than a square of `size` pixels by `resize` needs.

    Raises DataError naming the file, the segment and why it cannot be decoded.
    """
    with _opened(medium, size, resize) as clip:
        times = sampling.times(clip.start, clip.end, clip.rate, rng)
        images: list[Image.Image | None] = [None] * len(times)
        for at, time in enumerate(times):
            with suppress(DataError):  # one damaged chunk or picture: the middle decides
                images[at] = clip.image(time)
        present = [image for image in images if image is not None]
        if len(present) < len(images):
            # A lost frame becomes the nearest one before it; at the start the first present one, or else the middle.
            latest = [*present, _middle(clip)][0]
            present = [latest := image or latest for image in images]
    return present


def middle_frame(medium: Medium, size: int) -> Image.Image:
    """Decode the frame in the middle of a video's segment, its longer side at most `size`.

    Raises DataError, naming the file, the segment and why, if there is no such frame.
    """
    with _opened(medium, size, "pad") as clip:
        return _middle(clip)


@contextmanager
def _opened(medium: Medium, size: int, resize: str) -> Iterator["_Film | _Pictures"]:
    """Open a clip whose frames suffice for a square of `size` by `resize`; errors name the medium with its segment."""
    start, end = medium.start or 0.0, medium.end
    if not 0 <= start < (float("inf") if end is None else end):
        raise DataError(f"{medium.place}: the segment is empty: it starts at {start:.6g} s and ends at {end:.6g} s")
    try:
        chunks = {0: medium.path}
        if os.path.isdir(medium.path):
            names = (_CHUNK.fullmatch(name) for name in _names(medium.path) if is_medium(name, "video"))
            chunks = {int(name[1]): medium.path / name[0] for name in names if name and medium.frames is None}
        if chunks:
            with closing(_Film(chunks, size, resize)) as film:
                film.cut(start, end)
                yield film
        else:
            yield _Pictures(_picture_paths(medium), size)
    except DataError as error:
        reason = str(error).removeprefix(f"{medium.path}: ").removeprefix(f"{medium.path}/")
        raise DataError(f"{medium.place}: {reason}") from None


def _middle(clip: "_Film | _Pictures") -> Image.Image:
    image = clip.image((clip.start + clip.end) / 2)
    if image is None:
        raise DataError("is truncated or incomplete: the frame in the middle of the segment cannot be decoded")
    return image


class _Film:
    """A segment, in seconds, of a video in one or several files, by the second that each starts at."""

    def __init__(self, chunks: dict[int, Path], size: int, resize: str) -> None:
        self._chunks, self._size, self._resize = chunks, size, resize
        self._starts = sorted(chunks)
        self._open: tuple[int, VideoFile] | None = None
        self.start = self.end = self.rate = 0.0

    def cut(self, start: float, end: float | None) -> None:
        """Take this segment. Raises DataError if the video ends before it, or a chunk of it is missing."""
        last = self._starts[-1]
        if end is None or end > last:
            duration = last + self._file(last).duration
            if not duration:
                raise DataError("no frame could be decoded")
            if start >= duration:
                raise DataError(f"ends at {duration:.6g} s, before the segment starts at {start:.6g} s")
            end = duration if end is None else min(duration, end)
        self.start, self.end = start, end
        self._check_gaps()
        self.rate = self._file(self._start_of(start)).rate

    def image(self, time: float) -> Image.Image | None:
        """Return the frame shown at a time, upright and in RGB, or None if it is lost."""
        start = self._start_of(time)
        file = self._file(start)
        frame = file.frame(time - start)
        if frame is None:
            return None
        is_aside, is_x_reversed, is_y_reversed = _turn(frame)
        width, height = max(1, round(frame.width * file.pixel_aspect)), frame.height
        width, height = _scaled(width, height, self._size, self._resize)
        try:
            kind = "rgba" if any(part.is_alpha for part in frame.format.components) else "rgb24"
            # swscale scales the frame, twenty times faster than after the conversion.
            pixels = frame.reformat(width=width, height=height, format=kind, interpolation="BICUBIC").to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"a frame in {frame.format.name} cannot be turned into RGB ({error})") from None
        pixels = pixels[:: -1 if is_y_reversed else 1, :: -1 if is_x_reversed else 1]
        return upright_rgb(Image.fromarray(pixels.swapaxes(0, 1) if is_aside else pixels))

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _check_gaps(self) -> None:
        if self.start < self._starts[0]:
            raise DataError(f"the first chunk is {self._chunks[self._starts[0]].name}, after {self.start:.6g} s")
        pairs = list(pairwise(self._starts))
        length = min((after - before for before, after in pairs), default=0)
        for before, after in pairs:
            if before >= self.end or after <= self.start:
                continue
            covered: float = before + length
            if after - before <= length or covered >= self.end:
                with suppress(DataError):  # the chunk is there but damaged: its frames are lost
                    covered = before + (self._file(before).duration or length)
                if covered + 1 >= min(after, self.end):  # a tolerance of a second, since chunks are cut at key frames
                    continue
            raise DataError(f"chunk {round(covered)}{self._chunks[before].suffix} is missing")

    def _start_of(self, time: float) -> int:
        return self._starts[bisect_right(self._starts, time) - 1]

    def _file(self, start: int) -> VideoFile:
        if self._open is None or self._open[0] != start:
            self.close()
            self._open = start, VideoFile(self._chunks[start])
        return self._open[1]


class _Pictures:
    """Pictures in a folder; each is shown for one unit of time."""

    start, rate = 0.0, 1.0

    def __init__(self, paths: list[Path], size: int) -> None:
        self._paths, self._size, self.end = paths, size, float(len(paths))

    def image(self, time: float) -> Image.Image | None:
        path = self._paths[int(time)]
        return load_image(path, self._size) if os.path.exists(path) else None


def _scaled(width: int, height: int, size: int, resize: str) -> tuple[int, int]:
    """Return the width and height of a frame that suffice for a square of `size` by `resize`; it is never enlarged."""
    if resize == "stretch":
        return min(width, size), min(height, size)
    scale = min(1.0, size / (max if resize == "pad" else min)(width, height))
    if resize == "crop" and scale < 1:
        # The same number of pixels on both sides, so that the crop needs no further resampling.
        width, height = (size + 2 * round((side * scale - size) / 2) for side in (width, height))
        return width, height
    return max(1, round(width * scale)), max(1, round(height * scale))


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return whether a frame's display matrix swaps the axes, and reverses x and y, by the nearest quarter turn."""
    side_data: Any = frame.side_data  # it has `get`, which its type omits
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    # The matrix [[a, b], [c, d]] maps a pixel (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    is_aside = abs(a) + abs(d) < abs(b) + abs(c)
    return (True, b < 0, c < 0) if is_aside else (False, a < 0, d < 0)


def _picture_paths(medium: Medium) -> list[Path]:
    """Return the pictures of a folder in order, or those with the numbers in `frames`, present or not.

    A folder may hold a hundred thousand pictures, so a clip's names are derived from the first one that is found.
    """
    folder, frames = medium.path, medium.frames
    first, last = frames or (0, 0)
    if not 0 <= first <= last:
        raise DataError(f"frames {first} to {last}: the first must be at least 0 and not after the last")
    pictures = (match for name in _names(folder) if is_medium(name, "image") and (match := _PICTURE.fullmatch(name)))
    example = next(pictures, None)
    if example is None:
        raise DataError("is a folder without chunks (0.MP4, 15.MP4, ...) or frames (frame_0000000001.jpg, ...)")
    if frames is None:
        if medium.start is not None or medium.end is not None:
            raise DataError("is a folder of frames, which needs 'frames' (numbers) instead of seconds")
        names = {int(match[2]): match[0] for match in (example, *pictures)}
        return [folder / names[number] for number in sorted(names)]
    width = len(example[2])
    return [folder / f"{example[1]}{number:0{width}d}{example[3]}" for number in range(first, last + 1)]


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
    except OSError as error:
        raise DataError(f"cannot be listed: {error.strerror or error}") from None
