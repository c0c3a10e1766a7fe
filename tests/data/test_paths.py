"""Paths as people's files have them: of Windows, of another machine, addresses; every reader takes them alike."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from mmts.data.read import read_dataset
from mmts.data.records import Dataset
from mmts.errors import DataError


def table(folder: Path, path: str) -> Path:
    (folder / "mine.csv").write_text(f"filepath,caption\n{path},a cat\n", encoding="utf-8")
    return folder / "mine.csv"


def captions(folder: Path, path: str) -> Path:
    (folder / "captions.jsonl").write_text(json.dumps({"id": "1", "image": path, "captions": ["a cat"]}))
    return folder


def metadata(folder: Path, path: str) -> Path:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": path, "text": "a cat"}))
    return folder


def coco(folder: Path, path: str) -> Path:
    rows = {"images": [{"id": 1, "file_name": path}], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}
    (folder / "captions_val2017.json").write_text(json.dumps(rows))
    return folder / "captions_val2017.json"


def karpathy(folder: Path, path: str) -> Path:
    row = {"imgid": 1, "filename": path, "split": "train", "sentences": [{"raw": "a cat"}]}
    (folder / "other.jpg").touch()
    (folder / "dataset_flickr30k.json").write_text(json.dumps({"dataset": "flickr30k", "images": [row]}))
    return folder


READERS = [table, captions, metadata, coco, karpathy]


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Dataset]:
    (tmp_path / "bilder").mkdir()
    (tmp_path / "bilder/a.jpg").touch()
    return lambda path: read_dataset(request.param(tmp_path, path))


def test_backslashes_are_slashes_where_no_file_is_named_so(read: Callable[[str], Dataset], tmp_path: Path):
    for path in ("bilder\\a.jpg", "bilder\\gone.jpg", ".\\bilder\\a.jpg"):
        dataset = read(path)
        assert dataset.media[0].path == tmp_path / "bilder" / path.rsplit("\\")[-1]
        assert "read 1 path written with backslashes as with slashes" in dataset.notes
    (tmp_path / "bilder\\a.jpg").touch()
    dataset = read("bilder\\a.jpg")
    assert dataset.media[0].path == tmp_path / "bilder\\a.jpg"
    assert not any("backslashes" in note for note in dataset.notes)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_are_composed_as_in_the_names_of_files(read: Callable[[str], Dataset], tmp_path: Path, form: str):
    (tmp_path / unicodedata.normalize("NFC" if form == "NFD" else "NFD", "Küche.jpg")).touch()
    dataset = read(unicodedata.normalize(form, "Küche.jpg"))
    assert dataset.media[0].path.exists()
    assert "read 1 path with the accents composed as in the files' names" in dataset.notes


@pytest.mark.parametrize(
    "path",
    [
        *("HERE/bilder/a.jpg", "file://HERE/bilder/a.jpg", "/content/drive/data/bilder/a.jpg", "~/bilder/a.jpg"),
        *("C:\\Users\\me\\bilder\\a.jpg", "\\\\server\\share\\bilder\\a.jpg", "../data/bilder/a.jpg"),
    ],
)
def test_whole_paths_say_the_right_one(tmp_path: Path, path: str):
    (tmp_path / "bilder").mkdir()
    (tmp_path / "bilder/a.jpg").touch()
    for reader in (table, captions, metadata, coco):
        with pytest.raises(DataError, match=r": paths are relative to .*; write 'bilder/a.jpg'$"):
            read_dataset(reader(tmp_path, path.replace("HERE", str(tmp_path))))


def test_a_whole_path_in_a_folder_of_a_split_is_none_below_it(tmp_path: Path):
    (tmp_path / "train").mkdir()
    metadata(tmp_path / "train", f"{tmp_path}/train/a.jpg")
    (tmp_path / "train/a.jpg").touch()
    with pytest.raises(DataError, match=rf"paths are relative to {tmp_path}/train; write 'a.jpg'$"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc/passwd", "lies outside the data folder"),
        ("..\\..\\etc\\passwd", "lies outside the data folder"),
        ("bilder\\..\\..\\x.jpg", "lies outside the data folder"),
        ("https://x.org/a.jpg", "is an address, not a path; download the files first"),
        ("s3://bucket/a.jpg", "is an address, not a path"),
        ("a.jpg (https://dl.airtable.com/a.jpg)", "is an address, not a path"),
        ("data:image/png;base64", "is an image, not a path; save it as a file"),
    ],
)
def test_what_is_no_path_in_the_folder(read: Callable[[str], Dataset], path: str, message: str):
    with pytest.raises(DataError, match=message):
        read(path)


def test_lists_and_missing_captions_are_read_alike_in_json(tmp_path: Path):
    for reader in (captions, metadata):
        read_dataset(reader(tmp_path, "a.jpg"))
    for value, expected in {
        "['a', 'b']": ("a", "b"),
        "nan": (),
        None: (),
        float("nan"): (),
        ("a", None): ("a",),
    }.items():
        for name, record in {
            "captions.jsonl": {"id": 1, "image": "a.jpg", "captions": value},
            "metadata.jsonl": {"file_name": "a.jpg", "text": value},
        }.items():
            rest = json.dumps({**record, "id": 2, "image": "b.jpg", "file_name": "b.jpg", "captions": "x", "text": "x"})
            (tmp_path / name).write_text(f"{json.dumps(record)}\n{rest}")
            found = {each.path.name: each.captions for each in read_dataset(tmp_path / name).media}
            assert found.get("a.jpg", ()) == expected
