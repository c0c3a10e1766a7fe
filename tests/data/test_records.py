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
    with pytest.raises(InputError, match="no position -1"):
        split.without([-1])


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
