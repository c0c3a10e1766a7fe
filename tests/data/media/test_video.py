import gc
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from mmts.data.media import decoding, video
from mmts.data.media.checks import unreadable_media
from mmts.data.media.decoding import VideoFile
from mmts.data.media.image import Augmentation
from mmts.data.media.load import load_medium, why_unreadable
from mmts.data.media.video import FrameSampling, middle_frame
from mmts.data.records import Medium
from mmts.errors import DataError, InputError

# --- films whose frames carry their own number: ten blocks, white for a 1 among its binary digits ---------------------


def drawn(number: int, width: int = 80, height: int = 48) -> npt.NDArray[np.uint8]:
    bits = np.array([number >> bit & 1 for bit in range(10)], dtype=np.uint8).reshape(2, 5)
    blocks = np.kron(30 + 200 * bits, np.ones((height // 2, width // 5), dtype=np.uint8))
    return np.repeat(blocks[:, :, None], 3, axis=2)


def numbers(clip: Tensor) -> list[int]:
    """Read the numbers of the frames of a clip (F, 3, S, S) back."""
    side = clip.shape[-1]
    rows, columns = [side // 4, 3 * side // 4], [round((at + 0.5) * side / 5) for at in range(5)]
    bits = clip[:, 1][:, rows][:, :, columns].reshape(len(clip), 10) > 0.5
    return (bits * 2 ** torch.arange(10)).sum(dim=1).tolist()


def film(
    path: Path,
    count: int = 90,
    rate: int = 30,
    first: int = 0,
    codec: str = "libx264",
    ticks: Sequence[int] | None = None,
    **options: str,
) -> Path:
    """Write a film of frames first, first + 1, ...; `ticks` are their times in thousandths of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"g": "12", "bf": "2", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000 if ticks else rate)
        for at in range(count):
            frame = av.VideoFrame.from_ndarray(drawn(first + at), format="rgb24")
            frame.pts, frame.time_base = ticks[at] if ticks else at, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def clip_of(path: Path, start: float | None = None, end: float | None = None, **rest: object) -> Medium:
    return Medium("clip", path, ("x",), kind="video", start=start, end=end, **rest)  # type: ignore[arg-type]


def load_clip(medium: Medium, sampling: FrameSampling, size: int, resize: str = "stretch", **random: Any) -> Tensor:
    return load_medium(medium, size, resize, sampling, **random)


def shown(medium: Medium, sampling: FrameSampling, seed: int | None = None) -> list[int]:
    rng = None if seed is None else np.random.default_rng(seed)
    return numbers(load_clip(medium, sampling, 40, "stretch", rng=rng))


# --- which frames -----------------------------------------------------------------------------------------------------


def test_the_middle_frame_stands_for_a_segment(tmp_path: Path):
    path = film(tmp_path / "a.mp4")
    for medium, number in ((clip_of(path), 45), (clip_of(path, 1.0, 2.0), 45), (clip_of(path, 2.0), 75)):
        image = middle_frame(medium, 60)
        assert image.size == (60, 36)
        square = np.asarray(image.resize((40, 40)), dtype=np.float32) / 255
        assert numbers(torch.from_numpy(square).permute(2, 0, 1)[None]) == [number]
    with pytest.raises(DataError, match=r"a\.mp4, from 9 s: ends at 3 s"):
        middle_frame(clip_of(path, 9.0), 60)


def test_uniform_takes_the_middle_of_equal_parts(tmp_path: Path):
    path = film(tmp_path / "a.mp4")
    assert shown(clip_of(path), FrameSampling(6)) == [7, 22, 37, 52, 67, 82]
    assert shown(clip_of(path, 1.0, 2.0), FrameSampling(5)) == [33, 39, 45, 51, 57]
    assert shown(clip_of(path, 1.0), FrameSampling(2)) == [45, 75]
    assert shown(clip_of(path, end=1.0), FrameSampling(1)) == [15]
    assert shown(clip_of(path), FrameSampling(90)) == list(range(90))


def test_random_takes_one_of_each_part(tmp_path: Path):
    path = film(tmp_path / "a.mp4")
    sampling = FrameSampling(6, "random")
    drawn = np.array([shown(clip_of(path), sampling, seed) for seed in range(20)])
    assert (drawn // 15 == np.arange(6)).all()
    assert (np.ptp(drawn, axis=0) > 5).all()
    assert shown(clip_of(path), sampling, 7) == shown(clip_of(path), sampling, 7)
    assert shown(clip_of(path), sampling) == shown(clip_of(path), FrameSampling(6))


def test_stride_takes_frames_so_far_apart(tmp_path: Path):
    path = film(tmp_path / "a.mp4")
    sampling = FrameSampling(8, "stride", stride=4)
    assert shown(clip_of(path), sampling) == [29 + 4 * at for at in range(8)]  # (90 - 32) / 2 frames before it
    found = [shown(clip_of(path, 1.0, 2.5), sampling, seed) for seed in range(20)]
    assert all((np.diff(each) == 4).all() and 30 <= each[0] <= 43 for each in found)
    assert len({each[0] for each in found}) > 5


def test_stride_repeats_the_last_frame_of_a_segment_too_short(tmp_path: Path):
    path = film(tmp_path / "a.mp4")
    sampling = FrameSampling(6, "stride", stride=4)
    for seed in (None, 0):
        assert shown(clip_of(path, 1.0, 1.4), sampling, seed) == [30, 34, 38, 41, 41, 41]


def test_more_frames_than_there_are(tmp_path: Path):
    path = film(tmp_path / "a.mp4", 3)
    assert shown(clip_of(path), FrameSampling(6)) == [0, 0, 1, 1, 2, 2]
    assert shown(clip_of(film(tmp_path / "b.mp4", 1)), FrameSampling(4, "stride")) == [0, 0, 0, 0]


def test_a_variable_rate_goes_by_the_clock(tmp_path: Path):
    ticks = [0, 40, 80, 1000, 1040, 1900, 1940, 1980, 3000, 3040]
    path = film(tmp_path / "a.mkv", len(ticks), ticks=ticks)
    times = (np.arange(30) + 0.5) * 3040 / 30
    expected = [int(np.searchsorted(ticks, time, side="right")) - 1 for time in times]
    assert shown(clip_of(path, 0, 3.04), FrameSampling(30)) == expected


# --- seeking and reading on give the same -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"g": "12", "bf": "3", "preset": "fast"}),
        ("a.mp4", "libx264", {"preset": "veryslow", "x264-params": "open-gop=1:keyint=20:b-pyramid=normal"}),
        ("a.mp4", "libx265", {"x265-params": "keyint=20:open-gop=1:log-level=none", "preset": "superfast"}),
        ("a.mkv", "libx264", {"g": "12"}),
        ("a.ts", "libx264", {"g": "12", "bf": "2"}),
        ("a.webm", "libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
        ("a.avi", "mpeg4", {"g": "12"}),
        ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
        ("a.mov", "mpeg4", {"g": "12", "bf": "2"}),
    ],
)
def test_the_frame_is_exact_however_it_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, options: dict
):
    path = film(tmp_path / name, codec=codec, **options)
    order = np.random.default_rng(0).permutation(90)

    def read(order: Sequence[int]) -> list[int]:
        found = []
        with closing(VideoFile(path)) as file:
            for at in order:
                frame = file.frame((at + 0.5) / 30)
                assert frame is not None
                pixels = np.asarray(frame.to_image().resize((40, 40))).transpose(2, 0, 1) / 255
                found += numbers(torch.from_numpy(pixels)[None])
        return found

    assert read(order) == list(order)  # to and fro
    assert read(range(90)) == list(range(90))
    assert read(range(3, 90, 7)) == list(range(3, 90, 7))
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_MAX_AHEAD", 3)
        assert read(range(0, 90, 7)) == list(range(0, 90, 7))
    monkeypatch.setattr(VideoFile, "_is_seek_shorter", lambda self, wanted: True)
    assert read(range(0, 90, 7)) == list(range(0, 90, 7))
    monkeypatch.setattr(VideoFile, "_is_seek_shorter", lambda self, wanted: False)
    assert read(range(0, 90, 7)) == list(range(0, 90, 7))


def test_far_frames_are_sought_and_near_ones_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = film(tmp_path / "a.mp4", 900, g="30", bf="2")
    seeks: list[int] = []
    seek = VideoFile._seek
    monkeypatch.setattr(VideoFile, "_seek", lambda self, wanted: seeks.append(wanted) or seek(self, wanted))
    load_clip(clip_of(path), FrameSampling(4), 8)
    assert len(seeks) == 4
    seeks.clear()
    load_clip(clip_of(path, 5, 6.5), FrameSampling(8), 8)
    assert len(seeks) == 1


# --- the video stream's own start and length --------------------------------------------------------------------------


CONTAINERS = {
    "mp4": ("libx264", "aac"),
    "mkv": ("libx264", "aac"),
    "webm": ("libvpx", "libopus"),
    "flv": ("libx264", "aac"),
    "ts": ("libx264", "aac"),
    "mpg": ("mpeg2video", "mp2"),
    "wmv": ("wmv2", None),
    "avi": ("mpeg4", "mp2"),
}


def film_with_sound(
    path: Path, starts: float = 0.0, sound: float = 0.0, sound_starts: float = 0.0, **options: str
) -> Path:
    """Write two seconds of film, frames 0 to 59 from `starts` on, and as many seconds of sound."""
    codec, sound_codec = CONTAINERS[path.suffix[1:]]
    unit = Fraction(1, 30) if path.suffix in (".mpg", ".wmv", ".avi") else Fraction(1, 1000)
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(codec, rate=30, options={"g": "12", "bf": "2"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.time_base = 80, 48, "yuv420p", unit
        audio = container.add_stream(sound_codec, rate=48000, layout="mono") if sound and sound_codec else None
        for at in range(60):
            frame = av.VideoFrame.from_ndarray(drawn(at), format="rgb24")
            frame.pts, frame.time_base = round((starts + at / 30) / unit), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            size = audio.codec_context.frame_size
            for at in range(round(sound * 48000 / size)):
                dtype = np.float32 if "flt" in audio.format.name else np.int16
                noise = av.AudioFrame.from_ndarray(np.zeros((1, size), dtype), audio.format.name, "mono")
                noise.sample_rate, noise.pts = 48000, at * size + round(sound_starts * 48000)
                container.mux(audio.encode(noise))
            container.mux(audio.encode())
    return path


def in_order(path: Path) -> list[tuple[float, int]]:
    """Decode a file from its first frame to its last: seconds from the first, and the number drawn."""
    found = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            pixels = np.asarray(frame.to_image().resize((40, 40))).transpose(2, 0, 1) / 255
            found.append((float(frame.pts * frame.time_base), numbers(torch.from_numpy(pixels)[None])[0]))
    return [(time - found[0][0], number) for time, number in found]


def check_as_in_order(path: Path) -> None:
    right = in_order(path)
    with closing(VideoFile(path)) as file:
        assert file.duration == pytest.approx(right[-1][0] + 1 / 30, abs=0.02)
        assert file.rate == pytest.approx(30, rel=0.02)
    for time, number in [right[0], right[31], right[-1], right[7]]:
        assert shown(clip_of(path, time + 0.005, time + 0.015), FrameSampling(1)) == [number]


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"sound": 5.0},
        {"sound": 0.5},
        {"starts": 1.0},
        {"starts": 1.0, "sound": 3.0},
        {"starts": 60.0},
        {"starts": 20.0, "sound": 22.0},  # the first frame is further away than a container is looked through
        {"sound": 1.0, "sound_starts": 3.0},
    ],
    ids=str,
)
def test_start_and_length_are_those_of_the_video(tmp_path: Path, suffix: str, rest: dict):
    check_as_in_order(film_with_sound(tmp_path / f"a.{suffix}", **rest))


def test_uniform_frames_of_a_film_with_longer_sound(tmp_path: Path):
    for suffix in ("mkv", "flv", "webm"):
        path = film_with_sound(tmp_path / f"a.{suffix}", sound=6.0)
        assert shown(clip_of(path), FrameSampling(4)) == [7, 22, 37, 52]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("live.webm", {"live": "1"}),  # as a browser records it: no length, no index
        ("live.mkv", {"live": "1"}),
        ("pieces.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("piece_60.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont"}),
    ],
)
def test_files_without_an_index(tmp_path: Path, name: str, options: dict):
    check_as_in_order(film_with_sound(tmp_path / name, starts=60.0 if "60" in name else 0.0, **options))


@pytest.mark.parametrize(("cut", "stays"), [((0, 2001), (0, 60)), ((8000, 1500), (15, 60)), ((8000, 700), (15, 36))])
def test_an_edit_list_cuts_both_ends(tmp_path: Path, cut: tuple[int, int], stays: tuple[int, int]):
    content = bytearray(film_with_sound(tmp_path / "a.mp4").read_bytes())
    at = content.index(b"elst") + 12
    _, media = struct.unpack_from(">Ii", content, at)
    struct.pack_into(">Ii", content, at, cut[1], media + cut[0])
    path = written(tmp_path / "b.mp4", bytes(content))
    assert [number for _, number in in_order(path)] == list(range(*stays))
    with closing(VideoFile(path)) as file:
        assert file.duration == pytest.approx(cut[1] / 1000, abs=0.002)
    assert shown(clip_of(path, 0.0, 0.3), FrameSampling(3)) == [stays[0] + each for each in (1, 4, 7)]


@pytest.mark.parametrize("suffix", ["ts", "mpg"])
def test_a_recording_that_starts_between_key_frames(tmp_path: Path, suffix: str):
    content = film_with_sound(tmp_path / f"a.{suffix}").read_bytes()
    start = len(content) // 3 // 188 * 188
    path = written(tmp_path / f"b.{suffix}", content[start:])
    first = in_order(path)[0][1]
    assert first > 0
    assert shown(clip_of(path, 0.0, 0.2), FrameSampling(2)) == [first + 1, first + 4]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_film_of_one_frame(tmp_path: Path, suffix: str):
    path = film(tmp_path / f"a.{suffix}", 1, first=77, codec=CONTAINERS[suffix][0], g="12")
    assert shown(clip_of(path), FrameSampling(2)) == [77, 77]


def test_the_length_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = film_with_sound(tmp_path / "a.mkv")
    calls: list[Path] = []
    tail = decoding._tail
    monkeypatch.setattr(decoding, "_tail", lambda path, first: calls.append(path) or tail(path, first))
    for start in (0.0, 0.5, 1.0):
        load_clip(clip_of(path, start, start + 0.5), FrameSampling(2), 8)
    assert calls == [path]


# --- chunks and folders of frames -------------------------------------------------------------------------------------


def test_a_clip_spans_chunks_whose_sound_is_longer(tmp_path: Path):
    for start in (0, 2, 4):  # frames 0 to 59 in each
        film_with_sound(tmp_path / f"{start}.mkv", starts=float(start), sound=start + 2.5)
    assert shown(clip_of(tmp_path, 1.0, 5.0), FrameSampling(4)) == [45, 15, 45, 15]
    assert shown(clip_of(tmp_path), FrameSampling(3)) == [30, 30, 30]


def chunks(folder: Path, starts: Sequence[int] = (0, 2, 4), last: int = 30) -> Path:
    for start in starts:
        film(folder / f"{start}.MP4", last if start == starts[-1] else 60, first=30 * start)
    return folder


def test_a_clip_spans_chunks(tmp_path: Path):
    folder = chunks(tmp_path / "P01_01.MP4")
    assert shown(clip_of(folder, 1.0, 5.0), FrameSampling(8)) == [37, 52, 67, 82, 97, 112, 127, 142]
    assert shown(clip_of(folder, 1.9, 2.1), FrameSampling(6)) == [57, 58, 59, 60, 61, 62]
    assert shown(clip_of(folder), FrameSampling(5)) == [15, 45, 75, 105, 135]
    assert shown(clip_of(folder, 3.0, 9.0), FrameSampling(2)) == [105, 135]  # the video is 5 s long
    assert shown(clip_of(folder, 1.5, 2.5), FrameSampling(4, "stride", 6)) == [48, 54, 60, 66]


@pytest.mark.parametrize(
    ("starts", "start", "end", "reason"),
    [
        ((0, 4, 6), 1.0, 3.0, "chunk 2.MP4 is missing"),
        ((2, 4), 1.0, 3.0, "the first chunk is 2.MP4, after 1 s"),
        ((0, 2), 7.0, 8.0, "ends at 3 s, before the segment starts at 7 s"),
    ],
)
def test_what_chunks_can_lack(tmp_path: Path, starts: Sequence[int], start: float, end: float, reason: str):
    folder = chunks(tmp_path / "video", starts)
    assert why_unreadable(clip_of(folder, start, end)) == reason


def test_a_damaged_chunk_is_named(tmp_path: Path):
    folder = chunks(tmp_path / "video")
    (folder / "2.MP4").write_bytes(b"")
    assert why_unreadable(clip_of(folder, 2.2, 2.8)) == "2.MP4: is empty (0 bytes)"
    with pytest.raises(DataError, match=r", from 1 to 5 s: 2.MP4: is empty"):
        load_clip(clip_of(folder, 1.0, 5.0), FrameSampling(4), 16)
    assert why_unreadable(clip_of(folder, 0.2, 3.0)) is None
    assert shown(clip_of(folder, 0.2, 3.0), FrameSampling(4)) == [16, 37, 58, 58]


def test_a_gap_as_wide_as_every_other_is_a_missing_chunk(tmp_path: Path):
    folder = chunks(tmp_path / "video", (0, 4, 8))  # nothing but their lengths, 2 s, says that 2 and 6 are missing
    assert "chunk 2.MP4 is missing" in str(why_unreadable(clip_of(folder, 0.5, 5.0)))
    assert shown(clip_of(folder, 4.2, 5.8), FrameSampling(2)) == [138, 162]


@pytest.mark.parametrize("pattern", ["frame_{:010d}.jpg", "img_{:05d}.jpg", "{:06d}.png", "frame{}.jpg"])
def test_a_folder_of_frames(tmp_path: Path, pattern: str):
    for number in range(98, 120):
        Image.fromarray(drawn(number)).save(tmp_path / pattern.format(number))
    assert shown(clip_of(tmp_path, frames=(100, 109)), FrameSampling(5)) == [101, 103, 105, 107, 109]
    assert shown(clip_of(tmp_path, frames=(100, 100)), FrameSampling(3)) == [100, 100, 100]
    assert shown(clip_of(tmp_path), FrameSampling(22)) == list(range(98, 120))
    assert shown(clip_of(tmp_path, frames=(98, 119)), FrameSampling(3, "stride", 4)) == [103, 107, 111]
    # The last frames of a video are often missing: half of the clip must be there.
    assert shown(clip_of(tmp_path, frames=(116, 121)), FrameSampling(6)) == [116, 117, 118, 119, 119, 119]
    with pytest.raises(DataError, match=rf"^{tmp_path}, frames 119 to 130: .*frame in the middle .* cannot be decoded"):
        shown(clip_of(tmp_path, frames=(119, 130)), FrameSampling(6))


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ({}, "is a folder without chunks .* or frames"),
        ({"frames": (5, 3)}, "frames 5 to 3: the first must be at least 0 and not after the last"),
    ],
)
def test_a_folder_of_nothing(tmp_path: Path, rest: dict, reason: str):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=reason):
        shown(clip_of(tmp_path, **rest), FrameSampling(2))


def test_seconds_do_not_cut_a_folder_of_frames(tmp_path: Path):
    Image.fromarray(drawn(1)).save(tmp_path / "frame_0000000001.jpg")
    assert "which needs 'frames' (numbers) instead of seconds" in str(why_unreadable(clip_of(tmp_path, 1.0, 2.0)))


# --- what cannot be read ----------------------------------------------------------------------------------------------


def sound(path: Path, codec: str = "aac") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        frame = av.AudioFrame(format=stream.codec_context.format.name, layout="mono", samples=1024)
        frame.sample_rate, frame.pts = 16000, 0
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


NOT_VIDEOS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "a.mp4", "does not exist"),
    "empty": (lambda folder: written(folder / "a.mp4", b""), "is empty (0 bytes)"),
    "text": (lambda folder: written(folder / "a.mp4", b"hello\n" * 100), "is not a video that can be opened"),
    "noise": (lambda folder: written(folder / "a.mp4", np.random.default_rng(0).bytes(9000)), "is not a video that"),
    "picture": (lambda folder: written(folder / "a.png", b"\x89PNG\r\n\x1a\n"), "is an image, not a video"),
    "RealMedia": (
        lambda folder: written(folder / "a.rmvb", b".RMF" * 99),
        "is not a video that can be opened: this kind",
    ),
    "sound in mp4": (lambda folder: sound(folder / "a.mp4"), "has no video stream (only audio)"),
    "sound in mkv": (lambda folder: sound(folder / "a.mkv", "pcm_s16le"), "has no video stream (only audio)"),
    "half an mp4": (
        lambda folder: written(folder / "b.mp4", film(folder / "a.mp4").read_bytes()[:2000]),
        "is truncated or damaged: the table of its frames (moov)",
    ),
    "playlist": (
        lambda folder: written(folder / "a.mp4", f"#EXTM3U\n#EXTINF:3,\n{film(folder / 'b.ts')}\n".encode()),
        "is not a video that can be opened",
    ),
}


@pytest.mark.parametrize("case", NOT_VIDEOS)
def test_the_file_and_the_reason_are_named(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]):
    make, reason = NOT_VIDEOS[case]
    medium = clip_of(make(tmp_path), 0.5, 1.5)
    assert str(why_unreadable(medium)).startswith(reason)
    with pytest.raises(DataError) as caught:
        load_clip(medium, FrameSampling(4), 16)
    assert str(caught.value).startswith(f"{medium.path}, from 0.5 to 1.5 s: {reason}")
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_looked_at_is_unreadable(tmp_path: Path):
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    for path, why in (
        (tmp_path / "loop.mp4", "Too many levels of symbolic links"),
        (tmp_path / f"{'x' * 5000}.mp4", "File name too long"),
    ):
        assert why_unreadable(clip_of(path)) == f"cannot be opened: {why}"


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(video.os, "scandir", refuse)
    assert why_unreadable(clip_of(tmp_path)) == "cannot be listed: Permission denied"


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.mp4")
    assert why_unreadable(clip_of(tmp_path / "a.mp4")) == "is not a regular file"


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (5.0, 6.0, "ends at 3 s, before the segment starts at 5 s"),
        (3.0, None, "ends at 3 s, before the segment starts at 3 s"),
        (1.0, 1.0, "the segment is empty: it starts at 1 s and ends at 1 s"),
        (2.0, 1.0, "the segment is empty: it starts at 2 s and ends at 1 s"),
        (-1.0, 1.0, "the segment is empty: it starts at -1 s and ends at 1 s"),
        (float("nan"), 1.0, "the segment is empty: it starts at nan s and ends at 1 s"),
    ],
)
def test_segments_that_cannot_be(tmp_path: Path, start: float, end: float | None, reason: str):
    medium = clip_of(film(tmp_path / "a.mp4"), start, end)
    assert why_unreadable(medium) == reason
    with pytest.raises(DataError, match=reason):
        load_clip(medium, FrameSampling(4), 16)


def test_a_segment_beyond_the_end_is_cut_there(tmp_path: Path):
    assert shown(clip_of(film(tmp_path / "a.mp4"), 2.0, 60.0), FrameSampling(3)) == [65, 75, 85]


@pytest.fixture(scope="module")
def truncated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Films of 300 frames, 10 s, of which about 40 % of the bytes are there."""
    folder = tmp_path_factory.mktemp("truncated")
    paths, rng = {}, np.random.default_rng(0)
    for name, options in (("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.ts", {})):
        with av.open(str(folder / name), "w", options=options) as container:
            stream = container.add_stream("libx264", rate=30, options={"g": "15", "preset": "superfast"})
            stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
            for at in range(300):
                pixels = drawn(at) + rng.integers(0, 20, (48, 80, 3), dtype=np.uint8)  # noise: many bytes a frame
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        content = (folder / name).read_bytes()
        paths[name] = written(folder / f"cut_{name}", content[: int(0.4 * len(content))])
    return paths


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_truncated_file_is_read_as_far_as_it_goes(truncated: dict[str, Path], name: str):
    path = truncated[name]
    assert shown(clip_of(path, 1.0, 2.0), FrameSampling(5)) == [33, 39, 45, 51, 57]
    assert why_unreadable(clip_of(path, 1.0, 2.0)) is None
    found = shown(clip_of(path, 0.0, 5.0), FrameSampling(10))  # something between 2.5 and 4.5 s is left
    assert found[:5] == [7, 22, 37, 52, 67]
    assert found[-1] == found[-2] < 135
    for medium in (clip_of(path), clip_of(path, 6.0, 8.0)):
        for kind in ("uniform", "stride"):
            with pytest.raises(DataError, match=r"is truncated or incomplete: .* in the middle"):
                load_clip(medium, FrameSampling(8, kind), 16)
        assert "truncated" in str(why_unreadable(medium))


def test_whatever_passes_the_check_can_be_loaded(truncated: dict[str, Path]):
    """A window that lies in the lost part altogether shows the middle of the segment."""
    for end in np.arange(4.0, 9.0, 0.25):
        medium = clip_of(truncated["a.mp4"], 0.0, float(end))
        if why_unreadable(medium) is None:
            for seed in range(3):
                load_clip(medium, FrameSampling(2, "stride", 4), 8, rng=np.random.default_rng(seed))
        else:
            assert end > 5


def test_a_stream_without_a_length_is_measured(truncated: dict[str, Path]):
    with closing(VideoFile(truncated["a.ts"])) as file:
        assert 2.5 < file.duration < 5
    assert shown(clip_of(truncated["a.ts"], 1.0, 2.0), FrameSampling(5)) == [33, 39, 45, 51, 57]


def test_damage_in_the_middle_costs_only_frames_there(tmp_path: Path):
    content = bytearray(film(tmp_path / "a.mkv", 150).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = np.random.default_rng(1).bytes(300)
    path = written(tmp_path / "b.mkv", bytes(content))
    found = shown(clip_of(path, 0.0, 5.0), FrameSampling(10))
    assert found[:3] == [7, 22, 37]
    assert why_unreadable(clip_of(path, 0.0, 1.0)) is None


def test_whatever_bytes_there_are(tmp_path: Path):
    """Nothing but DataError, and the check says beforehand what loading will."""
    rng = np.random.default_rng(28)
    codecs = {"mp4": "libx264", "ts": "libx264", "avi": "mpeg4", "mkv": "libx264", "flv": "libx264", "wmv": "wmv2"}
    films = [film(tmp_path / f"a.{suffix}", 60, codec=codec, g="12") for suffix, codec in codecs.items()]
    contents = [path.read_bytes() for path in films]
    for at in range(120):
        content = bytearray(contents[at % len(films)])
        for place in rng.integers(0, len(content), 20):
            content[place] = rng.integers(256)
        medium = clip_of(written(films[at % len(films)], bytes(content[: rng.integers(len(content))])), 0.5, 1.5)
        if why_unreadable(medium) is None:
            assert load_clip(medium, FrameSampling(4, "random"), 8, rng=rng).shape == (4, 3, 8, 8)
        else:
            with pytest.raises(DataError):
                load_clip(medium, FrameSampling(4, "random"), 8, rng=rng)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "PIXEL_LIMIT", 3000)
    assert (
        why_unreadable(clip_of(film(tmp_path / "a.mp4"))) == "3,840 pixels per frame are more than the limit of 3,000"
    )


# --- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_the_square_is_that_of_an_image(tmp_path: Path, resize: str):
    path = film(tmp_path / "a.mp4", 12, first=300)
    Image.fromarray(drawn(306)).save(tmp_path / "306.png")
    clip = load_clip(clip_of(path), FrameSampling(1), 32, resize)
    picture = load_clip(clip_of(tmp_path, frames=(306, 306)), FrameSampling(1), 32, resize)
    assert clip.shape == (1, 3, 32, 32)
    assert clip.dtype == torch.float32
    assert 0 <= clip.min() <= clip.max() <= 1
    assert (clip - picture).abs().mean() < 0.03


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_all_frames_are_changed_alike(tmp_path: Path, resize: str):
    for number in range(4):
        Image.fromarray(drawn(341)).save(tmp_path / f"{number}.png")
    medium, sampling = clip_of(tmp_path), FrameSampling(4, "random")
    first, again, other = (
        load_clip(medium, sampling, 24, resize, augmentation=Augmentation(), rng=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(frame, first[0]) for frame in first)
    with pytest.raises(InputError, match="needs rng"):
        load_clip(medium, sampling, 24, resize, augmentation=Augmentation())


STORED = {  # the display matrix (a, b, c, d) and how the pixels of an upright picture lie in the file
    "upright": ((1, 0, 0, 1), None),
    "mirrored": ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 180": ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
    "upside down": ((1, 0, 0, -1), Image.Transpose.FLIP_TOP_BOTTOM),
    "transposed": ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
    "turned by 90": ((0, 1, -1, 0), Image.Transpose.ROTATE_90),
    "transposed and turned": ((0, -1, -1, 0), Image.Transpose.TRANSVERSE),
    "turned by 270": ((0, -1, 1, 0), Image.Transpose.ROTATE_270),
}


def picture_film(path: Path, picture: Image.Image, codec: str, pixels: str, aspect: Fraction = Fraction(1)) -> Path:
    """Write a film of five frames that show one picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *picture.size, pixels
        stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(5):
            kind = "rgba" if picture.mode == "RGBA" else "rgb24"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format=kind)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("case", STORED)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, case: str):
    matrix, lies = STORED[case]
    upright = Image.fromarray(drawn(340))
    stored = upright if lies is None else upright.transpose(lies)
    content = bytearray(picture_film(tmp_path / "a.mp4", stored, "libx264", "yuv420p").read_bytes())
    a, b, c, d = (each << 16 for each in matrix)
    struct.pack_into(">6i", content, content.index(b"tkhd") + 4 + 40, a, b, 0, c, d, 0)
    found = middle_frame(clip_of(written(tmp_path / "b.mp4", bytes(content))), 80)
    assert found.size == (80, 48)
    assert np.abs(np.asarray(found, dtype=float) - drawn(340)).mean() < 4


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (107, 48)), (Fraction(1, 2), (40, 48))])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_that_are_not_square(tmp_path: Path, suffix: str, aspect: Fraction, size: tuple[int, int]):
    path = picture_film(tmp_path / f"a.{suffix}", Image.fromarray(drawn(340)), "libx264", "yuv420p", aspect)
    assert middle_frame(clip_of(path), 200).size == size


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mp4", "libx264", "yuv444p"),
        ("a.mov", "prores", "yuv422p10le"),
        ("a.mkv", "ffv1", "rgb48le"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mov", "png", "rgba"),
    ],
)
def test_kinds_of_pixels(tmp_path: Path, name: str, codec: str, pixels: str):
    picture = Image.new("RGB", (80, 48), (200, 30, 30))
    found = middle_frame(clip_of(picture_film(tmp_path / name, picture, codec, pixels)), 80)
    apart = np.abs(np.asarray(found, dtype=float) - np.asarray(picture))
    assert np.quantile(apart, 0.99) < 6  # one file in sixty of the ProRes encoder's has sixteen stray pixels


def test_odd_sides_and_transparent_parts(tmp_path: Path):
    odd = picture_film(tmp_path / "a.mkv", Image.new("RGB", (47, 79), (90, 90, 90)), "ffv1", "bgr0")
    assert middle_frame(clip_of(odd), 100).size == (47, 79)
    unseen = picture_film(tmp_path / "a.mov", Image.new("RGBA", (80, 48), (0, 0, 0, 0)), "png", "rgba")
    assert middle_frame(clip_of(unseen), 80).getextrema() == ((255, 255),) * 3


def test_a_film_on_its_side_is_turned_upright(tmp_path: Path):
    content = bytearray(film(tmp_path / "a.mp4", 12, first=340).read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    content[at : at + 24] = struct.pack(">6i", 0, 1 << 16, 0, -1 << 16, 0, 0)  # a quarter turn clockwise
    turned = load_clip(clip_of(written(tmp_path / "b.mp4", bytes(content))), FrameSampling(1), 40)
    assert numbers(torch.rot90(turned, 1, (2, 3))) == [346]


# --- the check before a run -------------------------------------------------------------------------------------------


def test_the_check_looks_at_each_segment_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = film(tmp_path / "a.mp4")
    np.save(tmp_path / "a.npy", np.array([1.0, np.nan]))
    media = [clip_of(path, 0, 1), clip_of(path, 5, 6), clip_of(path, 1, 2), clip_of(tmp_path / "a.npy")]
    found = unreadable_media(media)
    assert found == {
        1: "ends at 3 s, before the segment starts at 5 s",
        3: "holds values that are not finite in 32 bits",
    }
    opened: list[Medium] = []
    check = why_unreadable
    monkeypatch.setattr("mmts.data.media.checks.why_unreadable", lambda medium: opened.append(medium) or check(medium))
    assert unreadable_media(media) == found
    assert opened == [media[1], media[3]]
    assert list(unreadable_media(media[::2])) == []
    assert opened[2:] == [media[0], media[2]]  # another set is looked at anew


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted where Linux lists them")
def test_a_clip_that_is_refused_leaves_no_file_open(tmp_path: Path):
    folder = chunks(tmp_path / "video")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for _ in range(5):
            with pytest.raises(DataError):
                load_clip(clip_of(folder, 50.0, 60.0), FrameSampling(2), 16)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()
