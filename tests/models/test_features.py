from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import load_pixels
from tiny_models import tiny_encoder
from torch import Tensor, nn

from mmts.data.media.checks import unreadable_media
from mmts.data.records import Medium
from mmts.errors import DataError, InputError
from mmts.models import (
    ImageTower,
    TextTower,
    TwoTower,
    build_vocabulary,
    embed_media,
    embed_text,
    load_image_tower,
    load_text_tower,
    media_features,
    text_features,
)
from mmts.models import features as features_module
from mmts.models.features import why_unreadable_by_features


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared to the last digits is not computed in bf16, whatever the machine."""
    monkeypatch.setattr(features_module, "has_bf16", lambda device: False)


def images(folder: Path, count: int) -> list[Path]:
    """Write images of different sizes and colours."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{at}.png" for at in range(count)]
    for at, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 255, (20 + at, 30, 3), np.uint8)).save(path)
    return paths


def media_of(paths: list[Path]) -> list[Medium]:
    return [Medium(str(at), path, ("x",)) for at, path in enumerate(paths)]


def features_of(tower: ImageTower, paths: list[Path], **options: Any) -> Any:
    return media_features(tower, media_of(paths), **options)


def image_tower(**options: object) -> ImageTower:
    torch.manual_seed(0)
    tower = load_image_tower("small-resnet", **{"size": 16, "channels": 2, "depth": 1, **options})  # type: ignore[arg-type]
    tower.freeze()
    return tower


class Counting(nn.Module):
    """A tower that counts the rows it computes."""

    def __init__(self, tower: ImageTower | TextTower) -> None:
        super().__init__()
        self.tower = tower
        self.seen = 0
        forward = tower.forward

        def counted(inputs: object) -> Tensor:
            rows = forward(inputs)  # type: ignore[arg-type]
            self.seen += len(rows)
            return rows

        tower.forward = counted  # type: ignore[assignment,method-assign]


def cache_files(cache: Path) -> int:
    return len(list((cache / "features").glob("*.npy")))


def test_media_features_are_those_of_the_tower(tmp_path: Path) -> None:
    paths = images(tmp_path, 7)
    tower = image_tower()
    rows = features_of(tower, paths)
    assert rows.shape == (7, tower.width)
    assert rows.dtype == np.float32
    expected = tower(torch.stack([load_pixels(path, 16, "stretch") for path in paths]))
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_in_bf16_features_are_near_and_are_kept_by_themselves(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, tower = images(tmp_path, 5), image_tower()
    exact = features_of(tower, paths)
    monkeypatch.setattr(features_module, "has_bf16", lambda device: True)
    near = features_of(tower, paths)
    assert 0 < np.abs(near - exact).max() < 0.02 * np.abs(exact).max()
    assert cache_files(private_cache) == 2


def test_media_features_are_computed_once(tmp_path: Path, private_cache: Path) -> None:
    paths = images(tmp_path, 5)
    tower = image_tower()
    counting = Counting(tower)
    first = features_of(tower, paths)
    assert isinstance(first, np.memmap)
    assert counting.seen == 5
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in paths]
    np.testing.assert_array_equal(features_of(tower, moved), first)
    assert counting.seen == 5
    assert cache_files(private_cache) == 1


def test_equal_files_are_computed_once(tmp_path: Path) -> None:
    paths = images(tmp_path, 3)
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[1].read_bytes())
    tower = image_tower()
    counting = Counting(tower)
    rows = features_of(tower, [paths[1], paths[0], copy, paths[2], paths[0]])
    assert counting.seen == 3
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(rows[1], rows[4])
    assert not np.array_equal(rows[0], rows[1])
    np.testing.assert_allclose(rows[[1, 0, 3]], features_of(tower, paths), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [{"size": 24}, {"resize": "pad"}, {"resize": "crop"}])
def test_other_preprocessing_is_another_key(tmp_path: Path, private_cache: Path, change: dict[str, object]) -> None:
    paths = images(tmp_path, 2)
    first = features_of(image_tower(), paths)
    second = features_of(image_tower(**change), paths)
    assert cache_files(private_cache) == 2
    assert not np.allclose(first, second)


def test_other_weights_or_contents_are_another_key(tmp_path: Path, private_cache: Path) -> None:
    paths = images(tmp_path, 2)
    tower = image_tower()
    features_of(tower, paths)
    Image.new("RGB", (9, 9), "red").save(paths[0])
    features_of(tower, paths)
    with torch.no_grad():
        next(tower.parameters()).mul_(1.5)
    features_of(tower, paths)
    assert cache_files(private_cache) == 3


def test_missing_and_broken_images_are_named(tmp_path: Path) -> None:
    paths = images(tmp_path, 3)
    with pytest.raises(DataError, match=r"cannot read the image .*gone\.png: No such file"):
        features_of(image_tower(), [*paths, tmp_path / "gone.png"])
    paths[1].write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png"):
        features_of(image_tower(), paths)


@contextmanager
def loading_fails(monkeypatch: pytest.MonkeyPatch, failures: Mapping[str, BaseException]) -> Iterator[None]:
    """Within it, loading a medium with one of these ids raises its failure."""
    load = features_module.load_medium

    def failing(medium: Medium, *rest: Any) -> Tensor:
        if medium.id in failures:
            raise failures[medium.id]
        return load(medium, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(features_module, "load_medium", failing)
        yield


def test_unreadable_media_are_found_while_features_are_computed(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = images(tmp_path, 5)
    for broken in (1, 3):  # equal contents, so only the first is decoded in the first pass
        paths[broken].write_bytes(b"not an image")
    media, tower = media_of(paths), image_tower()
    counting = Counting(tower)
    decoded: list[str] = []
    load = features_module.load_medium
    monkeypatch.setattr(
        features_module, "load_medium", lambda medium, *rest: decoded.append(medium.id) or load(medium, *rest)
    )

    reasons = unreadable_media(media, partial(why_unreadable_by_features, tower))
    assert reasons == unreadable_media(media)
    assert reasons.keys() == {1, 3}
    assert [decoded.count(medium.id) for medium in media] == [1, 1, 1, 0, 1]
    computed = counting.seen
    rows = media_features(tower, [media[0], media[2], media[4]])
    assert counting.seen == computed  # from the cache, which holds nothing else
    assert cache_files(private_cache) == 1
    np.testing.assert_array_equal(rows, media_features(tower, [media[0], media[2], media[4]], cached=False))


def test_an_interrupted_search_for_unreadable_media_forgets_none(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = images(tmp_path, 520)
    paths[3].write_bytes(b"not an image")
    media = media_of(paths)
    with loading_fails(monkeypatch, {"515": KeyboardInterrupt()}), pytest.raises(KeyboardInterrupt):
        why_unreadable_by_features(image_tower(), media)
    assert unreadable_media(media, partial(why_unreadable_by_features, image_tower())).keys() == {3}


def test_what_failed_before_an_interrupt_gets_its_features_if_it_is_readable_now(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = media_of(images(tmp_path, 520))
    failures = {"3": DataError(f"{media[3].place}: the disk is away"), "515": KeyboardInterrupt()}
    with loading_fails(monkeypatch, failures), pytest.raises(KeyboardInterrupt):
        why_unreadable_by_features(image_tower(), media)
    assert why_unreadable_by_features(image_tower(), media) == [None] * 520
    computed = media_features(image_tower(), media, cached=False)
    np.testing.assert_allclose(media_features(image_tower(), media), computed, atol=1e-6)


def test_a_medium_that_fails_once_is_left_out_with_the_reason(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = media_of(images(tmp_path, 3))
    with loading_fails(monkeypatch, {"1": DataError(f"{media[1].place}: the disk is away")}):
        assert why_unreadable_by_features(image_tower(), media) == [None, "the disk is away", None]


def test_a_folder_that_moved_is_not_encoded_again(tmp_path: Path, private_cache: Path) -> None:
    (tmp_path / "old").mkdir()
    tower, paths = image_tower(), images(tmp_path / "old", 5)
    assert unreadable_media(media_of(paths), partial(why_unreadable_by_features, tower)) == {}
    moved = (tmp_path / "old").rename(tmp_path / "new")
    counting = Counting(tower)
    media = media_of([moved / path.name for path in paths])
    assert unreadable_media(media, partial(why_unreadable_by_features, tower)) == {}
    assert counting.seen == 0


def test_media_whose_bytes_cannot_be_read_are_found_too(tmp_path: Path) -> None:
    media = media_of([*images(tmp_path, 2), tmp_path / "gone.png"])
    assert unreadable_media(media, partial(why_unreadable_by_features, image_tower())).keys() == {2}


def test_an_interrupt_keeps_what_was_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / str(at) for at in range(520)]
    for at, path in enumerate(paths):
        path.write_text(str(at))
    tower = image_tower()
    counting = Counting(tower)
    broken = {paths[515]}

    def load(medium: Medium, size: int, resize: str, sampling: None) -> Tensor:
        if medium.path in broken:
            raise KeyboardInterrupt
        return torch.full((3, size, size), int(medium.path.name) / 520)

    monkeypatch.setattr(features_module, "load_medium", load)
    with pytest.raises(KeyboardInterrupt):
        features_of(tower, paths)
    assert counting.seen == 512
    broken.clear()
    rows = features_of(tower, paths)
    assert counting.seen == 520
    np.testing.assert_allclose(
        rows[[0, 519]], tower(torch.stack([load(media_of(paths)[at], 16, "", None) for at in (0, 519)])), 1e-5
    )


def test_torch_has_its_threads_back_even_after_an_error(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(DataError):
            features_of(image_tower(), [tmp_path / "gone.png"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_features_do_not_change_the_mode(tmp_path: Path) -> None:
    tower = load_image_tower("small-resnet", size=16, channels=2, depth=1).train()
    statistics = tower.layers[1].running_mean.clone()  # type: ignore[index,union-attr]
    features_of(tower, images(tmp_path, 2))
    assert tower.training
    assert torch.equal(tower.layers[1].running_mean, statistics)  # type: ignore[index,union-attr]


def test_text_features(tmp_path: Path, private_cache: Path) -> None:
    tower = load_text_tower(str(tiny_encoder(tmp_path, "bert")))
    tower.freeze()
    counting = Counting(tower)
    captions = ["a red shoe", "", "hat", "a red shoe", "👟", "hat"]
    rows = text_features(tower, captions)
    assert counting.seen == 4
    np.testing.assert_allclose(rows, tower(tower.tokenize(captions)).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(text_features(tower, captions[::-1]), rows[::-1])
    assert counting.seen == 4 + len(captions)
    assert cache_files(private_cache) == 1


def test_nothing_gives_no_rows(tmp_path: Path) -> None:
    assert features_of(image_tower(), []).shape == (0, 16)
    tower = load_text_tower(str(tiny_encoder(tmp_path, "bert")))
    assert text_features(tower, []).shape == (0, 16)


def test_embed_rows() -> None:
    model = TwoTower(None, None, nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)), nn.Linear(5, 3)).train()
    media, text = np.random.default_rng(0).normal(size=(7, 4)), torch.rand(2, 5)
    x = embed_media(model, media.astype(np.float32))
    assert model.training
    model.eval()
    torch.testing.assert_close(x, model.encode_media(torch.tensor(media, dtype=torch.float32)).detach())
    torch.testing.assert_close(embed_text(model, text), model.encode_text(text).detach())
    assert not x.requires_grad


def test_embed_files_and_captions(tmp_path: Path) -> None:
    captions = ["a red hat and a shoe", "hat", "", "a hat", "red"]
    text_tower = load_text_tower("small-transformer", vocabulary=build_vocabulary(captions), width=16, heads=2, depth=1)
    media_tower = load_image_tower("small-resnet", size=16, channels=2, depth=1)
    model = TwoTower(media_tower, text_tower, nn.Identity(), nn.Identity()).eval()
    paths = images(tmp_path, 5)
    pixels = torch.stack([load_pixels(path, 16, "stretch") for path in paths])
    with torch.no_grad():
        x, y = model(pixels, text_tower.tokenize(captions))
    torch.testing.assert_close(embed_media(model, media_of(paths)), x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embed_text(model, captions), y, rtol=1e-4, atol=1e-5)


def test_embed_says_what_it_takes(tmp_path: Path) -> None:
    rows = np.zeros((2, 4), np.float32)
    with pytest.raises(InputError, match="takes feature rows"):
        embed_text(TwoTower(None, None, nn.Identity(), nn.Identity()), ["a"])
    model = TwoTower(image_tower(), None, nn.Identity(), nn.Identity())
    with pytest.raises(InputError, match="takes media, not feature rows"):
        embed_media(model, rows)
    with pytest.raises(InputError, match="nothing to embed"):
        embed_media(model, [])
