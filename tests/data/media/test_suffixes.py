"""One table says which files are media, and every reader goes by it."""

import io
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from PIL import Image

from mmts.data.formats.cc3m import find_images
from mmts.data.media import suffixes
from mmts.data.media.decoding import VideoFile
from mmts.data.media.image import load_image
from mmts.data.media.load import load_medium, why_unreadable
from mmts.data.media.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_medium, is_typescript, kind_of, left_out
from mmts.data.media.video import FrameSampling
from mmts.data.read import read_dataset
from mmts.data.records import Medium

RED = Image.new("RGB", (64, 48), (200, 30, 30))


def write_image(path: Path) -> Path:
    Image.init()
    format = "MPO" if path.suffix == ".mpo" else Image.EXTENSION[path.suffix.lower()]
    RED.save(path, format)
    return path


@pytest.mark.parametrize("suffix", [each for each in IMAGE_SUFFIXES if each != ".psd"])  # which Pillow only reads
def test_every_image_in_the_table_is_decoded(tmp_path: Path, suffix: str):
    loaded = load_image(write_image(tmp_path / f"a{suffix}"))
    if suffix not in (".pgm", ".pbm"):
        red, green, _ = loaded.getpixel((20, 20))  # type: ignore[misc]
        assert red > 150 > 100 > green
    assert kind_of(f"a{suffix.upper()}") == "image"


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_every_video_in_the_table_is_decoded(tmp_path: Path, suffix: str):
    containers = {
        ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".divx": "avi", ".mpg": "mpeg", ".mpeg": "mpeg",
        ".mpe": "mpeg", ".vob": "vob", ".ogv": "ogg", ".wmv": "asf", ".asf": "asf", ".flv": "flv", ".ts": "mpegts",
        ".mts": "mpegts", ".m2ts": "mpegts", ".m2t": "mpegts", ".mxf": "mxf", ".3gp": "3gp", ".3g2": "3g2",
        ".mov": "mov", ".qt": "mov",
    }  # fmt: skip
    codecs = {"webm": "libvpx", "ogg": "libvpx", "flv": "flv", "asf": "wmv2"}
    codecs |= dict.fromkeys(("mpeg", "vob", "mpegts", "mxf"), "mpeg2video")
    container = containers.get(suffix, "mp4")
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codecs.get(container, "mpeg4"), 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv422p" if suffix == ".mxf" else "yuv420p"
        for _ in range(10):
            file.mux(stream.encode(av.VideoFrame.from_image(RED)))
        file.mux(stream.encode())
    with closing(VideoFile(path)) as film:
        assert film.duration == pytest.approx(0.4, abs=0.05)
    clip = load_medium(Medium("x", path, ("x",), kind="video"), 16, sampling=FrameSampling(2))
    assert clip[:, 0].mean() > 0.6 > 0.3 > clip[:, 1].mean()
    assert kind_of(f"A{suffix.upper()}") == "video"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("IMG_1.HEIC", "HEIC is read once the package pillow-heif is installed"),
        ("a.cr2", "raw files of cameras are not read; export them as JPEG"),
        ("a.svg", "drawings and documents are not read; export them as PNG"),
        ("a.eps", "drawings and documents are not read"),
        ("a.mp4", "is a video, not an image"),
    ],
)
def test_an_image_that_is_not_decoded_says_what_to_do(tmp_path: Path, name: str, advice: str):
    (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert advice in str(why_unreadable(Medium("a", tmp_path / name, ("x",))))


def test_heic_is_taken_where_a_plugin_reads_it(monkeypatch: pytest.MonkeyPatch):
    registered: list[bool] = []
    plugin = SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    suffixes.reads_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)  # type: ignore[arg-type]
    assert is_medium("IMG_1.HEIC", "image")
    assert registered == [True]
    assert left_out([Path("IMG_1.HEIC")]) == []
    suffixes.reads_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # type: ignore[arg-type]
    assert not is_medium("IMG_1.HEIC", "image")
    assert left_out([Path("IMG_1.HEIC"), Path("a.heic")])[0].startswith("left out 2 .heic files: HEIC is read once")
    suffixes.reads_heif.cache_clear()


def test_a_program_is_no_transport_stream(tmp_path: Path):
    (tmp_path / "app.ts").write_text("export const a = 1;\n")
    (tmp_path / "film.ts").write_bytes((b"\x47" + bytes(187)) * 3)
    (tmp_path / "film.mts").write_bytes((bytes(4) + b"\x47" + bytes(187)) * 3)
    assert [is_typescript(tmp_path / name) for name in ("app.ts", "film.ts", "film.mts")] == [True, False, False]


def test_a_table_tells_videos_from_images(tmp_path: Path):
    names = ["x.ts", "y.3gp", "z.MTS", "w.mp4", "a.jfif", "b.AVIF", "c.gif", "d.rmvb"]
    (tmp_path / "clips.csv").write_text("filepath,caption\n" + "".join(f"{name},{name}\n" for name in names))
    kinds = {medium.id: medium.kind for medium in read_dataset(tmp_path / "clips.csv").media}
    assert kinds == {name: "image" if name[0] in "abc" else "video" for name in names}


def test_shards_take_every_image_of_the_table_and_name_others(tmp_path: Path):
    content = io.BytesIO()
    RED.save(content, "AVIF")
    files = {"a.avif": content.getvalue(), "a.txt": b"red", "b.heic": b"no", "b.txt": b"blue", "c.txt": b"none"}
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    dataset = read_dataset(tmp_path)
    assert [medium.id for medium in dataset.media] == ["a"]
    said = "; ".join(dataset.notes)
    assert "left out 1 pair whose image is .heic (HEIC is read once" in said
    assert "left out 1 pair without an image" in said


def test_images_of_cc3m_and_folders_of_frames(tmp_path: Path):
    for name in ("0.jfif", "1.AVIF", "2.jpe"):
        write_image(tmp_path / name)
    assert find_images(tmp_path.parent, tmp_path.name).rows.tolist() == [0, 1, 2]
    clip = load_medium(Medium("x", tmp_path, ("x",), kind="video"), 8, sampling=FrameSampling(3))
    assert clip.shape == (3, 3, 8, 8)
