import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import load_pixels

from mmts.data.media import image as image_module
from mmts.data.media.image import (
    Augmentation,
    augment,
    fit_square,
    load_image,
)
from mmts.data.media.load import why_unreadable
from mmts.data.records import Medium, Split
from mmts.errors import DataError, InputError


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def split_of(paths: list[Path]) -> Split:
    return Split("train", [Medium(str(at), path, ("x",)) for at, path in enumerate(paths)])


def two_halves(left: object, right: object, mode: str = "RGB", size: int = 40) -> Image.Image:
    image = Image.new(mode, (size, size), left)
    image.paste(right, (size // 2, 0, size, size))
    return image


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "left", "right"),
    [
        (lambda: two_halves((255, 0, 0), (0, 0, 255)), "a.png", (255, 0, 0), (0, 0, 255)),
        (lambda: two_halves(0, 200, "L"), "a.png", (0, 0, 0), (200, 200, 200)),
        (lambda: two_halves(0, 1, "1"), "a.png", (0, 0, 0), (255, 255, 255)),
        (lambda: two_halves((0, 255), (9, 0), "LA"), "a.png", (0, 0, 0), (255, 255, 255)),
        (lambda: two_halves((255, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "a.png", (255, 0, 0), (255, 255, 255)),
        (lambda: two_halves((255, 0, 0, 255), (0, 0, 0, 0), "RGBA"), "a.webp", (255, 0, 0), (255, 255, 255)),
        (lambda: two_halves((0, 255, 255, 0), (0, 0, 0, 0), "CMYK"), "a.jpg", (255, 0, 0), (255, 255, 255)),
        (lambda: two_halves((0, 255, 255, 0), (0, 0, 0, 0), "CMYK"), "a.tif", (255, 0, 0), (255, 255, 255)),
        (lambda: two_halves(0, 65535, "I;16"), "a.png", (0, 0, 0), (255, 255, 255)),
        (lambda: two_halves(0, 257 * 100, "I;16"), "a.tif", (0, 0, 0), (100, 100, 100)),
        (lambda: two_halves(0, 70_000, "I"), "a.tif", (0, 0, 0), (255, 255, 255)),
        (lambda: two_halves(0, 100, "I"), "a.tif", (0, 0, 0), (100, 100, 100)),
        (lambda: two_halves(0.0, 1.0, "F"), "a.tif", (0, 0, 0), (255, 255, 255)),
        (lambda: two_halves(-1.0, 3.0, "F"), "a.tif", (0, 0, 0), (255, 255, 255)),
        (lambda: two_halves(float("nan"), 128.0, "F"), "a.tif", (0, 0, 0), (128, 128, 128)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, make: Callable[[], Image.Image], name: str, left: tuple, right: tuple):
    image = load_image(saved(tmp_path, make(), name))
    assert (image.mode, image.size) == ("RGB", (40, 40))
    np.testing.assert_allclose(image.getpixel((5, 20)), left, atol=3)
    np.testing.assert_allclose(image.getpixel((34, 20)), right, atol=3)


def test_a_palette_with_transparency_lies_on_white(tmp_path: Path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (4, 0, 8, 8))
    loaded = load_image(saved(tmp_path, image, "a.gif", transparency=1))
    assert loaded.getpixel((1, 1)) == (255, 0, 0)
    assert loaded.getpixel((6, 6)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_the_first_frame_of_an_animation(tmp_path: Path, name: str):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
    assert load_image(path).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "AVIF", "TIFF"])  # TIFF, AVIF turn some by themselves
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, kind: str):
    upright = Image.new("RGB", (80, 48), "white")
    upright.paste((255, 0, 0), (0, 0, 32, 16))  # the upper left corner is red
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    loaded = load_image(saved(tmp_path, stored, f"a.{kind.lower()}", format=kind, **options))
    assert loaded.size == (80, 48)
    assert np.abs(np.asarray(loaded, dtype=float) - np.asarray(upright)).mean() < 3


# --- what cannot be read ---------------------------------------------------------------------------------------------


def jpeg_bytes(size: int = 200) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "jpeg")
    return buffer.getvalue()


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg_bytes())).save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "does not exist"),
        (b"", r"is empty \(0 bytes\)"),
        (b"hello", "is not an image that Pillow can read"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (jpeg_bytes()[:5000], "cannot be decoded: .*truncated"),
        (png_bytes()[:5000], "cannot be decoded: .*truncated"),
        (png_bytes()[:40], "is not an image that Pillow can read"),
    ],
    ids=["missing", "empty", "text", "only a mark", "half a JPEG", "half a PNG", "the head of a PNG"],
)
@pytest.mark.parametrize("size_hint", [None, 32])
def test_the_file_and_the_reason_are_named(tmp_path: Path, content: bytes | None, reason: str, size_hint: int | None):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        load_image(path, size_hint)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_cannot_be_looked_at_is_unreadable(tmp_path: Path):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("away/a.jpg")
    assert why_unreadable(Medium("a", tmp_path / "gone.jpg", ("x",))) == "is a link that leads nowhere, to away/a.jpg"
    for path, why in (
        (tmp_path / "loop.jpg", "Too many levels of symbolic links"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        for member in (None, (0, 5)):
            assert why_unreadable(Medium("a", path, ("x",), member=member)) == f"cannot be opened: {why}"


def test_a_folder_and_a_pipe_are_no_images(tmp_path: Path):
    with pytest.raises(DataError, match="is a folder, not a file"):
        load_image(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        load_image(tmp_path / "pipe")


def test_a_huge_jpeg_is_reduced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = saved(tmp_path, Image.new("RGB", (2000, 400), "red"), "wide.jpg")
    monkeypatch.setattr(image_module, "PIXEL_LIMIT", 100_000)
    with pytest.raises(DataError, match="2,000 x 400 pixels are more than the limit of 100,000"):
        load_image(path)
    assert load_image(path, 100).size == (500, 100)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path):
    path = saved(tmp_path, Image.new("1", (8, 8)), "bomb.png")
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + path.read_bytes()[24:29]
    path.write_bytes(path.read_bytes()[:12] + header + struct.pack(">I", zlib.crc32(header)) + path.read_bytes()[33:])
    with pytest.raises(DataError, match="pixels than the limit of 100,000,000"):
        load_image(path, 64)


def test_one_side_of_20_000_pixels(tmp_path: Path):
    path = saved(tmp_path, Image.new("L", (20_000, 3), 7), "line.png")
    for resize in ("stretch", "crop", "pad"):
        assert load_pixels(path, 16, resize).shape == (3, 16, 16)


# --- squares and augmentation ----------------------------------------------------------------------------------------


def test_three_ways_to_a_square():
    image = Image.new("RGB", (80, 40), "white")
    image.paste((0, 0, 0), (20, 0, 60, 40))  # black in the middle
    stretched, cropped, padded = (np.asarray(fit_square(image, 40, way)) for way in ("stretch", "crop", "pad"))
    assert stretched[20, 0].tolist() == [255] * 3
    assert stretched[20, 20].tolist() == [0] * 3
    assert cropped.max() == 0
    assert padded[0, 20].tolist() == [255] * 3
    assert padded[20, 20].tolist() == [0] * 3
    with pytest.raises(InputError, match="one of stretch, crop, pad, not 'squash'"):
        fit_square(image, 40, "squash")


def test_load_pixels_is_float_in_unit_range(tmp_path: Path):
    pixels = load_pixels(saved(tmp_path, Image.new("RGB", (60, 80), (255, 0, 51))), 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[:, 5, 5], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_inside_another_file(tmp_path: Path, suffix: str):
    alone = saved(tmp_path, two_halves((255, 0, 0), (0, 0, 255)), f"a.{suffix}")
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"x" * 700 + alone.read_bytes() + b"y" * 700)
    member = (700, alone.stat().st_size)
    assert torch.equal(load_pixels(archive, 16, member=member), load_pixels(alone, 16))
    changed = [
        load_pixels(path, 16, "crop", augmentation=Augmentation(), rng=np.random.default_rng(0), member=where)
        for path, where in ((archive, member), (alone, None))
    ]
    assert torch.equal(*changed)
    with pytest.raises(DataError, match=r"a\.tar, byte 0: is not an image"):
        load_image(archive, member=(0, 700))
    with pytest.raises(DataError, match=r"a\.tar, byte 700: cannot be decoded"):
        load_image(archive, member=(700, member[1] // 2))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_augmentation_depends_on_its_generator_alone(tmp_path: Path, resize: str):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes(64))
    first, again, other = (
        load_pixels(path, 32, resize, None, Augmentation(), np.random.default_rng([0, 1, number]))
        for number in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 32, 32)
    assert 0 <= first.min() <= first.max() <= 1


def test_augmentation_switched_off_is_the_plain_square():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    still = Augmentation(crop_scale=(1, 1), flip=False, color=0)

    class Middle:
        """Draws the middle of every range: ratio 1, no shift."""

        def uniform(self, low: float, high: float) -> float:
            return (low + high) / 2

    result = augment([image], 32, Middle(), still)[0]  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(result), np.asarray(fit_square(image, 32)))


def test_flip_mirrors_about_half_of_the_images():
    image = two_halves((0, 0, 0), (255, 255, 255))
    plain = Augmentation(crop_scale=(1, 1), flip=True, color=0)
    mirrored = [augment([image], 8, np.random.default_rng(at), plain)[0].getpixel((0, 4))[0] > 128 for at in range(100)]
    assert 30 < sum(mirrored) < 70
    never = Augmentation(crop_scale=(1, 1), flip=False, color=0)
    assert all(augment([image], 8, np.random.default_rng(at), never)[0].getpixel((0, 4))[0] < 128 for at in range(20))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (1000, 50), (50, 1000)])
def test_the_ratio_of_a_crop_in_pixels(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    boxes = []
    monkeypatch.setattr(image_module, "_resize", lambda image, size, box: boxes.append(box) or image)
    changes = Augmentation(crop_scale=(0.5, 1), flip=False, color=0, crop_ratio="pixels")
    for number in range(200):
        augment([Image.new("RGB", size)], 8, np.random.default_rng(number), changes, "crop")
    left, top, right, bottom = np.array(boxes).T
    assert min(left.min(), top.min()) >= 0
    assert (right.max(), bottom.max()) <= size
    ratios, shares = (right - left) / (bottom - top), (right - left) * (bottom - top) / (size[0] * size[1])
    assert ((ratios > 0.7499) & (ratios < 1.3334)).all()
    if max(size) == 1000:  # no crop of half the area fits, so it is the largest one, in the center
        assert len(set(boxes)) == 1
        np.testing.assert_allclose(left + right, size[0])
    else:
        assert (shares >= 0.4999).all()
        assert ratios.std() > 0.1
        assert left.std() > 1
