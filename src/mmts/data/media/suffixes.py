"""Which files are images or videos, by their suffixes: one table for all readers."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePath

from mmts.errors import counted

# The formats of Pillow and PyAV. If a shard has several images of one key, the first suffix of these counts.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".jpe", ".jfif", ".mpo", ".avif", ".gif", ".apng", ".bmp", ".dib", ".tif",
    ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".qoi",
    ".sgi", ".psd", ".ico",
)  # fmt: skip
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mkv", ".webm", ".mov", ".qt", ".avi", ".divx", ".mpg", ".mpeg", ".mpe", ".vob", ".ogv", ".wmv",
    ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".m2t", ".mxf",
)  # fmt: skip
_HEIF = (".heic", ".heif", ".hif")
_RAW = (".cr2", ".cr3", ".nef", ".nrw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw")
_DRAWN = (".svg", ".svgz", ".eps", ".ai", ".pdf", ".xcf", ".psb")
_OTHER_IMAGES = (".jxl", ".jxr", ".wdp", ".exr", ".hdr")
_OTHER_VIDEOS = (".rm", ".rmvb", ".dv", ".m2v", ".264", ".h264", ".265", ".hevc", ".swf", ".braw", ".r3d")
# Media that we do not decode, and what to do about them.
_NOT_READ = {
    **dict.fromkeys(_HEIF, "HEIC is read once the package pillow-heif is installed (pip install pillow-heif)"),
    **dict.fromkeys(_RAW, "raw files of cameras are not read; export them as JPEG"),
    **dict.fromkeys(_DRAWN, "drawings and documents are not read; export them as PNG"),
    **dict.fromkeys(_OTHER_IMAGES, "this kind of image is not read; convert it to PNG or JPEG"),
    **dict.fromkeys(_OTHER_VIDEOS, "this kind of video is not read; convert it to MP4"),
}


def kind_of(path: str | PurePath) -> str:
    """Return "video" for the suffix of a video, else "image"."""
    return "video" if PurePath(path).suffix.lower() in (*VIDEO_SUFFIXES, *_OTHER_VIDEOS) else "image"


def is_medium(path: str | PurePath, kind: str) -> bool:
    """Return whether a file is, by its suffix, an image or a video (`kind`) that can be decoded."""
    suffix = PurePath(path).suffix.lower()
    if kind == "video":
        return suffix in VIDEO_SUFFIXES
    return suffix in IMAGE_SUFFIXES or (suffix in _HEIF and reads_heif())


def why_not_read(path: str | PurePath) -> str | None:
    """Return what to do about a medium whose format we do not decode, by its suffix; None for other files.

    >>> why_not_read("IMG_1.CR2"), why_not_read("a.jpg"), why_not_read("notes.txt")
    ('raw files of cameras are not read; export them as JPEG', None, None)
    """
    suffix = PurePath(path).suffix.lower()
    return None if suffix in _HEIF and reads_heif() else _NOT_READ.get(suffix)


def left_out(paths: Iterable[Path]) -> list[str]:
    """Return a note for each suffix of media that we do not decode: how many, and what to do about them."""
    counts = Counter(path.suffix.lower() for path in paths if why_not_read(path))
    return [f"left out {counted(count, f'{suffix} file')}: {_NOT_READ[suffix]}" for suffix, count in counts.items()]


@cache
def reads_heif() -> bool:
    """Return whether Pillow opens HEIC files; pillow-heif is registered if it is installed."""
    from PIL import Image

    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return ".heic" in Image.EXTENSION
    pillow_heif.register_heif_opener()
    return True


def is_typescript(file: Path) -> bool:
    """Return whether a .ts or .mts file is source code, not a video. Raises OSError if it cannot be read."""
    if file.suffix.lower() not in (".ts", ".mts"):
        return False
    with open(file, "rb") as opened:
        start = opened.read(189)
    # A transport stream has packets of 188 bytes, and each starts with 0x47, or has it in the fifth byte.
    return all(start[at : at + 1] != b"\x47" for at in (0, 4, 188))
