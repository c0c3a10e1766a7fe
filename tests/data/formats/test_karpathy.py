import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmts.data.formats.coco import karpathy_file, looks_like_karpathy, read_karpathy
from mmts.errors import DataError
from mmts.examples.sets import draw_coco, draw_flickr30k


def change(file: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a json file as `edit` leaves it."""
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def test_flickr30k(tmp_path: Path):
    dataset = read_karpathy(draw_flickr30k(tmp_path))
    assert (dataset.name, dataset.root, dataset.folds, dataset.notes) == ("flickr30k", tmp_path, 1, ())
    assert dataset.split_sizes == {"train": 24, "val": 4, "test": 10}
    first = dataset.media[0]
    assert (first.id, first.path) == ("0", tmp_path / "flickr30k-images" / "1000000000.jpg")
    assert first.captions[0] == "A red square on the left of the picture."  # the raw text, not the tokens
    assert all(medium.path.is_file() and medium.kind == "image" for medium in dataset.media)
    assert [int(medium.id) for medium in dataset.media] == list(range(38))  # file order


def test_coco_counts_restval_as_train_and_judges_by_five_captions(tmp_path: Path):
    dataset = read_karpathy(draw_coco(tmp_path))
    assert (dataset.name, dataset.folds) == ("coco", 5)
    assert dataset.split_sizes == {"train": 24, "val": 4, "test": 10}
    train = dataset.split("train").media
    assert Counter(medium.path.parent.name for medium in train) == {"train2014": 16, "val2014": 8}
    assert train[-1].id == str(9 + 11 * 23)  # cocoid
    assert all(medium.path.is_file() for medium in dataset.media)
    assert {len(medium.captions) for medium in dataset.media} == {5}
    assert dataset.notes == (
        "8 images of restval count as train",
        "dropped 1 caption beyond the number per image in the published protocol",
    )


def test_training_keeps_all_captions(tmp_path: Path):
    draw_coco(tmp_path)
    extra = {"raw": "One more.", "tokens": [], "imgid": 0, "sentid": 999}
    change(tmp_path / "dataset_coco.json", lambda document: document["images"][0]["sentences"].append(extra))
    assert read_karpathy(tmp_path).split("train").media[0].captions[5] == "One more."


@pytest.mark.parametrize("images", ["flickr30k-images", "flickr30k_images", "images", "."])
@pytest.mark.parametrize("inner", [".", "annotations"])
def test_where_files_of_flickr30k_may_lie(tmp_path: Path, images: str, inner: str):
    draw_flickr30k(tmp_path / "drawn")
    root = tmp_path / "flickr30k"
    (root / images).mkdir(parents=True)
    (root / inner).mkdir(exist_ok=True)
    for image in (tmp_path / "drawn" / "flickr30k-images").iterdir():
        image.rename(root / images / image.name)
    file = (tmp_path / "drawn" / "dataset_flickr30k.json").rename(root / inner / "dataset_flickr30k.json")
    for given in (root, file):
        dataset = read_karpathy(given)
        assert dataset.root == root
        assert all(medium.path.is_file() for medium in dataset.media)


def test_coco_below_images(tmp_path: Path):
    draw_coco(tmp_path)
    (tmp_path / "images").mkdir()
    for part in ("train2014", "val2014"):
        (tmp_path / part).rename(tmp_path / "images" / part)
    assert all(medium.path.is_file() for medium in read_karpathy(tmp_path).media)


def test_of_both_files_the_one_with_images_counts(tmp_path: Path):
    draw_coco(tmp_path / "other")
    draw_flickr30k(tmp_path)
    (tmp_path / "other" / "dataset_coco.json").rename(tmp_path / "dataset_coco.json")
    assert read_karpathy(tmp_path).name == "flickr30k"
    assert karpathy_file(tmp_path, "coco").name == "dataset_coco.json"
    (tmp_path / "train2014").mkdir()
    with pytest.raises(DataError, match=r"dataset_flickr30k.json and .*dataset_coco.json; give one of these files"):
        read_karpathy(tmp_path)


def test_single_empty_captions_are_dropped_and_counted(tmp_path: Path):
    draw_flickr30k(tmp_path)
    change(tmp_path / "dataset_flickr30k.json", lambda d: d["images"][0]["sentences"][2].update(raw=" \n"))
    dataset = read_karpathy(tmp_path)
    assert len(dataset.media[0].captions) == 4
    assert (dataset.empty_captions, dataset.notes) == (1, ("dropped 1 empty caption",))


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["images"][17].pop(name)


def with_(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["images"][17].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("split"), r"images\[17\]: 'split' is missing; found 'sentids', 'imgid'"),
        (with_(split="trian"), r"images\[17\]: the split 'trian' is unknown; did you mean 'train'\?"),
        (with_(split=["train"]), r"images\[17\]: 'split' should be a string, not a list"),
        (without("sentences"), r"images\[17\]: 'sentences' is missing"),
        (with_(sentences=[]), r"images\[17\]: it has no caption"),
        (with_(sentences=[{"raw": " "}, {"raw": ""}]), r"images\[17\]: it has no caption"),
        (with_(sentences={"raw": "a cat"}), r"images\[17\]: 'sentences' should be a list, not an object"),
        (with_(sentences=["a cat"]), r"images\[17\], sentences\[0\]: expected an object, not the string 'a cat'"),
        (with_(sentences=[{"tokens": []}]), r"images\[17\], sentences\[0\]: 'raw' is missing; found 'tokens'"),
        (with_(sentences=[{"raw": None}]), r"images\[17\], sentences\[0\]: 'raw' should be a string, not null"),
        (without("filename"), r"images\[17\]: 'filename' is missing"),
        (with_(filename="../../secret.jpg"), r"images\[17\]: .* lies outside the data folder"),
        (with_(filename="/etc/passwd"), r"images\[17\]: .* lies outside the data folder"),
        (with_(filepath="../.."), r"images\[17\]: .* lies outside the data folder"),
        (without("filepath"), r"images\[17\]: 'filepath' is missing"),
        (without("cocoid"), r"images\[17\]: 'cocoid' is missing"),
        (with_(cocoid=True), r"images\[17\]: 'cocoid' should be a whole number, not true"),
        (with_(cocoid=9), r"images\[17\]: the id '9' is there already, in .*images\[0\]"),
        (lambda d: d["images"].insert(17, None), r"images\[17\]: expected an object, not null"),
        (lambda d: d.pop("images"), r"'images' is missing; found 'dataset'"),
        (lambda d: d.update(images={}), r"'images' should be a list, not an object"),
        (with_(split="x" * 100_000), r"images\[17\]: the split 'x.{1,100} is unknown; known: "),
        (lambda d: d.update(images=[]), r"no medium with a caption"),
        (lambda d: d.update(dataset="flickr8k"), r"'dataset' should be flickr30k or coco, not the string 'flickr8k'"),
        (
            lambda d: d.update(annotations=[]),
            r"these are COCO's own captions; Karpathy's splits are in dataset_coco.json",
        ),
    ],
)
def test_what_cannot_be_is_named_by_file_and_row(tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str):
    file = draw_coco(tmp_path) / "dataset_coco.json"
    change(file, edit)
    with pytest.raises(DataError, match=message) as caught:
        read_karpathy(tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', r"dataset_coco.json: broken JSON: Expecting value at column 13"),
        (b"\xff\xfe\x00\x01", r"dataset_coco.json is not UTF-8"),
        ('{"images": []}'.encode("utf-16-le"), r"dataset_coco.json is not UTF-8 but perhaps UTF-16; save"),
        (b'{"images": ["\xe9"]}', r"dataset_coco.json, line 1: byte 14 is not UTF-8 .*; save the file as UTF-8"),
        (gzip.compress(b"{}", mtime=0), r"dataset_coco.json is compressed with gzip; unpack it"),
        (b"[" * 100_000, r"dataset_coco.json: broken JSON: nested too deeply"),
        (b'{"images": ' + b"9" * 5000 + b"}", r"broken JSON: .* a number in it has thousands of digits$"),
        (b'{"' + b"x" * 10_000 + b'": []}', r"'images' is missing; found 'x.{1,200}$"),
        (b"[]", r"dataset_coco.json: expected an object at the top, not a list"),
        (b"", r"dataset_coco.json: broken JSON"),
    ],
)
def test_a_file_that_is_no_json_object(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "dataset_coco.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_karpathy(tmp_path)


def test_without_images_it_says_what_it_looked_for(tmp_path: Path):
    draw_coco(tmp_path / "a")
    (tmp_path / "a" / "dataset_coco.json").rename(tmp_path / "dataset_coco.json")
    with pytest.raises(DataError, match=r"no folder of images: looked for train2014, val2014, images/train2014, im"):
        read_karpathy(tmp_path)
    draw_flickr30k(tmp_path / "b")
    (tmp_path / "b" / "flickr30k-images").rename(tmp_path / "b" / "photos")
    with pytest.raises(DataError, match=r"looked for flickr30k-images/\*, .*, images/\*, \*.jpg"):
        read_karpathy(tmp_path / "b")


def test_a_folder_or_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match=r"looked for dataset_flickr30k.json and dataset_coco.json there and in annota"):
        read_karpathy(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*nothing.json: No such file"):
        read_karpathy(tmp_path / "nothing.json")


def test_it_is_recognised_by_name_or_by_its_beginning(tmp_path: Path):
    assert not looks_like_karpathy(tmp_path)
    file = draw_flickr30k(tmp_path) / "dataset_flickr30k.json"
    assert looks_like_karpathy(tmp_path)
    assert looks_like_karpathy(file.rename(tmp_path / "mine.json"))
    (tmp_path / "other.json").write_text('{"images": [], "annotations": []}')
    assert not looks_like_karpathy(tmp_path / "other.json")
    assert not looks_like_karpathy(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("written", "split"), [("RestVal", "train"), ("Training", "train"), ("validation", "val"), (" TEST", "test")]
)
def test_splits_in_any_case_and_by_any_usual_name(tmp_path: Path, written: str, split: str):
    draw_flickr30k(tmp_path)
    change(tmp_path / "dataset_flickr30k.json", lambda document: document["images"][0].update(split=written))
    assert read_karpathy(tmp_path).media[0].split == split
