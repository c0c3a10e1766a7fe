"""The checks before a run: what cannot be read is found once, and left out or refused; and copies in two splits."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmts.data.media import load
from mmts.data.media.checks import copies_between, drop_unreadable, shared_in_words, unreadable_media
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
    unreadable = unreadable_media(media)
    assert list(unreadable) == [1, 2, 4]
    assert "truncated" in unreadable[1]
    assert unreadable[2] == unreadable[4] == "does not exist"
    decoded = []
    decode = load.load_image
    monkeypatch.setattr(
        load, "load_image", lambda path, hint, **where: decoded.append(path.name) or decode(path, hint, **where)
    )
    assert unreadable_media(media) == unreadable
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


def test_the_error_names_the_first_five(tmp_path: Path):
    with pytest.raises(DataError, match=r"7 of the 7 .*0.png.*1.png.*4.png: does not exist; and 2 more"):
        without_reasons(split_of([tmp_path / f"{at}.png" for at in range(7)]))


def files_split(name: str, folder: Path, files: dict[str, bytes], **more: Any) -> Split:
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return Split(name, [Medium(file, folder / file, ("x",), **more) for file in files])


def test_copies_under_other_names_are_found(tmp_path: Path):
    train = files_split("train", tmp_path, {"a.jpg": b"cat", "b.jpg": b"dog", "c.jpg": b"cat"})
    test = files_split("test", tmp_path, {"d.jpg": b"cow", "e.jpg": b"dog", "f.jpg": b"horse", "g.jpg": b"cat"})
    assert copies_between(train, test) == {1: 1, 3: 0}
    assert shared_in_words(train, test) == [
        f"2 of the 4 media of test are in train too, byte by byte ({tmp_path}/e.jpg is {tmp_path}/b.jpg), so the "
        "figures on test are too good; remove them from one of the two splits"
    ]


def test_no_copies_and_files_that_are_not_there(tmp_path: Path):
    train = files_split("train", tmp_path, {"a.jpg": b"cat"})
    gone = Split("test", [Medium("b", tmp_path / "b.jpg", ("x",)), Medium("c", tmp_path, ("x",), kind="video")])
    assert shared_in_words(train, gone) == []
    assert shared_in_words(train, files_split("test", tmp_path, {"d.jpg": b"cow"})) == []


def test_of_videos_the_same_part_counts(tmp_path: Path):
    train = files_split("train", tmp_path, {"a.mp4": b"film"}, kind="video", start=0.0, end=5.0)
    assert copies_between(train, files_split("val", tmp_path, {"b.mp4": b"film"}, kind="video", end=5.0)) == {0: 0}
    assert copies_between(train, files_split("val", tmp_path, {"b.mp4": b"film"}, kind="video", start=5.0)) == {}


def test_parts_of_a_tar(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"catdogcat")
    media = [Medium(str(at), tmp_path / "a.tar", ("x",), member=(3 * at, 3)) for at in range(3)]
    assert copies_between(Split("train", media[:2]), Split("test", media[2:])) == {0: 0}


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train, test = files_split("train", tmp_path, {"a.jpg": b"cat"}), files_split("test", tmp_path, {"b.jpg": b"cat"})
    assert copies_between(train, test) == {0: 0}
    monkeypatch.setattr("mmts.data.media.checks._hash", lambda *_: pytest.fail("read again"))
    assert copies_between(train, test) == {0: 0}
    (tmp_path / "b.jpg").write_bytes(b"cows")
    assert copies_between(train, test) == {}


def test_clips_of_one_video_in_two_splits_are_said(tmp_path: Path):
    train = files_split("train", tmp_path, {"a.mp4": b"film"}, kind="video", start=0.0, end=5.0)
    clips = [
        Medium(str(at), tmp_path / name, ("x",), kind="video", start=9.0) for at, name in enumerate(["a.mp4", "b"])
    ]
    (note,) = shared_in_words(train, Split("val", clips))
    assert note.startswith(f"1 of 2 videos of val have clips in train too, such as {tmp_path}/a.mp4, so ")
