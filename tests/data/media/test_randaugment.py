"""RandAugment: each operation against what ALBEF's code documents, the chances, and the same changes for all frames."""

import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmts.data.media.image import Augmentation, augment
from mmts.data.media.randaugment import OPERATIONS, draw_changes

NOISE = Image.fromarray(np.random.default_rng(0).integers(40, 200, (32, 32, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


def sheared(values: np.ndarray, shift: float) -> np.ndarray:
    """Move row y, whose center is at y + 1/2, to the right by shift (y + 1/2); gray where nothing comes from."""
    result = np.full_like(values, 128)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            place = x - shift * (y + 0.5)
            left = math.floor(place)
            if left >= 0 and left + 1 < values.shape[1]:
                result[y, x] = values[y, left] * (left + 1 - place) + values[y, left + 1] * (place - left)
    return result


@pytest.mark.parametrize("sign", [1, -1])
def test_shears_and_translations_move_pixels_and_leave_gray(sign: int) -> None:
    values, m = pixels(NOISE), 0.7 * sign
    result, expected = pixels(OPERATIONS["ShearX"](NOISE, m)), sheared(values, 0.21 * sign)
    inside = (slice(None), slice(8, 24))  # at the border Pillow repeats the last pixel for half a pixel more
    np.testing.assert_allclose(result[inside], expected[inside], atol=1)
    turned = OPERATIONS["ShearY"](NOISE.transpose(Image.Transpose.TRANSPOSE), m).transpose(Image.Transpose.TRANSPOSE)
    np.testing.assert_allclose(pixels(turned), result, atol=1)
    moved, uncovered = pixels(OPERATIONS["TranslateX"](NOISE, m)), slice(0, 7) if sign > 0 else slice(25, None)
    assert np.array_equal(moved[:, 7:] if sign > 0 else moved[:, :25], values[:, :25] if sign > 0 else values[:, 7:])
    assert (moved[:, uncovered] == 128).all()
    down = pixels(OPERATIONS["TranslateY"](NOISE, m))
    assert np.array_equal(down[7:] if sign > 0 else down[:25], values[:25] if sign > 0 else values[7:])


def test_the_other_operations() -> None:
    values = pixels(NOISE)
    np.testing.assert_allclose(pixels(OPERATIONS["Brightness"](NOISE, 0.7)), np.minimum(1.36 * values, 255), atol=1)
    around = sum(values[1 + y : 31 + y, 1 + x : 31 + x] for y in (-1, 0, 1) for x in (-1, 0, 1))
    blurred = (around + 4 * values[1:31, 1:31]) / 13
    sharp = np.clip(blurred + 1.36 * (values[1:31, 1:31] - blurred), 0, 255)
    np.testing.assert_allclose(pixels(OPERATIONS["Sharpness"](NOISE, 0.7))[1:31, 1:31], sharp, atol=2)
    stretched = pixels(OPERATIONS["AutoContrast"](NOISE, 0.7))
    low, high = values.min((0, 1)), values.max((0, 1))
    np.testing.assert_allclose(stretched, 255 * (values - low) / (high - low), atol=1)
    dark = NOISE.point(lambda value: value // 8).resize((128, 128), Image.Resampling.NEAREST)
    dark = pixels(OPERATIONS["Equalize"](dark, 0.7))
    np.testing.assert_allclose(np.quantile(dark, [0, 0.25, 0.5, 0.75, 1]), np.linspace(0, 255, 5), atol=20)
    line = Image.new("RGB", (33, 33))
    line.paste((255, 255, 255), (0, 16, 33, 17))
    y, x = np.nonzero(pixels(OPERATIONS["Rotate"](line, 1.0))[..., 0] > 200)
    assert math.degrees(math.atan(np.polyfit(x, y, 1)[0])) == pytest.approx(-30, abs=2)
    assert OPERATIONS["Identity"](NOISE, 0.7) == NOISE


def test_each_operation_is_as_likely_and_half_are_applied() -> None:
    rng = np.random.default_rng(0)
    names = {operation: name for name, operation in OPERATIONS.items()}
    changes = [change for _ in range(4000) for change in draw_changes(rng, 2, 7)]
    drawn = [(names[change.func], change.keywords["m"]) for change in changes]  # type: ignore[attr-defined]
    assert len(drawn) == pytest.approx(4000, rel=0.05)
    counts = Counter(name for name, _ in drawn)
    assert counts.keys() == OPERATIONS.keys()
    assert all(count == pytest.approx(400, rel=0.2) for count in counts.values())
    assert {amount for name, amount in drawn if name in ("Brightness", "Sharpness")} == {0.7}
    assert {amount for name, amount in drawn if name == "Rotate"} == {0.7, -0.7}


def test_all_frames_of_a_clip_change_alike_and_by_their_generator_alone() -> None:
    changes = Augmentation(crop_scale=(0.5, 1), color=0, crop_ratio="pixels", randaugment=(2, 7))
    seen = set()
    for number in range(20):
        first, second, again = (
            augment(images, 16, np.random.default_rng([0, 1, number]), changes)
            for images in ([NOISE, NOISE], [NOISE], [NOISE])
        )
        assert len({image.tobytes() for image in (*first, *second, *again)}) == 1
        seen.add(first[0].tobytes())
    assert len(seen) == 20
