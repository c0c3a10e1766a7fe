import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests_support import draw_shards

from mmts.data.read import read_dataset
from mmts.errors import DataError
from mmts.examples.sets import draw_cc3m, draw_coco, draw_ek100, draw_flickr30k, draw_youcook2

LINE = json.dumps({"id": "1", "image": "1.jpg", "captions": ["a cat"], "split": "train"}) + "\n"
ROW = json.dumps({"file_name": "1.jpg", "text": "a cat"}) + "\n"
TABLE = "filepath,caption\n1.jpg,a cat\n"


@pytest.mark.parametrize(
    ("name", "content", "given"),
    [
        ("captions.jsonl", LINE, "."),
        ("captions.jsonl", LINE, "captions.jsonl"),
        ("mine.jsonl", LINE, "mine.jsonl"),
        ("metadata.jsonl", ROW, "."),
        ("metadata.jsonl", ROW, "metadata.jsonl"),
        ("train/metadata.csv", "file_name,text\n1.jpg,a cat\n", "."),
        ("mine.csv", TABLE, "mine.csv"),
        ("mine.TSV", TABLE.replace(",", "\t"), "mine.TSV"),
    ],
)
def test_every_format_is_recognised(tmp_path: Path, name: str, content: str, given: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    dataset = read_dataset(tmp_path / given)
    assert dataset.media[0].captions == ("a cat",)
    assert dataset.root == tmp_path


@pytest.mark.parametrize(
    ("draw", "splits"),
    [
        (draw_flickr30k, {"train": 24, "val": 4, "test": 10}),
        (draw_coco, {"train": 24, "val": 4, "test": 10}),
        (draw_ek100, {"train": 24, "test": 8}),
        (draw_youcook2, {"train": 24, "val": 8}),
        (draw_cc3m, {"train": 26, "val": 7}),
        (draw_shards, {"train": 27, "val": 3, "test": 1}),
    ],
)
def test_public_data_sets_are_recognised(tmp_path: Path, draw: Callable[[Path], Path], splits: dict[str, int]):
    assert read_dataset(draw(tmp_path)).split_sizes == splits


def test_a_json_file_is_recognised_by_itself(tmp_path: Path):
    assert read_dataset(draw_flickr30k(tmp_path) / "dataset_flickr30k.json").name == "flickr30k"
    captions = {
        "images": [{"id": 9, "file_name": "COCO_val2014_000000000009.jpg"}],
        "annotations": [{"id": 1, "image_id": 9, "caption": "a cat"}],
    }
    (tmp_path / "captions_val2014.json").write_text(json.dumps(captions))
    assert read_dataset(tmp_path / "captions_val2014.json").split_sizes == {"val": 1}


def test_karpathys_splits_count_before_cocos_own(tmp_path: Path):
    draw_coco(tmp_path)
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": [], "annotations": []}))
    assert len(read_dataset(tmp_path).media) == 38


@pytest.mark.parametrize("pattern", ["shards/00000.tar", "shards/{00000..00002}.tar", "shards/*.tar"])
def test_shards_are_given_by_file_braces_or_glob(tmp_path: Path, pattern: str):
    draw_shards(tmp_path / "shards")
    (tmp_path / "shards" / "metadata.csv").write_text("file_name,text\n1.jpg,a cat\n")
    assert read_dataset(tmp_path / pattern).media[0].member is not None


def test_captions_jsonl_counts_before_metadata(tmp_path: Path):
    (tmp_path / "captions.jsonl").write_text(LINE)
    (tmp_path / "metadata.jsonl").write_text(ROW.replace("cat", "dog"))
    assert read_dataset(tmp_path).media[0].captions == ("a cat",)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("caption.jsonl", r"The nearest thing is caption.jsonl: give that file itself"),
        ("inner/captions.jsonl", r"The nearest thing is the folder inner in it"),
        ("inner/annotations/captions_val2017.json", r"The nearest thing is the folder inner in it"),
        ("00000.feather", r"It holds 00000.feather, and .feather files are not read; write it as parquet"),
        ("cat.jpg", r"It holds 1 image: write captions into a captions.jsonl"),
        ("notes.txt", r"It holds notes.txt"),
        (None, r"The folder is empty"),
    ],
)
def test_an_unknown_folder_says_what_comes_closest(tmp_path: Path, name: str | None, nearest: str):
    if name is not None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LINE)
    with pytest.raises(DataError, match=rf"no data set recognized: looked for captions.jsonl.*\. {nearest}"):
        read_dataset(tmp_path)


def test_a_path_that_does_not_exist(tmp_path: Path):
    (tmp_path / "fashion").mkdir()
    with pytest.raises(DataError, match=r"fashon does not exist; did you mean .*/fashion\?"):
        read_dataset(tmp_path / "fashon")
    with pytest.raises(DataError, match=r"does not exist, nor does"):
        read_dataset(tmp_path / "a" / "b")
    with pytest.raises(DataError, match=r"cannot|does not exist"):
        read_dataset("a\0b")


def test_a_file_of_another_kind(tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(
        DataError,
        match=r"a.json: data is a folder, a .jsonl, .csv, .tsv, .txt, .parquet or .tar file, or a .json file of Flickr",
    ):
        read_dataset(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match=r"a.json holds a list; write its objects one per line into a .jsonl file"):
        read_dataset(tmp_path / "a.json")


@pytest.mark.parametrize(
    "name", ["Train_GCC-training.tsv", "EPIC_100_retrieval_test.csv", "annotations/youcookii_annotations_trainval.json"]
)
def test_one_file_of_a_data_set_is_not_the_data_set(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(TABLE)
    with pytest.raises(DataError, match=rf"{name} is one file of a data set;.* that holds all of it, {tmp_path}$"):
        read_dataset(tmp_path / name)


def test_named_columns_read_one_file_of_a_data_set_alone(tmp_path: Path):
    (tmp_path / "EPIC_100_retrieval_test.csv").write_text("narration_id,narration,noun\nP01_0,take plate,plate\n")
    columns = {"media": "narration_id", "caption": "narration"}
    with pytest.raises(DataError, match="--columns media=NAME,caption=NAME reads it alone"):
        read_dataset(tmp_path / "EPIC_100_retrieval_test.csv")
    (medium,) = read_dataset(tmp_path / "EPIC_100_retrieval_test.csv", columns).media
    assert (medium.captions, medium.labels) == (("take plate",), {"noun": "plate"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", ROW),
        ("mine.jsonl", LINE),
        ("rows.jsonl", json.dumps({"image": "1.jpg", "caption": "a cat"})),
        ("captions.csv", "Image;Caption\n1.jpg;a cat\n"),
        ("captions.txt", "image,caption\n1.jpg,a cat\n"),
        ("EPIC_100_mine.csv", TABLE),
        ("inner/metadata.csv", "file_name,text\n1.jpg,a cat\n"),
        ("inner/captions.jsonl", LINE),
        (
            "mine.json",
            '{"images": [{"id": 1, "file_name": "1.jpg"}], '
            '"annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}',
        ),
    ],
)
def test_what_a_folder_advises_works(tmp_path: Path, name: str, content: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    (tmp_path / "readme.txt").write_text("My pictures\n")
    (tmp_path / "prices.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"The nearest thing is ") as caught:
        read_dataset(tmp_path)
    advised = str(caught.value).rsplit(" ", 1)[1]
    assert read_dataset(advised).media[0].captions == ("a cat",)


def test_a_folder_says_why_its_tables_are_not_read(tmp_path: Path):
    (tmp_path / "prices.csv").write_text("Bild;Preis\na.jpg;gut und billig\n")
    with pytest.raises(DataError, match=r"a file that cannot be read either: .* --columns media=Bild,caption=Preis"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table.xlsx", "table.xlsx: .xlsx files are not read; save the table as CSV UTF-8 and give that file"),
        ("table.arrow", "write it as parquet"),
        ("data.zip", "unpack it"),
    ],
)
def test_files_of_other_programs_say_what_to_do(tmp_path: Path, name: str, message: str):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / name)
    with pytest.raises(DataError, match=message.split(": ")[-1]):
        read_dataset(tmp_path)


def test_columns_of_data_without_columns_are_noted(tmp_path: Path):
    (tmp_path / "captions.jsonl").write_text(LINE)
    assert "the columns 'Bild' are ignored" in read_dataset(tmp_path, {"media": "Bild"}).notes[-1]
    (tmp_path / "captions.jsonl").rename(tmp_path / "metadata.jsonl")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"Bild": "1.jpg", "text": "a cat"}))
    assert read_dataset(tmp_path, {"media": "Bild"}).media[0].id == "1.jpg"


def test_of_two_metadata_files_the_one_given_is_read(tmp_path: Path):
    (tmp_path / "metadata.jsonl").write_text(ROW)
    (tmp_path / "metadata.csv").write_text("file_name,text\n1.jpg,a dog\n")
    with pytest.raises(DataError, match=r"give the one that counts, as "):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path / "metadata.csv").media[0].captions == ("a dog",)
    assert read_dataset(tmp_path / "metadata.jsonl").media[0].captions == ("a cat",)
