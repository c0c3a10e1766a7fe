"""Decode one video file: the frame shown at a time, by seeking or by reading on, whichever is less work."""

import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mmts.data.media.image import PIXEL_LIMIT
from mmts.data.media.reading import check_file, file_state
from mmts.data.media.suffixes import is_medium, why_not_read
from mmts.errors import DataError

# Only containers: a playlist (HLS, concat) would make the decoder open other files or addresses.
_FORMATS = "mov,matroska,avi,mpeg,mpegts,ogg,asf,flv,gif,mxf"
_WITH_LENGTHS = ("mov,", "avi", "gif")  # they store the start and length of each stream, others one length for all
_UNSEEKABLE = "mpeg"  # its timestamps are wrong after a seek
_ROUNDING = 1e-6  # seconds: the computed time of a frame may be this much too small
_SEEK_COST = 8  # frames that could be decoded in the time of a seek
_MAX_AHEAD = 600  # packets to hold when looking ahead; beyond them every frame is decoded
_KEY_FRAMES_APART = 5.0  # seconds, if the container does not say
_MAX_ASPECT = 8.0  # of a pixel; a larger ratio is a mistake
_USUAL_RATE = 25.0  # frames per second, if neither the container nor the packets say
_CUT_OFF = 1.0  # seconds by which every stream of a truncated file ends before the length in its header
_Frame = tuple[int, VideoFrame]  # with its timestamp


class VideoFile:
    """An open video file that returns the frame shown at a time.

    Time 0 is the first frame of the video stream. A frame is shown from its timestamp to that of the next one.

    Attributes:
        rate: frames per second, on average.
        duration: seconds from the first video frame to the end of the last one; for a truncated file by its header.
        pixel_aspect: width of a displayed pixel, divided by its height.
    """

    def __init__(self, path: Path) -> None:
        """Raises DataError naming the file: missing, empty, not a video, without a video stream, too many pixels."""
        self.path = path
        self._open()
        pixels = self._stream.codec_context.width * self._stream.codec_context.height
        if pixels > PIXEL_LIMIT:
            self.close()
            raise DataError(f"{path}: {pixels:,} pixels per frame are more than the limit of {PIXEL_LIMIT:,}")
        aspect = float(self._stream.sample_aspect_ratio or 1)
        self.pixel_aspect = aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0
        self._unit = float(self._stream.time_base or 1)  # seconds per step of the timestamps
        rate, start, length = self._stream.average_rate, self._stream.start_time, self._stream.duration
        if self._container.format.name.startswith(_WITH_LENGTHS) and rate and start is not None and length:
            self._origin, self.duration, self.rate = start, length * self._unit, float(rate)
        else:
            first, end, self.rate = _measured(path, file_state(path))
            self._origin, self.duration = round(first / self._unit), end - first
        self._per_frame = 1 / (self.rate * self._unit)
        self._may_skip = True

    def frame(self, time: float) -> VideoFrame | None:
        """Return the last frame that starts at or before `time` (seconds), or else the first frame.

        None if the frames end earlier: the file is truncated or damaged, or its sound goes on alone. Times may come in
        any order; ascending times are cheap. Raises DataError if not a single frame can be decoded.
        """
        wanted = self._origin + math.floor((time + _ROUNDING) / self._unit)
        if self._is_seek_shorter(wanted):
            self._seek(wanted)
        if not self._read_to(wanted):
            # Skipped frames may confuse the decoder, and earlier damage the container: open the file again.
            self._may_skip = False
            self.close()
            self._open()
            self._seek(wanted)
            self._read_to(wanted)
        if wanted >= self._end:
            return None
        current = self._current or self._following(None)
        if current is None:
            raise DataError(f"{self.path}: no frame could be decoded")
        return current[1]

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _open(self) -> None:
        self._container, self._stream = _open_stream(self.path)
        # If the first frame is beyond the part that was probed, the decoding order is a guess.
        self._is_probed = self._stream.codec_context.pix_fmt is not None
        self._is_seekable = self._container.format.name != _UNSEEKABLE
        self._forget()
        self._is_fresh = True  # nothing was skipped or used yet

    def _forget(self) -> None:
        self._is_fresh = False
        self._current: _Frame | None = None
        self._packets = _packets(self._container, self._stream)
        self._ahead: deque[Packet[VideoStream]] = deque()  # read, not yet decoded
        self._decoded: deque[_Frame] = deque()  # decoded, not yet used
        self._inside: list[int] = []  # timestamps of the packets whose frames are still in the decoder
        self._is_flushed = False
        self._end = math.inf  # the timestamp after the last frame, once it was read

    def _is_seek_shorter(self, wanted: int) -> bool:
        if self._current is None or wanted < self._current[0]:
            return True
        if not self._is_seekable:
            return False
        index = getattr(self._stream, "index_entries", None)  # PyAV has it since 17
        at = index.search_timestamp(wanted) if index else -1
        if index and at >= 0 and index[-1].timestamp >= wanted:
            return bool(index[at].timestamp > self._current[0] + _SEEK_COST * self._per_frame)
        return wanted - self._current[0] > _KEY_FRAMES_APART / self._unit

    def _seek(self, wanted: int) -> None:
        """Go to a key frame at or before `wanted`; further back if that one starts later or cannot be decoded."""
        back = 0.0
        while self._is_seekable and (target := wanted - round(back / self._unit)) > self._origin:
            try:
                self._container.seek(target, stream=self._stream)
            except av.FFmpegError:
                break
            self._forget()
            first = self._following(None)
            if first is not None and first[0] <= wanted:
                return
            back = 2 * back or 1.0
        if not self._is_fresh:
            self.close()
            self._open()

    def _read_to(self, wanted: int) -> bool:
        """Make the last frame at or before `wanted` the current one, and return whether it is the right one."""
        shown = self._look_ahead(wanted)
        while self._current is None or self._current[0] != shown:
            following = self._following(shown)
            if following is None:
                if self._current is not None:
                    stamp, frame = self._current
                    self._end = stamp + max(frame.duration, 2 * self._per_frame)
                break
            if following[0] > wanted:
                break
            self._current = self._decoded.popleft()
            self._inside = [stamp for stamp in self._inside if stamp > following[0]]
            self._is_fresh = False
        return wanted < self._end and (shown is None or (self._current is not None and self._current[0] == shown))

    def _look_ahead(self, wanted: int) -> int | None:
        """Return the timestamp of the frame shown at `wanted` by the packets; None if they do not tell."""
        if not self._is_probed:
            return None
        while not self._ahead or self._ahead[-1].dts is None or self._ahead[-1].dts <= wanted:
            packet = next(self._packets, None)
            if packet is None:  # only the last frame tells where the file ends
                return None
            self._ahead.append(packet)
            if len(self._ahead) > _MAX_AHEAD:
                return None
        stamps = [*self._inside, *(packet.pts for packet in self._ahead if packet.pts is not None)]
        if self._current is not None and stamps:
            stamps.append(self._current[0])
        return max((stamp for stamp in stamps if stamp <= wanted), default=None)

    def _following(self, shown: int | None) -> "_Frame | None":
        """Return the next frame and leave it in the queue; None at the end. Frames before `shown` may be skipped."""
        while not self._decoded and not self._is_flushed:
            packet = self._ahead.popleft() if self._ahead else next(self._packets, None)
            starts = None if packet is None else packet.pts
            may_skip = self._may_skip and shown is not None and starts is not None and starts < shown
            self._stream.codec_context.skip_frame = "NONREF" if may_skip else "DEFAULT"
            self._is_flushed = packet is None
            if starts is not None:
                self._inside.append(starts)
            self._decoded.extend(_decode(self._stream, packet))
        return self._decoded[0] if self._decoded else None


def _open_stream(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a file and return its first video stream that is not a cover picture."""
    container = _open_container(path)
    cover = av.stream.Disposition.attached_pic  # the picture of a music file
    streams = [stream for stream in container.streams.video if cover not in stream.disposition]
    if streams and streams[0].codec_context is not None:
        streams[0].codec_context.thread_count = 1
        return container, streams[0]
    kinds = sorted({stream.type for stream in container.streams} - {"video"})
    container.close()
    if streams:
        raise DataError(f"{path}: has video in a format that cannot be decoded")
    only = f" (only {' and '.join(kinds)})" if kinds else ""
    raise DataError(f"{path}: has no video stream{only}")


def _packets(container: InputContainer, *streams: VideoStream) -> "Iterator[Packet[Any]]":
    """Yield the packets of these streams, or of all, up to the end of the file or of its readable part."""
    try:
        for packet in container.demux(*streams):
            if packet.size:
                yield packet
    except (av.FFmpegError, IndexError):  # an IndexError is PyAV's, for streams that appear in damaged files
        return


def _decode(stream: VideoStream, packet: "Packet[VideoStream] | None") -> "list[_Frame]":
    """Decode a packet, or None for the end, and return the intact frames."""
    try:
        return [(frame.pts, frame) for frame in stream.decode(packet) if frame.pts is not None and not frame.is_corrupt]
    except av.FFmpegError:  # a damaged packet: the decoder recovers at the next key frame
        return []


@lru_cache(maxsize=4096)  # a long video has many segments
def _measured(path: Path, state: object) -> tuple[float, float, float]:
    """Return the start of the first decodable video frame and the end of the last one, in seconds, and the frame rate.

    If every stream ends before the length in the header, the file is truncated, and that length is the end. `state`
    tells a changed file.
    """
    container, stream = _open_stream(path)
    with closing(container):
        unit = float(stream.time_base or 1)
        first = (stream.start_time or 0) * unit
        for packet in chain(_packets(container, stream), [None]):
            if frames := _decode(stream, packet):
                first = frames[0][0] * unit
                break
        promised = (container.duration or 0) / 1e6
        if container.format.name == "flv":  # whose length counts from the first frame
            promised += (container.start_time or 0) / 1e6
    end, reached, rate = _tail(path, first)
    return first, max(end, promised if reached < promised - _CUT_OFF else 0.0), rate


def _tail(path: Path, first: float) -> tuple[float, float, float]:
    """Return the end of the video's last packet and of any stream's, and the frame rate.

    Reads from a key frame near the end of the file, without decoding; from the start if seeking does not find one.
    """
    back = 0.0
    while True:
        container, stream = _open_stream(path)
        with closing(container):
            target = ((container.start_time or 0) + (container.duration or 0)) / 1e6 - back
            is_whole = not container.duration or target <= first or container.format.name == _UNSEEKABLE
            if not is_whole:
                with suppress(av.FFmpegError, OverflowError):  # a header may promise any length
                    container.seek(round(target / (stream.time_base or 1)), stream=stream)
            starts, end, reached = [], first, first
            for packet in _packets(container):
                if packet.pts is None or packet.time_base is None:
                    continue
                after = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                reached = max(reached, after)
                if packet.stream.index == stream.index:
                    end = max(end, after)
                    is_whole = is_whole or packet.is_keyframe
                    if is_whole:
                        starts.append(float(packet.pts * packet.time_base))
            if is_whole and not starts:
                return end, reached, _USUAL_RATE
            if is_whole:
                between = (max(starts) - min(starts)) / max(1, len(starts) - 1)
                rate = float(stream.average_rate or (1 / between if between else _USUAL_RATE))
                return max(end, max(starts) + 1 / rate), reached, rate
            back = 2 * back or 1.0


def _open_container(path: Path) -> InputContainer:
    try:
        check_file(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    av.logging.set_level(None)  # keeps the decoder's log off the terminal
    # "file:", so that no file name is taken for an address.
    name, options = f"file:{os.path.abspath(path)}", {"format_whitelist": _FORMATS}
    try:
        return av.open(name, container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        why = f"is not a video that can be opened: {why_not_read(path) or getattr(error, 'strerror', None) or error}"
    with suppress(OSError), open(path, "rb") as file:
        if file.read(8)[4:] == b"ftyp":
            why = "is truncated or damaged: the table of its frames (moov), often at the end of an MP4, cannot be read"
        elif is_medium(path, "image") and path.suffix.lower() != ".gif":
            why = "is an image, not a video"
    raise DataError(f"{path}: {why}")
