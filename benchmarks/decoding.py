"""Decoding a clip, compared with a plain loop that turns every frame up to the end of the segment into an image."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import Comparison, compare
from mmts.data.media.image import fit_square, to_pixels
from mmts.data.media.load import load_medium
from mmts.data.media.video import FrameSampling
from mmts.data.records import Medium

SECONDS, RATE, WIDTH, HEIGHT, SIZE = 60, 30, 320, 240, 224
START, END = 20.0, 40.0


def run() -> Iterator[Comparison]:
    """Compare on a video of one minute, with frames far apart and with frames close together."""
    with tempfile.TemporaryDirectory() as folder:
        path = _write_video(Path(folder) / "video.mp4")
        yield _compare(path, FrameSampling(8), "8 uniform frames")
        yield _compare(path, FrameSampling(16, "stride", stride=4), "16 frames with stride 4")


def _compare(path: Path, sampling: FrameSampling, frames: str) -> Comparison:
    medium = Medium("video", path, ("x",), kind="video", start=START, end=END)

    def ours() -> Tensor:
        return load_medium(medium, SIZE, sampling=sampling)

    def plain() -> Tensor:
        return _decode(path, sampling.times(START, END, RATE))

    difference = (ours() - plain()).abs().mean().item()
    if difference > 0.02:  # the two scale images differently; a wrong frame would differ by more
        raise AssertionError(f"both ways must give the same frames, but they differ by {difference:.3f}")
    setting = f"{frames} from 20 s in the middle of a video of {SECONDS} s, {WIDTH}x{HEIGHT}, H.264"
    return compare("decoding video clips, one thread", setting, ours, plain, 3, (1, "clips"))


def _decode(path: Path, times: list[float]) -> Tensor:
    numbers = {int(time * RATE) for time in times}
    frames: list[Tensor] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if frame.time is None or frame.time >= END:
                break
            image = frame.to_image()
            if number in numbers:
                frames.append(to_pixels(fit_square(image, SIZE)))
    return torch.stack(frames)


def _write_video(path: Path) -> Path:
    """Draw a smooth picture that drifts, with some grain, which is about as hard to decode as a camera's video."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (20, 60, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((3 * WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    grain = rng.integers(0, 8, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * RATE):
            left = number * (2 * WIDTH) // (SECONDS * RATE)
            pixels = scene[:, left : left + WIDTH] // 16 * 15 + grain[number % 8]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return path
