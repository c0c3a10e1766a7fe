import io
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests_support import load_pixels

from mmts.data.formats.parquet import open_parquet
from mmts.data.media.checks import copies_between, unreadable_media
from mmts.data.media.image import load_image
from mmts.data.read import read_dataset
from mmts.data.records import Medium
from mmts.errors import DataError
from mmts.files import cache_root


def image(colour: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(data, "PNG")
    return data.getvalue()


def write(file: Path, **columns: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return file


def content(medium: Medium) -> bytes:
    offset, length = medium.member or (0, -1)
    with open(medium.path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def test_images_in_the_table_are_read_byte_by_byte_as_they_are(tmp_path: Path):
    images = [image(colour) for colour in ("red", "blue", "green")]
    file = write(tmp_path / "t.parquet", image=images, caption=["a", "b", "c"], kind=["x", None, "y"], n=[1, 2, 3])
    dataset = read_dataset(file)
    assert [content(medium) for medium in dataset.media] == images
    assert [(medium.id, medium.captions, medium.labels) for medium in dataset.media] == [
        ("t-0", ("a",), {"kind": "x", "n": "1"}),
        ("t-1", ("b",), {"n": "2"}),
        ("t-2", ("c",), {"kind": "y", "n": "3"}),
    ]
    medium = dataset.media[1]
    assert load_pixels(medium.path, 8, member=medium.member)[:, 0, 0].tolist() == [0, 0, 1]
    assert (dataset.name, dataset.path) == (tmp_path.name, file)
    assert unreadable_media(dataset.media) == {}


def test_the_pictures_of_two_splits_are_compared(tmp_path: Path):
    write(tmp_path / "train.parquet", image=[image("red"), image("blue")], caption=["a", "b"])
    write(tmp_path / "test.parquet", image=[image("green"), image("blue")], caption=["c", "d"])
    dataset = read_dataset(tmp_path)
    assert [medium.id for medium in dataset.split("test").media] == ["test-0", "test-1"]
    assert copies_between(dataset.split("train"), dataset.split("test")) == {1: 1}


def test_the_images_of_the_datasets_library(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.new("RGB", (16, 12), "red"), None], "caption": [["a cat", "a pet"], ["a dog"]]}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    dataset = read_dataset(tmp_path)
    (medium,) = dataset.media
    assert (medium.captions, medium.split) == (("a cat", "a pet"), "train")
    assert load_image(medium.path, member=medium.member).size == (16, 12)
    assert "left out 1 row without an image" in dataset.notes


def test_paths_in_the_table_are_those_of_a_csv(tmp_path: Path):
    rows = {"filepath": ["a.jpg", "a.jpg", "in/b.jpg"], "caption": ["a cat", "a pet", "a dog"], "kind": ["x", "x", "y"]}
    lines = [[*rows], *zip(*rows.values(), strict=True)]
    (tmp_path / "captions.csv").write_text("\n".join(map(",".join, lines)))
    write(tmp_path / "captions.parquet", **rows)
    dataset, as_csv = read_dataset(tmp_path / "captions.parquet"), read_dataset(tmp_path / "captions.csv")
    assert (dataset.media, dataset.notes, dataset.root) == (as_csv.media, as_csv.notes, as_csv.root)


def test_paths_are_relative_to_the_folder_of_their_table(tmp_path: Path):
    for name in ("train", "val"):
        write(tmp_path / name / "0.parquet", file_name=["a.jpg"], text=[name])
    assert [medium.path for medium in read_dataset(tmp_path).media] == [
        tmp_path / "train/a.jpg",
        tmp_path / "val/a.jpg",
    ]
    assert read_dataset(tmp_path).split_sizes == {"train": 1, "val": 1}


@pytest.mark.parametrize("given", [".", "t-{0..1}.parquet", "t-*.parquet"])
def test_tables_are_given_by_folder_braces_or_glob(tmp_path: Path, given: str):
    for number in range(2):
        write(tmp_path / f"t-{number}.parquet", jpg=[image()], caption=["a"], split=["test"], id=[f"id {number}"])
    assert [medium.id for medium in read_dataset(tmp_path / given).media] == ["id 0", "id 1"]
    assert read_dataset(tmp_path / given).split_sizes == {"test": 2}


def test_columns_of_other_names_and_kinds(tmp_path: Path):
    columns = {"bild": [image()], "thumbnail": [b"x"], "caption": ["wrong"], "satz": ["a cat"], "box": [[1.0, 2.0]]}
    file = write(tmp_path / "t.parquet", **columns, tags=[["x", "y"]], when=pa.array([0], pa.timestamp("s")))
    (medium,) = read_dataset(file, {"media": "Bild", "caption": "satz"}).media
    assert (medium.captions, medium.labels) == (("a cat",), {"caption": "wrong", "tags": ["x", "y"]})
    assert content(medium) == columns["bild"][0]
    with pytest.raises(DataError, match=r"t.parquet, row 0: the column of paths .* is missing"):
        read_dataset(file)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"filepath": ["../a.jpg"], "caption": ["a"]}, r"t.parquet, row 0: '../a.jpg' lies outside the data folder"),
        ({"filepath": ["a.jpg", None], "caption": ["a", "b"]}, r"t.parquet, row 1: 'filepath' should be a path"),
        (
            {"image": [b"x"], "caption": [7]},
            r"row 0: 'caption' should be a string or a list of strings; caption 1 is the numb",
        ),
        (
            {"image": [b"x"], "url": ["u"]},
            r"t.parquet, row 0: the column of captions .* is missing; found 'image', 'ur",
        ),
        ({"url": ["https://a.b/c"], "caption": ["a"]}, r"'url' holds addresses: download the files"),
        ({"image": pa.array([None], "binary"), "caption": ["a"]}, r"no medium .*left out 1 row without an image"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_the_row(tmp_path: Path, columns: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        read_dataset(write(tmp_path / "t.parquet", **columns))


def test_a_damaged_table_leaves_nothing_in_the_cache(tmp_path: Path):
    file = write(tmp_path / "t.parquet", image=[image()] * 9, caption=["a"] * 9)
    data = bytearray(file.read_bytes())
    data[4:60] = bytes(56)
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"t.parquet: not a parquet file, or damaged"):
        read_dataset(file)
    assert not [*(cache_root() / "parquet").rglob("images")]
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"t.parquet: not a parquet file, or damaged"):
        read_dataset(file)


def test_tables_with_and_without_images_are_not_mixed(tmp_path: Path):
    write(tmp_path / "a.parquet", image=[image()], caption=["a"])
    write(tmp_path / "b.parquet", image=["a.jpg"], caption=["a"])
    with pytest.raises(DataError, match=r"a.parquet has images in its column 'image', and .*b.parquet has none"):
        read_dataset(tmp_path)


def test_images_are_unpacked_once_and_again_when_the_table_changes(tmp_path: Path):
    file = write(tmp_path / "t.parquet", image=[image()], caption=["a"])
    before = read_dataset(file).media[0].path
    state = before.stat()
    assert read_dataset(file).media[0].path.stat() == state
    write(file, image=[image("blue"), image()], caption=["a", "b"])
    assert read_dataset(file).media[0].path != before
    shutil.rmtree(cache_root())
    assert content(read_dataset(file).media[0]) == image("blue")


def test_images_are_never_all_in_memory(tmp_path: Path):
    rows = {"image": [os.urandom(1 << 14) for _ in range(2_000)], "caption": ["a"] * 2_000}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet", use_dictionary=False, write_batch_size=16)
    before, most = pa.total_allocated_bytes(), 0
    with open_parquet(tmp_path / "t.parquet") as table:
        for _ in table.iter_batches(16, columns=["image"]):
            most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < 8 << 20  # the images are 32 MB
