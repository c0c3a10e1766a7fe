from pathlib import Path

import pytest
import torch

from mmts.data.records import Dataset, Medium, Split, split_name
from mmts.errors import DataError, InputError


def medium(identity: str, *captions: str, split: str = "train") -> Medium:
    return Medium(identity, Path(f"{identity}.jpg"), captions, split=split)


def test_a_split_is_flat_tables_in_file_order():
    split = Split("train", [medium("a", "x", "y"), medium("b", "x"), medium("c", "z", "z", "y")])
    assert split.captions == ["x", "y", "x", "z", "z", "y"]
    assert split.owner.tolist() == [0, 0, 1, 2, 2, 2]
    assert split.first.tolist() == [0, 2, 3]
    assert split.text.tolist() == [0, 1, 0, 2, 2, 1]
    assert split.owner.dtype == split.first.dtype == split.text.dtype == torch.int64
    assert (split.num_media, split.num_captions) == (3, 6)


def test_without_keeps_the_order_of_the_rest():
    split = Split("train", [medium("a", "x", "y"), medium("b", "x"), medium("c", "z")])
    kept = split.without([1])
    assert [each.id for each in kept.media] == ["a", "c"]
    assert kept.captions == ["x", "y", "z"]
    assert kept.owner.tolist() == [0, 0, 1]
    assert split.without({}) is split


def test_without_refuses_everything_and_unknown_positions():
    split = Split("test", [medium("a", "x")])
    with pytest.raises(DataError, match="nothing remains of split 'test'"):
        split.without([0])


def test_a_medium_in_a_split_needs_a_caption():
    with pytest.raises(InputError, match="medium 'b' has no caption"):
        Split("train", [medium("a", "x"), medium("b")])
    with pytest.raises(InputError, match="at least one medium"):
        Split("train", [])


def test_an_empty_split_is_an_error_that_lists_the_others():
    media = (medium("a", "x", split="restval"), medium("b", "x", split="test"), medium("c", "y", split="train"))
    dataset = Dataset("d", Path("/d"), Path("/d"), media)
    assert dataset.split_names == ("train", "test", "restval")
    assert dataset.split("restval").captions == ["x"]
    with pytest.raises(
        DataError, match=r"nothing is in split 'val'; the splits are: train \(1 media\), test \(1 media\), restval"
    ):
        dataset.split("validation")


@pytest.mark.parametrize("written", ["validation", "valid", "dev", "val", "Validation", "VAL"])
def test_names_of_val(written: str):
    assert split_name(written) == "val"


def dataset(**sizes: int) -> Dataset:
    media = [medium(f"{split}{at}", "x", split=split) for split, size in sizes.items() for at in range(size)]
    return Dataset("d", Path("/d"), Path("/d"), tuple(media), missing={"train2014": ("gone",)})


def test_splits_get_our_names():
    renamed = dataset(train2014=2, val2014=1, other=1).with_splits({"train": "train2014", "val": "val2014"})
    assert renamed.split_sizes == {"train": 2, "val": 1, "other": 1}
    assert renamed.missing == {"train": ("gone",)}
    assert renamed.split("train2014").name == "train"  # the data's own name means it still
    assert renamed.split("OTHER").name == "other"
    assert renamed.notes == ()


def test_splits_can_change_places_and_a_name_that_is_taken_is_said():
    both = dataset(train=2, val=1, test=3)
    assert both.with_splits({"val": "test", "test": "val"}).split_sizes == {"train": 2, "val": 3, "test": 1}
    judged = both.with_splits({"test": "validation"})
    assert judged.split_sizes == {"train": 2, "test": 1, "own test": 3}
    assert judged.notes[0].startswith("data.splits uses 'validation' as test; the data's own test (3 media) is called")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"train": "train2041"}, r"data\.splits\.train: /d has no split 'train2041'; did you mean 'train2014'\?"),
        ({"val": "train2014", "test": "Train2014"}, r"data\.splits: 'Train2014' cannot be both val and test"),
    ],
)
def test_names_of_splits_that_cannot_be(wanted: dict[str, str], message: str):
    with pytest.raises(DataError, match=message):
        dataset(train2014=2, val2014=1).with_splits(wanted)


def test_a_split_that_is_not_there_says_how_to_name_it():
    with pytest.raises(DataError, match=r"split 'test'.* --set data\.splits\.test=val2014; .* --split val2014"):
        dataset(train2014=2, val2014=1).split("test")
