"""Decoding a clip against a plain loop: open the file, turn every frame up to the segment's end into an image."""

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
from mmts.data.media.video import FrameSampling, load_clip
from mmts.data.records import Medium

SECONDS, RATE, WIDTH, HEIGHT, SIZE = 60, 30, 320, 240, 224
START, END = 20.0, 40.0


def run() -> Iterator[Comparison]:
    """Compare both ways on a film of a minute, for frames far apart and for frames near to each other."""
    with tempfile.TemporaryDirectory() as folder:
        path = _film(Path(folder) / "film.mp4")
        medium = Medium("film", path, ("x",), kind="video", start=START, end=END)
        for sampling in (FrameSampling(8), FrameSampling(16, "stride", stride=4)):
            apart = f"{sampling.kind}" if sampling.kind == "uniform" else f"stride {sampling.stride}"
            times = sampling.times(START, END, RATE)
            difference = (load_clip(medium, sampling, SIZE) - _plain(path, times)).abs().mean().item()
            if difference > 0.02:  # both scale by other means; another frame would differ by more
                raise AssertionError(f"both ways must give the same frames; they differ by {difference:.3f}")
            yield compare(
                "clips of a video, one thread",
                f"{sampling.frames} frames, {apart}, of 20 s in the middle of {SECONDS} s, {WIDTH}x{HEIGHT}, H.264",
                lambda sampling=sampling: load_clip(medium, sampling, SIZE),  # type: ignore[misc]
                lambda times=times: _plain(path, times),  # type: ignore[misc]
                3,
                (1, "clips"),
            )


def _plain(path: Path, times: list[float]) -> Tensor:
    wanted = {int(time * RATE) for time in times}
    found: list[Tensor] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if frame.time is None or frame.time >= END:
                break
            image = frame.to_image()
            if number in wanted:
                found.append(to_pixels(fit_square(image, SIZE)))
    return torch.stack(found)


def _film(path: Path) -> Path:
    """Draw a smooth picture that drifts, with some grain: about what a camera gives the encoder to do."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (20, 60, 3), dtype=np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((3 * WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    grain = rng.integers(0, 8, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for at in range(SECONDS * RATE):
            left = at * (2 * WIDTH) // (SECONDS * RATE)
            pixels = scene[:, left : left + WIDTH] // 16 * 15 + grain[at % 8]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
        container.mux(stream.encode())
    return path
