import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmts.data.formats.coco import looks_like_coco_captions, read_coco_captions
from mmts.errors import DataError

REAL = Path(__file__).parents[4] / "shared" / "data" / "captions" / "coco_captions_val2017.json"


def document(*counts: int, first: int = 0) -> dict[str, Any]:
    """Return a captions file of images with so many captions each; the annotations are not in the images' order."""
    images = [
        {"license": 4, "file_name": f"{10 * at:012d}.jpg", "height": 48, "width": 64, "id": 10 * at}
        for at in range(first, first + len(counts))
    ]
    rows = [(image["id"], text) for image, count in zip(images, counts, strict=True) for text in range(count)]
    annotations = [
        {"image_id": image, "id": 1000 * first + at, "caption": f"Caption {text} of {image}."}
        for at, (image, text) in enumerate(sorted(rows, key=lambda row: (row[1], -row[0])))
    ]
    return {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations}


def write(folder: Path, name: str, content: dict[str, Any], images: str | None = None) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    if images is not None:
        (folder / images).mkdir(parents=True, exist_ok=True)
    return file


@pytest.mark.parametrize("inner", ["", "annotations/"])
@pytest.mark.parametrize("below", ["", "images/"])
def test_a_folder_has_train_and_val_and_judges_by_five_captions(tmp_path: Path, inner: str, below: str):
    write(tmp_path, f"{inner}captions_train2017.json", document(6, 5), f"{below}train2017")
    write(tmp_path, f"{inner}captions_val2017.json", document(7, 5, first=2), f"{below}val2017")
    dataset = read_coco_captions(tmp_path)
    assert (dataset.name, dataset.root, dataset.folds) == ("coco", tmp_path, 1)
    assert [(medium.id, medium.split, len(medium.captions)) for medium in dataset.media] == [
        ("0", "train", 6),
        ("10", "train", 5),
        ("20", "val", 5),
        ("30", "val", 5),
    ]
    assert dataset.media[2].path == tmp_path / f"{below}val2017" / "000000000020.jpg"
    assert dataset.media[2].captions == tuple(f"Caption {text} of 20." for text in range(5))
    assert dataset.notes == ("dropped 2 captions beyond the number per image in the published protocol",)


def test_a_file_by_itself_keeps_all_captions(tmp_path: Path):
    file = write(tmp_path, "annotations/captions_val2014.json", document(6, 5), "val2014")
    dataset = read_coco_captions(file)
    assert [len(medium.captions) for medium in dataset.media] == [6, 5]
    assert dataset.split_sizes == {"val": 2}
    assert dataset.media[0].path == tmp_path / "val2014" / "000000000000.jpg"
    assert dataset.notes == ()


@pytest.mark.parametrize("inner", ["", "annotations/"])
def test_a_file_without_images_serves_for_its_captions(tmp_path: Path, inner: str):
    file = write(tmp_path, f"{inner}captions_train2017.json", document(5))
    dataset = read_coco_captions(file)
    assert dataset.media[0].path == file.parent / "000000000000.jpg"
    assert dataset.split_sizes == {"train": 1}


def test_the_newest_year_with_images_is_read(tmp_path: Path):
    write(tmp_path, "annotations/captions_val2014.json", document(5), "val2014")
    write(tmp_path, "annotations/captions_val2017.json", document(5, 5))
    dataset = read_coco_captions(tmp_path)
    assert len(dataset.media) == 1
    assert dataset.notes == ("left out the files of 2017; those of 2014 were read",)
    (tmp_path / "val2017").mkdir()
    assert len(read_coco_captions(tmp_path).media) == 2


def test_images_without_captions_are_counted(tmp_path: Path):
    file = write(tmp_path, "captions_val2017.json", document(5, 0, 5))
    assert read_coco_captions(file).notes == ("left out 1 medium without any caption",)


def change(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["annotations"][3].update(values)


def change_image(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["images"][1].update(values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(image_id=7), r"annotations: no image has the id 7"),
        (change(image_id="0"), r"annotations\[3\]: 'image_id' should be a whole number, not the string '0'"),
        (change(caption=None), r"annotations\[3\]: 'caption' should be a string, not null"),
        (
            lambda c: c["annotations"][3].pop("caption"),
            r"annotations\[3\]: 'caption' is missing; found 'image_id', 'id'",
        ),
        (lambda c: c["annotations"].insert(3, []), r"annotations\[3\]: expected an object, not a list"),
        (change_image(id=0), r"images\[1\]: the id '0' is there already"),
        (change_image(file_name="../x.jpg"), r"images\[1\]: '../x.jpg' lies outside the data folder"),
        (change_image(file_name=5), r"images\[1\]: 'file_name' should be a file name, not the number 5"),
        (lambda c: c["images"][1].pop("id"), r"images\[1\]: 'id' is missing"),
        (lambda c: c.pop("annotations"), r"'annotations' is missing; found 'info', 'licenses', 'images'"),
        (lambda c: c.pop("images"), r"'images' is missing"),
        (lambda c: c.update(annotations=[]), r"no medium with a caption in it \(left out 2 media"),
    ],
)
def test_what_cannot_be_is_named_by_file_and_row(tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str):
    content = document(5, 5)
    edit(content)
    file = write(tmp_path, "captions_val2017.json", content)
    with pytest.raises(DataError, match=message) as caught:
        read_coco_captions(file)
    assert str(file) in str(caught.value)


def test_an_image_in_train_and_in_val(tmp_path: Path):
    write(tmp_path, "captions_train2017.json", document(5, 5), "train2017")
    write(tmp_path, "captions_val2017.json", document(5), "val2017")
    with pytest.raises(
        DataError, match=r"captions_val2017.json, images\[0\]: the id '0' is there already, in .*train2017"
    ):
        read_coco_captions(tmp_path)


def test_a_folder_without_images_or_without_files(tmp_path: Path):
    with pytest.raises(DataError, match=r"no captions_train2017.json, no captions_val2017.json, and none"):
        read_coco_captions(tmp_path)
    write(tmp_path, "captions_val2017.json", document(5))
    with pytest.raises(DataError, match=r"no folder of images: looked for val2017/ and images/val2017/"):
        read_coco_captions(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*captions_val2015.json"):
        read_coco_captions(tmp_path / "captions_val2015.json")
    (tmp_path / "captions_val2017.json").write_text("{")
    with pytest.raises(DataError, match=r"captions_val2017.json: broken JSON: .* at column 2"):
        read_coco_captions(tmp_path / "captions_val2017.json")


def test_it_is_recognised_by_name_or_by_its_beginning(tmp_path: Path):
    assert not looks_like_coco_captions(tmp_path)
    file = write(tmp_path, "annotations/captions_val2017.json", document(5))
    assert looks_like_coco_captions(tmp_path)
    assert looks_like_coco_captions(file.rename(tmp_path / "mine.json"))
    (tmp_path / "other.json").write_text('{"database": {}}')
    assert not looks_like_coco_captions(tmp_path / "other.json")


@pytest.mark.skipif(not REAL.is_file(), reason="COCO's captions are not at hand")
def test_cocos_own_validation_captions():
    start = time.perf_counter()
    dataset = read_coco_captions(REAL)
    assert time.perf_counter() - start < 3  # .2 s on an idle machine
    split = dataset.split("val")
    assert (split.num_media, split.num_captions) == (5_000, 25_014)
    assert split.media[0].id == "397133"


@pytest.mark.parametrize(
    ("name", "split"), [("my_val2014.json", "val"), ("contest2014.json", None), ("latest2014.json", None)]
)
def test_the_split_in_a_files_name_is_a_word_of_its_own(tmp_path: Path, name: str, split: str | None):
    dataset = read_coco_captions(write(tmp_path, name, document(1, 1, 1)))
    assert (split is None) == any("the data has no splits" in note for note in dataset.notes)
    assert split is None or dataset.split_names == (split,)
