import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmts.apps.prepare import write_manifest
from mmts.data.formats.captions_jsonl import read_captions_jsonl
from mmts.data.formats.collect import MISSING_CAPTIONS, clean_text
from mmts.data.records import Dataset
from mmts.errors import DataError


def write(folder: Path, *lines: Any) -> Path:
    """Write lines, given as bytes, text or JSON values."""
    file = folder / "captions.jsonl"
    raw = [
        each if isinstance(each, bytes) else (each if isinstance(each, str) else json.dumps(each)).encode()
        for each in lines
    ]
    file.write_bytes(b"\n".join(raw) + b"\n")
    return file


def read(folder: Path, *lines: Any) -> Dataset:
    return read_captions_jsonl(write(folder, *lines))


def line(identity: object = "1", **changed: Any) -> dict[str, Any]:
    record = {"id": identity, "image": f"images/{identity}.jpg", "captions": ["a cat"], "split": "train"}
    return {name: value for name, value in {**record, **changed}.items() if value is not ...}


def test_every_field(tmp_path: Path):
    dataset = read(
        tmp_path,
        line(labels={"colour": "blue", "size": 3, "new": True, "none": None, "nan": float("nan")}),
        line(7, image=..., video="v/7.mp4", start=1.5, end=2, split="validation", captions="a plain string"),
    )
    first, second = dataset.media
    assert first.path == tmp_path / "images/1.jpg"
    assert first.labels == {"colour": "blue", "size": "3", "new": "true"}
    assert (first.kind, first.split, first.start, first.end) == ("image", "train", None, None)
    assert (second.id, second.kind, second.split, second.start, second.end) == ("7", "video", "val", 1.5, 2.0)
    assert second.captions == ("a plain string",)
    assert (dataset.name, dataset.root, dataset.notes) == (tmp_path.name, tmp_path, ())


def test_clips_of_frame_folders_and_images_in_tars(tmp_path: Path):
    dataset = read(
        tmp_path,
        line("1", image=..., video="P01/rgb_frames/P01_01", frames=[8, 202], start=0.14, end=3.37),
        line("2", image="shards/00000.tar", member=[512, 1_234]),
    )
    assert [(medium.frames, medium.member) for medium in dataset.media] == [((8, 202), None), (None, (512, 1_234))]
    assert dataset.notes == ()


def test_blank_lines_windows_ends_and_byte_order_mark(tmp_path: Path):
    file = tmp_path / "captions.jsonl"
    text = "\r\n".join(["\ufeff" + json.dumps(line("1")), "", "  ", json.dumps(line("2"))])
    file.write_bytes(text.encode())
    assert [medium.id for medium in read_captions_jsonl(file).media] == ["1", "2"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"id": "2", "image": ', r"line 2: broken JSON: Expecting value at column 21"),
        ("[1, 2]", r"line 2: expected an object like .*, not a list"),
        ("null", r"line 2: expected an object like .*, not null"),
        ("[" * 100_000, r"line 2: broken JSON"),
        ("1" * 10_000, r"line 2: broken JSON"),
        (b'{"id": "\xff"}', r"line 2: byte 9 is not UTF-8"),
        (line(...), r"line 2: 'id' is missing; found 'image', 'captions', 'split'"),
        (line(True), r"line 2: 'id' should be a string or a whole number, not true"),
        (line("  "), r"line 2: the id is empty"),
        (line("2", image=...), r"line 2: 'image' \(or 'video'\) is missing; found 'id', 'captions'"),
        (line("2", video="2.mp4"), r"line 2: both 'image' and 'video'"),
        (line("2", image=5), r"line 2: 'image' should be a path, not the number 5"),
        (line("2", captions=..., caption="x"), r"line 2: 'captions' is missing; found .*'caption'"),
        (
            line("2", captions={"en": "x"}),
            r"line 2: 'captions' should be a string or a list of strings; caption 1 is an object",
        ),
        (line("2", captions=["x", 3]), r"line 2: .*; caption 2 is the number 3"),
        (line("2", captions=True), r"line 2: 'captions' should be a string or a list of strings, not true"),
        (
            line("2", captions=3),
            r"line 2: 'captions' should be a string or a list of strings; caption 1 is the number 3",
        ),
        (line(None), r"line 2: 'id' should be a string or a whole number, not null"),
        (line("2", image=None), r"line 2: 'image' .or 'video'. is missing"),
        (line("2", image=..., video=None), r"line 2: 'image' .or 'video'. is missing"),
        (line("2", labels=["x"]), r"line 2: 'labels' should be an object like .*, not a list"),
        (
            line("2", labels={"x": {}}),
            r"line 2: label 'x' should be .* a number or a list of .*, not an object",
        ),
        (
            line("2", labels={"x": ["y", None]}),
            r"line 2: label 'x' should be a string, a number or a list of .*, not null",
        ),
        (
            line("2", labels={"x": [["y"]]}),
            r"line 2: label 'x' should be a string, a number or a list of .*, not a list",
        ),
        (line("2", split=1.5), r"line 2: 'split' should be a string, not the number 1.5"),
        (line("2", start="0:10"), r"line 2: 'start' should be a number of seconds from 0, not the string '0:10'"),
        (line("2", end=float("nan")), r"line 2: 'end' should be a number of seconds"),
        (line("2", start=3, end=2), r"line 2: the end, 2 s, is not after the start, 3 s"),
        (
            line("2", frames=7),
            r"line 2: 'frames' should be a list of two whole .*: the first and the last frame",
        ),
        (line("2", frames=[3, 2]), r"line 2: the frames are 3 to 2; a clip has 1 to 1,000,000"),
        (line("2", frames=[1, 10**15]), r"line 2: the frames are 1 to 1000000000000000; a clip has 1 to 1,000,000"),
        (line("2", frames=[10**400, 10**400]), r"line 2: 'frames' should be .* to 2\^63 - 1: .*, not \[10.*\.\.\."),
        (line("2", member=[5]), r"line 2: 'member' should be a list of two .*: the byte in a tar file .*, not \[5\]"),
        (line("2", member=[-5, 100]), r"line 2: 'member' should be .* from 0 .*: the byte .*, not \[-5, 100\]"),
        (line("2", member=[10**400, 1]), r"line 2: 'member' should be .* to 2\^63 - 1: .*, not \[10"),
        (line("2", end=10**400), r"line 2: 'end' should be a number of seconds from 0, not the number 1000.*\.\.\."),
        ('{"id": ' + "9" * 5000 + "}", r"line 2: broken JSON: .* a number in it has thousands of digits$"),
        ("[" * 100_000, r"line 2: broken JSON: nested too deeply"),
        ({"x" * 100_000: 1}, r"line 2: 'image' \(or 'video'\) is missing; found 'xxx.{1,200}$"),
        (line("2", image="../" + "x" * 5000), r"line 2: '\.\./x.{1,100} lies outside the data folder"),
        (line("2", split=...), r"line 2: no split here, while 1 of 2 media have one"),
        (line("1", image="2.jpg"), r"line 2: the id '1' is there already, in .*captions.jsonl, line 1"),
        (line(1, image="2.jpg"), r"line 2: the id '1' is there already"),
        (
            line("2", image="images/1.jpg", split="test"),
            r"line 2: .*1\.jpg' has the split 'test' here and 'train' in .*1;",
        ),
        (
            line("2", image=..., video="images/1.jpg"),
            r"line 2: 'images/1\.jpg' is a video here and an image in .*line 1",
        ),
        (line("2", image="/etc/passwd"), r"line 2: '/etc/passwd' lies outside the data folder"),
        (line("2", image="images/../../x.jpg"), r"line 2: .* lies outside the data folder"),
        (line("2", image=r"C:\x.jpg"), r"line 2: .* lies outside the data folder"),
        (line("2", image=" "), r"line 2: the path is empty"),
        (line("2", image="a\0b.jpg"), r"line 2: .* cannot be a path"),
        (line("2", image="\ud800.jpg"), r"line 2: .* cannot be a path"),
    ],
)
def test_what_cannot_be_is_named_by_file_and_line(tmp_path: Path, bad: Any, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, line("1"), bad)
    assert str(tmp_path / "captions.jsonl") in str(caught.value)


def test_a_member_ends_where_its_tar_does(tmp_path: Path):
    (tmp_path / "0.tar").write_bytes(bytes(1000))
    assert read(tmp_path, line(image="0.tar", member=[512, 488])).media[0].member == (512, 488)
    with pytest.raises(DataError, match=r"line 1: 'member' ends at byte 1,001, and 0\.tar has 1,000 bytes"):
        read(tmp_path, line(image="0.tar", member=[512, 489]))


def test_a_compressed_file_says_so(tmp_path: Path):
    file = write(tmp_path, line())
    file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(DataError, match=r"captions\.jsonl is compressed with gzip; unpack it$"):
        read_captions_jsonl(file)


def test_a_path_may_wander_inside_the_folder(tmp_path: Path):
    dataset = read(tmp_path, line(image="./images/../photos//1.jpg"))
    assert dataset.media[0].path == tmp_path / "photos/1.jpg"


def test_captions_are_cleaned_and_counted(tmp_path: Path):
    dataset = read(
        tmp_path,
        line("1", captions=["a\0cat", " outer ", "\ud83d broken", "", " \t"]),
        '{"id": "2", "image": "2.jpg", "captions": ["raw\0NUL"], "split": "train"}',
        line("3", captions=[]),
        line("4", captions=["\x00"]),
    )
    assert [medium.captions for medium in dataset.media] == [("a cat", "outer", "\ufffd broken"), ("raw NUL",)]
    assert dataset.notes == (
        "cleaned 4 captions of control characters, broken characters or outer spaces",
        "dropped 3 empty captions",
        "left out 2 media without any caption",
    )


@pytest.mark.parametrize("text", ["👩🏽‍🚀🇹🇷 😀", "שלום עולם", "\u202bمرحبا\u202c", "word " * 9_999 + "word"])
def test_emoji_right_to_left_and_long_captions_pass_unchanged(tmp_path: Path, text: str):
    dataset = read(tmp_path, line(captions=[text]))
    assert dataset.media[0].captions == (text,)
    assert dataset.notes == ()


def test_a_tar_that_cannot_be_looked_at_is_not_measured(tmp_path: Path):
    tar = f"{'x' * 300}.tar"
    assert read(tmp_path, line("1", image=tar, member=[512, 9])).media[0].path == tmp_path / tar


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path):
    with pytest.raises(DataError, match=r"no medium with a caption in it \(dropped 1 empty caption; left out 1 medium"):
        read(tmp_path, line(captions=[""]))
    with pytest.raises(DataError, match="no medium with a caption"):
        read(tmp_path, "")


def test_unknown_fields_are_ignored_aloud(tmp_path: Path):
    dataset = read(tmp_path, line("1", width=60), line("2", width=60, source="x"))
    assert dataset.notes == ("unknown fields were ignored: 'width', 'source'",)


def test_without_splits_the_id_decides(tmp_path: Path):
    lines = [line(number, split=...) for number in range(1000)]
    dataset = read(tmp_path, *lines)
    sizes = dataset.split_sizes
    assert sum(sizes.values()) == 1000
    assert 760 < sizes["train"] < 840
    assert 70 < sizes["val"] < 130
    assert dataset.notes == (
        "the data has no splits: divided 80/10/10 by a hash of each medium's id (train 797, val 104, test 99)",
    )
    by_id = {medium.id: medium.split for medium in dataset.media}
    half = read(tmp_path, *reversed(lines[:500]))
    assert all(by_id[medium.id] == medium.split for medium in half.media)


def test_one_sample_only(tmp_path: Path):
    dataset = read(tmp_path, line("1", split=...))
    assert dataset.split_names == ("test",)
    with pytest.raises(DataError, match=r"nothing is in split 'train'; the splits are: test \(1 media\)"):
        dataset.split("train")


@given(st.lists(st.text().filter(lambda text: text.lower() not in MISSING_CAPTIONS), min_size=1, max_size=5))
def test_any_text_comes_back_clean(tmp_path_factory: pytest.TempPathFactory, texts: list[str]):
    folder = tmp_path_factory.mktemp("any")
    dataset = read(folder, line("kept"), line("1", captions=texts))
    expected = tuple(text for text in map(clean_text, texts) if text)
    found = {medium.id: medium.captions for medium in dataset.media}
    assert found.get("1", ()) == expected
    for caption in expected:
        caption.encode("utf-8")
        assert caption == caption.strip() == clean_text(caption)
        assert not any(ord(letter) < 32 for letter in caption)


def test_a_label_may_be_a_list(tmp_path: Path):
    first = line("1", image="a.jpg", labels={"objects": ["dog ", 3, "dog", True], "tags": [], "who": ["ann"]})
    second = line("1", image="a.jpg", labels={"objects": ["dog", "3", "true"], "tags": [], "who": ["bob"]})
    dataset = read(tmp_path, first, second)
    assert dataset.media[0].labels == {"objects": ["dog", "3", "true"], "tags": []}
    write_manifest(dataset, tmp_path)
    assert read_captions_jsonl(tmp_path / "manifest.jsonl").media[0].labels == dataset.media[0].labels


def test_lines_of_one_file_are_one_medium(tmp_path: Path):
    lines = [
        line("1", image="a.jpg", captions=["x"], labels={"kind": "cat", "who": "ann"}),
        line("2", image="./a.jpg", captions="y", labels={"kind": "cat", "who": "bob"}, split="Training"),
        line("2", image="images//../a.jpg", captions=["z"], labels={"kind": "cat"}),
        line("3", image="b.jpg", captions=["x"]),
    ]
    dataset = read(tmp_path, *lines)
    assert [(each.id, each.captions) for each in dataset.media] == [("1", ("x", "y", "z")), ("3", ("x",))]
    assert dataset.media[0].labels == {"kind": "cat"}
    assert dataset.notes[0] == (
        "merged 3 lines that name the same files into 1 medium with several captions; "
        "each keeps the id of its first line"
    )
    with pytest.raises(DataError, match=r"line 3: the id '2' is there already, in .*line 1"):
        read(tmp_path, *lines[:2], line("2", image="c.jpg"))


def test_parts_of_one_file_are_media_of_their_own(tmp_path: Path):
    clips = [line(str(at), image=..., video="a.mp4", start=at, end=at + 1) for at in (0, 1)]
    again = line("x", image=..., video="a.mp4", end=1)  # from 0, as the first
    samples = [line(f"s{at}", image="a.tar", member=[512 * at, 9]) for at in (1, 2)]
    dataset = read(tmp_path, *clips, again, *samples)
    assert [each.id for each in dataset.media] == ["0", "1", "s1", "s2"]
    assert len(dataset.media[0].captions) == 2 * len(dataset.media[1].captions)


def test_a_line_without_a_caption_takes_the_captions_of_a_later_one(tmp_path: Path):
    dataset = read(tmp_path, line("1", captions=[" "]), line("2", image="images/1.jpg", captions=["x"]))
    assert [(each.id, each.captions) for each in dataset.media] == [("1", ("x",))]


def test_clips_of_one_video_stay_together_where_splits_are_made(tmp_path: Path):
    clips = [
        line(f"{film}-{at}", image=..., video=f"{film}.mp4", start=at, end=at + 1, split=...)
        for film in range(20)
        for at in range(5)
    ]
    dataset = read(tmp_path, *clips)
    splits: dict[Path, set[str | None]] = {}
    for medium in dataset.media:
        splits.setdefault(medium.path, set()).add(medium.split)
    assert {len(each) for each in splits.values()} == {1}
    assert "by a hash of each medium's id, for clips of their video" in dataset.notes[-1]


def test_a_number_is_the_name_of_a_split(tmp_path: Path):
    assert read(tmp_path, line("1", split=0), line("2", split=2014)).split_sizes == {"0": 1, "2014": 1}
