import json
import re
from pathlib import Path
from typing import Any

import pytest

from mmts.data.formats.youcook2 import looks_like_youcook2, read_youcook2
from mmts.data.records import Coverage
from mmts.errors import DataError
from mmts.examples.sets import draw_youcook2

NAME = "youcookii_annotations_trainval.json"
SEGMENT = {"segment": [12, 20.5], "id": 0, "sentence": "chop the onion"}


def video(*segments: dict[str, Any], **changed: Any) -> dict[str, Any]:
    row = {
        "duration": 311.77,
        "subset": "validation",
        "recipe_type": "113",
        "annotations": list(segments or [SEGMENT]),
        "video_url": "https://www.youtube.com/watch?v=fn9anlEL4FI",
    }
    return {name: value for name, value in {**row, **changed}.items() if value is not ...}


def write(folder: Path, videos: dict[str, Any], *files: str) -> Path:
    """Write annotations of these videos, and empty files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_text(json.dumps({"database": videos}))
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def test_every_field_of_a_segment(tmp_path: Path):
    write(tmp_path, {"fn9anlEL4FI": video(SEGMENT, {**SEGMENT, "id": 4})}, "videos/fn9anlEL4FI.webm")
    first, second = read_youcook2(tmp_path).media
    assert (first.id, second.id) == ("fn9anlEL4FI_0", "fn9anlEL4FI_4")
    assert (first.captions, first.split, first.kind) == (("chop the onion",), "val", "video")
    assert (first.start, first.end, first.labels) == (12.0, 20.5, {"recipe": "113"})
    assert first.path == tmp_path / "videos/fn9anlEL4FI.webm"


def test_drawn_videos_and_what_is_missing_of_them(tmp_path: Path):
    dataset = read_youcook2(draw_youcook2(tmp_path))
    assert dataset.split_sizes == {"train": 24, "val": 8}
    assert dataset.coverage == {"val": Coverage(judged=8, annotated=12, published=3350)}
    assert dataset.notes == (
        "train: left out 4 of 28 segments, of 1 of 7 videos, because their file is missing (first drawn_tra06)",
        "val: left out 4 of 12 segments, of 1 of 3 videos, because their file is missing (first drawn_val02)",
    )
    medium = dataset.media[5]
    assert medium.path == tmp_path / "raw_videos/training/205/drawn_tra01.mp4"
    assert medium.path.is_file()
    assert medium.labels == {"recipe": "salad"}


@pytest.mark.parametrize(
    "file", ["a.mp4", "a.MKV", "videos/a.mp4", "raw_videos/validation/113/a.mp4", "validation/113/a.webm"]
)
def test_videos_are_found_where_they_usually_lie(tmp_path: Path, file: str):
    write(tmp_path, {"a": video()}, file, "videos/a.txt", "elsewhere/a.mp4")
    assert read_youcook2(tmp_path).media[0].path == tmp_path / file


def test_features_of_segments(tmp_path: Path):
    write(tmp_path, {"a": video(SEGMENT, {**SEGMENT, "id": 1})}, "features/a_1.npy")
    dataset = read_youcook2(tmp_path)
    (medium,) = dataset.media
    assert (medium.id, medium.path, medium.is_features) == ("a_1", tmp_path / "features/a_1.npy", True)
    assert dataset.coverage["val"] == Coverage(1, 2, 3350)
    assert "left out 1 of 2 segments, of 1 of 1 videos" in dataset.notes[0]


def test_annotations_in_their_own_folder(tmp_path: Path):
    write(tmp_path / "annotations", {"a": video(subset="training")})
    (tmp_path / "annotations/label_foodtype.csv").write_text("101,burger\n113, bean soup\n")
    (tmp_path / "a.mp4").touch()
    assert looks_like_youcook2(tmp_path)
    dataset = read_youcook2(tmp_path)
    assert dataset.media[0].labels == {"recipe": "bean soup"}
    assert dataset.split_sizes == {"train": 1}
    assert dataset.coverage["val"] == Coverage(0, 0, 3350)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            video({**SEGMENT, "segment": [20, 12]}),
            r"annotations\[0\] \(segment 0\): the end, 12 s, is not after the start",
        ),
        (video({**SEGMENT, "segment": [12, 12]}), r"the end, 12 s, is not after the start, 12 s"),
        (
            video(SEGMENT, {**SEGMENT, "id": 7, "segment": [1]}),
            r"annotations\[1\] \(segment 7\): .*two numbers.*not \[1\]",
        ),
        (video({**SEGMENT, "segment": ["1", "2"]}), r"'segment' should be two numbers of seconds like \[12, 20\]"),
        (video({**SEGMENT, "segment": [-1, 2]}), r"'segment' should be two numbers of seconds"),
        (video({**SEGMENT, "segment": [1, float("nan")]}), r"'segment' should be two numbers of seconds"),
        (video({**SEGMENT, "segment": [0, 10**400]}), r"'segment' should be two .*, not \[0, 1000.*\.\.\..{0,60}$"),
        (video({**SEGMENT, "segment": "1-2"}), r"'segment' should be two numbers of .*, not the string '1-2'"),
        (video({**SEGMENT, "sentence": " "}), r"\(segment 0\): the sentence is empty"),
        (video({"id": 3, "segment": [1, 2]}), r"\(segment 3\): 'sentence' is missing; found 'id', 'segment'"),
        (video({**SEGMENT, "id": "x"}), r"'id' should be the segment's number, not the string 'x'"),
        (video(SEGMENT, SEGMENT), r"annotations\[1\] .*the id 'a_0' is there already, in .*annotations\[0\]"),
        (video(subset="validaton"), r"the subset is 'validaton'; did you mean 'validation'\?"),
        (video(subset="testing"), r"the subset is 'testing'"),
        (video(annotations=...), r"'annotations' is missing"),
        (video(recipe_type=None), r"'recipe_type' should be a recipe type's number, not null"),
        ([], r"expected an object, not a list"),
    ],
)
def test_a_wrong_video_is_named(tmp_path: Path, row: Any, message: str):
    write(tmp_path, {"a": row}, "a.mp4")
    with pytest.raises(DataError, match=rf"{NAME}, video 'a'.*{message}"):
        read_youcook2(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "broken JSON"),
        ("[]", "expected an object at the top, not a list"),
        ('{"images": []}', "'database' is missing; found 'images'"),
        ('{"database": []}', "'database' should be an object of videos by id, not a list"),
        ('{"database": {}}', "no video has a segment"),
        ('{"database": {"../a": {}}}', "a video's id is made of letters, digits, - and _"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(DataError, match=rf"{NAME}.*{message}"):
        read_youcook2(tmp_path)


def test_annotations_alone(tmp_path: Path):
    dataset = read_youcook2(write(tmp_path, {"a": video(), "b": video(subset="training")}))
    assert [(medium.id, medium.split, medium.captions) for medium in dataset.media] == [
        ("a_0", "val", ("chop the onion",)),
        ("b_0", "train", ("chop the onion",)),
    ]
    assert dataset.coverage == {"val": Coverage(judged=0, annotated=1, published=3350)}  # so nothing trains on them
    (note,) = dataset.notes
    assert re.search(r"only the annotations can be used: .*a\.mp4, .* features/a_0\.npy", note)


def test_no_annotations(tmp_path: Path):
    assert not looks_like_youcook2(tmp_path)
    with pytest.raises(DataError, match=f"no {NAME} there or in annotations/"):
        read_youcook2(tmp_path)


def test_names_of_recipes_need_two_columns(tmp_path: Path):
    write(tmp_path, {"a": video()}, "a.mp4")
    (tmp_path / "label_foodtype.csv").write_text("101,burger\n113\n")
    with pytest.raises(DataError, match=r"label_foodtype\.csv, line 2: expected a recipe type's number and its name"):
        read_youcook2(tmp_path)
