"""The frames of a clip, wherever they are: in a video file, in a folder of its chunks, or in a folder of pictures."""

import os
import re
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
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
_TURNS = {  # by whether x becomes y, and whether the new axis of the old x, and that of the old y, is reversed
    (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, True, True): Image.Transpose.ROTATE_180,
    (True, False, False): Image.Transpose.TRANSPOSE,
    (True, False, True): Image.Transpose.ROTATE_270,
    (True, True, False): Image.Transpose.ROTATE_90,
    (True, True, True): Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True)
class Detail:
    """The size of frame that is needed, so that no larger one is made: a square of `size`, by this `resize`.

    >>> Detail(224, "stretch").of(1920, 1080), Detail(224, "crop").of(456, 256), Detail(224, "pad").of(456, 256)
    ((224, 224), (400, 224), (224, 126))
    """

    size: int
    resize: str

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height to scale a frame to; it is never enlarged."""
        if self.resize == "stretch":
            return min(width, self.size), min(height, self.size)
        scale = min(1.0, self.size / (max if self.resize == "pad" else min)(width, height))
        if self.resize == "crop" and scale < 1:
            # The same number of pixels on both sides, so that the crop needs no further resampling.
            width, height = (self.size + 2 * round((side * scale - self.size) / 2) for side in (width, height))
            return width, height
        return max(1, round(width * scale)), max(1, round(height * scale))


class Clip(Protocol):
    """A segment from `start` to `end` in seconds or pictures, with `rate` frames per unit."""

    start: float
    end: float
    rate: float

    def image(self, time: float, detail: Detail) -> Image.Image | None:
        """Return the frame shown at a time, or None if it is lost."""


@contextmanager
def open_clip(medium: Medium) -> Iterator[Clip]:
    """Open the clip of a medium. Raises DataError if the file or the segment does not exist."""
    start, end = medium.start or 0.0, medium.end
    if not 0 <= start < (float("inf") if end is None else end):
        raise DataError(f"{medium.path}: the segment is empty: it starts at {start:.6g} s and ends at {end:.6g} s")
    if not os.path.isdir(medium.path):
        with VideoFile(medium.path) as file:
            yield _FileClip(file, start, end)
        return
    if medium.frames is None and (chunks := _chunk_names(medium.path)):
        with closing(_ChunkClip(medium.path, chunks)) as clip:
            clip.cut(start, end)
            yield clip
        return
    names = _picture_names(medium.path, medium.frames)
    if not names:
        known = "chunks (0.MP4, 15.MP4, ...) nor frames (frame_0000000001.jpg, ...)"
        raise DataError(f"{medium.path}: is a folder that holds neither {known}")
    if medium.frames is None and (medium.start is not None or medium.end is not None):
        raise DataError(f"{medium.path}: is a folder of frames, which needs 'frames' (numbers) instead of seconds")
    yield _PictureClip(medium.path, names)


class _FileClip:
    """A segment of one video file."""

    def __init__(self, file: VideoFile, start: float, end: float | None) -> None:
        self._file = file
        self.start, self.end = start, _end(file.path, file.duration, start, end)
        self.rate = file.rate

    def image(self, time: float, detail: Detail) -> Image.Image | None:
        return _image_at(self._file, time, detail)


class _ChunkClip:
    """A segment of a video in several files, each named by the second that it starts at."""

    def __init__(self, folder: Path, chunks: dict[int, str]) -> None:
        self._folder, self._chunks = folder, chunks
        self._starts = sorted(chunks)
        self._open: tuple[int, VideoFile] | None = None
        self.start = self.end = self.rate = 0.0

    def cut(self, start: float, end: float | None) -> None:
        """Take this segment. Raises DataError if the video ends before it, or a chunk of it is missing."""
        last = self._starts[-1]
        if end is None or end > last:
            end = _end(self._folder, last + self._file(last).duration, start, end)
        self.start, self.end = start, end
        self._check_gaps()
        self.rate = self._file(self._start_of(start)).rate

    def image(self, time: float, detail: Detail) -> Image.Image | None:
        start = self._start_of(time)
        return _image_at(self._file(start), time - start, detail)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _check_gaps(self) -> None:
        if self.start < self._starts[0]:
            raise DataError(
                f"{self._folder}: the first chunk is {self._chunks[self._starts[0]]}, after {self.start:.6g} s"
            )
        pairs = list(zip(self._starts, self._starts[1:], strict=False))
        length = min((after - before for before, after in pairs), default=0)
        for before, after in pairs:
            if before >= self.end or after <= self.start:
                continue
            if after - before > length and before + length < self.end:
                raise self._no_chunk(before, before + length)
            covered = before + self._length(before, length)
            if covered + 1 < min(after, self.end):  # a tolerance of a second, since chunks are cut at key frames
                raise self._no_chunk(before, round(covered))

    def _length(self, chunk: int, usual: int) -> float:
        """Return the chunk's length, or the usual one if the chunk is there but damaged: then its frames are lost."""
        try:
            return self._file(chunk).duration or usual
        except DataError:
            return usual

    def _no_chunk(self, before: int, start: int) -> DataError:
        return DataError(f"{self._folder}: chunk {start}{Path(self._chunks[before]).suffix} is missing")

    def _start_of(self, time: float) -> int:
        return max(start for start in self._starts if start <= time)

    def _file(self, start: int) -> VideoFile:
        if self._open is None or self._open[0] != start:
            self.close()
            self._open = start, VideoFile(self._folder / self._chunks[start])
        return self._open[1]


class _PictureClip:
    """Pictures in a folder; each is shown for one unit of time."""

    start, rate = 0.0, 1.0

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._folder, self._names = folder, names
        self.end = float(len(names))

    def image(self, time: float, detail: Detail) -> Image.Image | None:
        path = self._folder / self._names[int(time)]
        return load_image(path, detail.size) if os.path.exists(path) else None


def _picture_names(folder: Path, frames: tuple[int, int] | None) -> list[str]:
    """Return the names of a folder's pictures in order, or of the pictures with these numbers, present or not.

    A folder may hold a hundred thousand pictures, so a clip's names are derived from the first one that is found.
    """
    pictures = (match for name in _entries(folder) if is_medium(name, "image") and (match := _PICTURE.fullmatch(name)))
    if frames is None:
        return [match[0] for _, match in sorted({int(match[2]): match for match in pictures}.items())]
    first, last = frames
    if not 0 <= first <= last:
        raise DataError(f"{folder}: frames {first} to {last}: the first must be at least 0 and not after the last")
    example = next(pictures, None)
    if example is None:
        return []
    width = len(example[2])
    return [f"{example[1]}{number:0{width}d}{example[3]}" for number in range(first, last + 1)]


def _chunk_names(folder: Path) -> dict[int, str]:
    """Return the chunks' names by the second that they start at."""
    matches = (_CHUNK.fullmatch(name) for name in _entries(folder))
    return {int(match[1]): match[0] for match in matches if match and is_medium(match[0], "video")}


def _entries(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror or error}") from None


def _end(path: Path, duration: float, start: float, end: float | None) -> float:
    """Return the end of a segment of a video. Raises DataError if the video ends before the segment starts."""
    if not duration:
        raise DataError(f"{path}: no frame could be decoded")
    if start >= duration:
        raise DataError(f"{path}: ends at {duration:.6g} s, before the segment starts at {start:.6g} s")
    return duration if end is None else min(duration, end)


def _image_at(file: VideoFile, time: float, detail: Detail) -> Image.Image | None:
    """Return a frame upright and in RGB; swscale scales it, twenty times faster than after the conversion."""
    frame = file.frame(time)
    if frame is None:
        return None
    turn = _turn(frame)
    width, height = max(1, round(frame.width * file.pixel_aspect)), frame.height
    if turn[0]:
        height, width = detail.of(height, width)
    else:
        width, height = detail.of(width, height)
    try:
        kind = "rgba" if any(part.is_alpha for part in frame.format.components) else "rgb24"
        pixels = frame.reformat(width=width, height=height, format=kind, interpolation="BICUBIC").to_ndarray()
    except (av.FFmpegError, ValueError) as error:
        raise DataError(f"a frame in {frame.format.name} cannot be turned into RGB ({error})") from None
    image = upright_rgb(Image.fromarray(pixels))
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Return the key in `_TURNS` of the quarter turn, mirrored or not, nearest to a frame's display matrix.

    The matrix [[a, b], [c, d]] maps a pixel (x, y) to (a x + c y, b x + d y).
    """
    side_data: Any = frame.side_data  # it has `get`, which its type omits
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    is_aside = abs(a) + abs(d) < abs(b) + abs(c)
    return (True, b < 0, c < 0) if is_aside else (False, a < 0, d < 0)
