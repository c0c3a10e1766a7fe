"""The check before a run: what cannot be read is found once, remembered, and left out or refused."""

import os
from pathlib import Path

import pytest
from PIL import Image

from mmts.data.media import image as image_module
from mmts.data.media.image import load_image
from mmts.data.media.load import load_medium
from mmts.data.media.readable import drop_unreadable, is_checked, note_unreadable, unreadable_media
from mmts.data.records import Medium, Split
from mmts.errors import DataError


def saved(folder: Path, name: str) -> Path:
    path = folder / name
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def split_of(paths: list[Path]) -> Split:
    return Split("train", [Medium(str(at), path, ("x",)) for at, path in enumerate(paths)])


def without_reasons(split: Split, max_share: float = 0.01) -> Split:
    return drop_unreadable(split, unreadable_media(split.media), max_share)


def test_unreadable_media_are_found_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = saved(tmp_path, "good.png")
    bad = saved(tmp_path, "bad.jpg")
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-20])
    clip = tmp_path / "clip.mp4"
    media = (*split_of([good, bad, tmp_path / "missing.png", good]).media, Medium("v", clip, ("x",), kind="video"))
    found = unreadable_media(media)
    assert list(found) == [1, 2, 4]
    assert "truncated" in found[1]
    assert found[2] == found[4] == "does not exist"
    decoded = []
    load = load_image
    monkeypatch.setattr(
        image_module, "load_image", lambda path, hint, **where: decoded.append(path.name) or load(path, hint, **where)
    )
    assert unreadable_media(media) == found
    assert decoded == ["bad.jpg", "missing.png"]  # only what failed is tried again
    bad.write_bytes(whole)
    assert list(unreadable_media(media)) == [2, 4]


def test_the_check_survives_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMTS_CACHE", str(tmp_path / "file"))
    good = saved(tmp_path, "good.png")
    assert unreadable_media(split_of([good]).media) == {}


def test_few_unreadable_are_dropped_and_many_are_an_error(tmp_path: Path):
    good = [saved(tmp_path, f"{at}.png") for at in range(9)]
    split = split_of([*good[:4], tmp_path / "gone.png", *good[4:]])
    assert unreadable_media(split.media) == {4: "does not exist"}
    kept = without_reasons(split, 0.1)
    assert [medium.id for medium in kept.media] == ["0", "1", "2", "3", "5", "6", "7", "8", "9"]
    with pytest.raises(
        DataError, match=r"1 of the 10 media of split 'train' cannot be read, .* 1 % .*gone.png: does not"
    ):
        without_reasons(split)
    with pytest.raises(DataError, match="nothing remains"):
        without_reasons(split_of([tmp_path / "gone.png"]), 1)


def test_the_error_names_the_first_three(tmp_path: Path):
    with pytest.raises(DataError, match=r"5 of the 5 .*0.png.*1.png.*2.png: does not exist; and 2 more"):
        without_reasons(split_of([tmp_path / f"{at}.png" for at in range(5)]))


def test_failures_noted_while_decoding_spare_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good, bad = saved(tmp_path, "good.png"), saved(tmp_path, "bad.jpg")
    bad.write_bytes(bad.read_bytes()[:-20])
    media = split_of([good, bad, good, bad]).media
    assert not is_checked(media)
    failures = {}
    for at, medium in enumerate(media):
        try:
            load_medium(medium, 32)
        except DataError as error:
            failures[at] = error
    noted = note_unreadable(media, failures)
    assert list(noted) == [1, 3]
    assert is_checked(media)
    decoded = []
    load = load_image
    monkeypatch.setattr(
        image_module, "load_image", lambda path, hint, **where: decoded.append(path.name) or load(path, hint, **where)
    )
    assert unreadable_media(media) == noted
    assert decoded == ["bad.jpg"]
    os.utime(good, (1, 1))
    assert not is_checked(media)
