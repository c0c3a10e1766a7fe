"""Copies of one picture in two splits."""

from pathlib import Path
from typing import Any

import pytest

from mmts.data.media.contents import copies_between, shared_in_words
from mmts.data.records import Medium, Split


def split(name: str, folder: Path, files: dict[str, bytes], **more: Any) -> Split:
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return Split(name, [Medium(file, folder / file, ("x",), **more) for file in files])


def test_copies_under_other_names_are_found(tmp_path: Path):
    train = split("train", tmp_path, {"a.jpg": b"cat", "b.jpg": b"dog", "c.jpg": b"cat"})
    test = split("test", tmp_path, {"d.jpg": b"cow", "e.jpg": b"dog", "f.jpg": b"horse", "g.jpg": b"cat"})
    assert copies_between(train, test) == {1: 1, 3: 0}
    assert shared_in_words(train, test) == [
        f"2 of the 4 media of test are in train too, byte by byte ({tmp_path}/e.jpg is {tmp_path}/b.jpg), so the "
        "figures on test are too good; remove them from one of the two splits"
    ]


def test_no_copies_and_files_that_are_not_there(tmp_path: Path):
    train = split("train", tmp_path, {"a.jpg": b"cat"})
    gone = Split("test", [Medium("b", tmp_path / "b.jpg", ("x",)), Medium("c", tmp_path, ("x",), kind="video")])
    assert shared_in_words(train, gone) == []
    assert shared_in_words(train, split("test", tmp_path, {"d.jpg": b"cow"})) == []


def test_of_videos_the_same_part_counts(tmp_path: Path):
    train = split("train", tmp_path, {"a.mp4": b"film"}, kind="video", start=0.0, end=5.0)
    assert copies_between(train, split("val", tmp_path, {"b.mp4": b"film"}, kind="video", end=5.0)) == {0: 0}
    assert copies_between(train, split("val", tmp_path, {"b.mp4": b"film"}, kind="video", start=5.0)) == {}


def test_parts_of_a_tar(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"catdogcat")
    media = [Medium(str(at), tmp_path / "a.tar", ("x",), member=(3 * at, 3)) for at in range(3)]
    assert copies_between(Split("train", media[:2]), Split("test", media[2:])) == {0: 0}


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train, test = split("train", tmp_path, {"a.jpg": b"cat"}), split("test", tmp_path, {"b.jpg": b"cat"})
    assert copies_between(train, test) == {0: 0}
    monkeypatch.setattr("mmts.data.media.contents._hash", lambda *_: pytest.fail("read again"))
    assert copies_between(train, test) == {0: 0}
    (tmp_path / "b.jpg").write_bytes(b"cows")
    assert copies_between(train, test) == {}


def test_clips_of_one_video_in_two_splits_are_said(tmp_path: Path):
    train = split("train", tmp_path, {"a.mp4": b"film"}, kind="video", start=0.0, end=5.0)
    clips = [
        Medium(str(at), tmp_path / name, ("x",), kind="video", start=9.0) for at, name in enumerate(["a.mp4", "b"])
    ]
    (note,) = shared_in_words(train, Split("val", clips))
    assert note.startswith(f"1 of 2 videos of val have clips in train too, such as {tmp_path}/a.mp4, so ")
