import json
from pathlib import Path
from typing import Any

import pytest

from mmts.data.formats.imagefolder import read_imagefolder
from mmts.errors import DataError


def write(file: Path, *records: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def test_jsonl_at_the_root(tmp_path: Path):
    write(
        tmp_path / "metadata.jsonl",
        {"file_name": "0001.png", "text": "a cat", "colour": "red", "boxes": [1, 2], "id": "x"},
        {"file_name": "0002.png", "text": ["a dog", "a pet"], "score": 0.5, "size": float("nan"), "id": None},
        {"file_name": "0003.png", "text": None},
        {"file_name": "0004.png", "text": "a cow", "tags": ["cow", "grass"], "more": ["x", 1], "none": []},
    )
    dataset = read_imagefolder(tmp_path)
    first, second, third = dataset.media
    assert third.labels == {"tags": ["cow", "grass"], "none": []}
    assert (first.id, first.path, first.captions) == ("x", tmp_path / "0001.png", ("a cat",))
    assert first.labels == {"colour": "red"}
    assert (second.id, second.captions, second.labels) == ("0002.png", ("a dog", "a pet"), {"score": "0.5"})
    assert "left out 1 medium without any caption" in dataset.notes
    assert any("80/10/10" in note for note in dataset.notes)


def test_csv_in_split_folders(tmp_path: Path):
    for name, caption in [("train", "a cat"), ("validation", "a dog"), ("test", "a cow")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.csv").write_text(f"file_name,text,kind\n1.jpg,{caption},{name[0]}\n")
    dataset = read_imagefolder(tmp_path)
    assert dataset.split_sizes == {"train": 1, "val": 1, "test": 1}
    (medium,) = dataset.split("val").media
    assert (medium.id, medium.path) == ("validation/1.jpg", tmp_path / "validation/1.jpg")
    assert (medium.captions, medium.labels) == (("a dog",), {"kind": "v"})


def test_a_split_folder_without_metadata_is_said_aloud(tmp_path: Path):
    write(tmp_path / "train/metadata.jsonl", {"file_name": "1.jpg", "caption": "a cat"})
    (tmp_path / "test").mkdir()
    dataset = read_imagefolder(tmp_path)
    assert dataset.split_names == ("train",)
    assert dataset.notes == ("without metadata.jsonl or metadata.csv, so left out: test",)


def test_splits_by_the_first_folder_of_file_names(tmp_path: Path):
    write(
        tmp_path / "metadata.jsonl",
        {"file_name": "train/1.jpg", "text": "a cat"},
        {"file_name": "dev\\1.jpg", "text": "a dog"},
    )
    assert read_imagefolder(tmp_path).split_sizes == {"train": 1, "val": 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "x"}, r"line 1: the column of paths \(filepath, file_name, .* is missing; found 'text', none"),
        ({"file_name": None, "text": "x"}, r"line 1: 'file_name' should be a path, not null"),
        ({"file_name": 3, "text": "x"}, r"line 1: 'file_name' should be a path, not the number 3"),
        (
            {"file_name": "1.jpg", "words": "x"},
            r"line 1: the column of captions .* found 'file_name', 'words'; .* --columns media=file_name,caption=words",
        ),
        (
            {"file_name": "1.jpg", "text": ["x", 3]},
            r"line 1: .*; caption 2 is the number 3",
        ),
        ({"file_name": "../1.jpg", "text": "x"}, r"line 1: '../1.jpg' lies outside the data folder"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, record: dict[str, Any], message: str):
    write(tmp_path / "metadata.jsonl", record)
    with pytest.raises(DataError, match=message):
        read_imagefolder(tmp_path)


def test_a_path_out_of_the_split_folder_stays_in_the_data(tmp_path: Path):
    write(tmp_path / "train/metadata.jsonl", {"file_name": "../images/1.jpg", "text": "a cat"})
    assert read_imagefolder(tmp_path).media[0].path == tmp_path / "images/1.jpg"


def test_two_metadata_files_in_one_folder(tmp_path: Path):
    write(tmp_path / "metadata.jsonl", {"file_name": "1.jpg", "text": "x"})
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.jpg,x\n")
    with pytest.raises(DataError, match=r"both metadata.jsonl and metadata.csv"):
        read_imagefolder(tmp_path)


def test_folders_of_splits_in_any_case_and_by_any_usual_name(tmp_path: Path):
    names = {"Train": "train", "Valid": "val", "validation": "val", "TESTING": "test"}
    for name in names:
        write(tmp_path / name / "metadata.jsonl", {"file_name": "1.jpg", "text": f"in {name}"})
    dataset = read_imagefolder(tmp_path)
    assert {medium.path.parent.name: medium.split for medium in dataset.media} == names
    assert dataset.notes == ("the splits 'Valid', 'validation' are one: val",)


def test_capital_folders_in_file_names(tmp_path: Path):
    write(
        tmp_path / "metadata.jsonl",
        {"file_name": "Train/1.jpg", "text": "a cat"},
        {"file_name": "./Test/1.jpg", "text": "a dog"},
    )
    assert read_imagefolder(tmp_path).split_sizes == {"train": 1, "test": 1}


def test_the_field_split_counts_before_the_folder(tmp_path: Path):
    write(
        tmp_path / "metadata.jsonl",
        {"file_name": "train/1.jpg", "text": "a cat", "split": "train"},
        {"file_name": "train/2.jpg", "text": "a dog", "split": "test"},
    )
    assert read_imagefolder(tmp_path).split_sizes == {"train": 1, "test": 1}


def test_another_folder_beside_train_is_a_split_of_its_own(tmp_path: Path):
    rows = [{"file_name": f"{name}/1.jpg", "text": name} for name in ("Train", "test", "eval")]
    write(tmp_path / "metadata.jsonl", *rows)
    assert read_imagefolder(tmp_path).split_sizes == {"train": 1, "test": 1, "eval": 1}
    write(tmp_path / "metadata.jsonl", *rows, {"file_name": "1.jpg", "text": "nowhere"})
    with pytest.raises(DataError, match=r"line 4: no split here, while 3 of 4 media have one"):
        read_imagefolder(tmp_path)


def test_metadata_that_is_not_read_is_said(tmp_path: Path):
    for name in ("train", "extra"):
        write(tmp_path / name / "metadata.jsonl", {"file_name": "1.jpg", "text": "a cat"})
    assert read_imagefolder(tmp_path).notes == (
        "left out the metadata in 'extra', as the folders are not named like a split",
    )
    write(tmp_path / "metadata.jsonl", {"file_name": "1.jpg", "text": "a cat", "split": "train"})
    assert read_imagefolder(tmp_path).notes == (
        "left out the metadata in 'extra', 'train', as the metadata file at the root counts",
    )
