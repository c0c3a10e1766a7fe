import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmts.data.batches.positives import positives
from mmts.data.pair_table import PairRow, PairTable, TableDataset, TableSplit, write_pair_table
from mmts.data.records import Dataset, Medium
from mmts.errors import DataError

# id, caption, file, split, member
PAIRS = [
    ("a", "a cat", "0.tar", "train", (512, 10)),
    ("b", "ein Hund 🐕", "0.tar", "val", (1024, 20)),
    ("c", "a cat", "1.tar", "train", (512, 30)),
    ("d", "a bird", "one/1.jpg", "train", None),
    ("שלום", "a cat", "one/2.jpg", "test", None),
]


def write(folder: Path, pairs: list = PAIRS, root: str = "/data") -> PairTable:
    write_pair_table(folder, Path(root), ("train", "val", "test"), pairs)
    return PairTable(folder)


def as_media(pairs: list = PAIRS, root: str = "/data") -> list[Medium]:
    return [
        Medium(identity, Path(root) / path, (caption,), split=split, member=member)
        for identity, caption, path, split, member in pairs
    ]


def dataset(table: PairTable) -> Dataset:
    return TableDataset("d", Path("/data"), Path("/data"), table.media_of(), table=table)


# --- columns ---------------------------------------------------------------------------------------------------------


def test_what_is_written_comes_back(tmp_path: Path):
    table = write(tmp_path / "t")
    assert len(table) == 5
    assert list(table.media_of()) == as_media()
    assert list(dataset(table).whole().captions) == [pair[1] for pair in PAIRS]
    assert dataset(table).split_sizes == {"train": 3, "val": 1, "test": 1}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.text("ab\0 é🐕")),
        max_size=40,
        unique_by=lambda pair: pair[0],
    )
)
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]):
    pairs = [(identity, caption, "x.tar", "train", (0, 1)) for identity, caption in texts]
    table = write(tmp_path_factory.mktemp("any") / "t", pairs)
    assert list(table.media_of()) == as_media(pairs)
    numbers = TableSplit("all", table, np.arange(len(table))).text.tolist() if pairs else []
    for one, first in zip(numbers, texts, strict=True):
        for other, second in zip(numbers, texts, strict=True):
            assert (one == other) == (first[1] == second[1])


def test_a_table_that_fails_leaves_nothing(tmp_path: Path):
    write(tmp_path / "t")

    def pairs() -> Iterator[PairRow]:
        yield "1", "x", "x", "train", None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pair_table(tmp_path / "t", Path("/data"), ("train",), pairs())
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_replaced_under_its_readers(tmp_path: Path):
    old = write(tmp_path / "t")
    new = write(tmp_path / "t", PAIRS[:1])
    assert (len(old), len(new)) == (5, 1)
    assert list(old.media_of()) == as_media()
    assert [each.name for each in tmp_path.iterdir()] == ["t"]


def test_a_worker_process_is_sent_the_folder_only(tmp_path: Path):
    table = write(tmp_path / "t")
    sent = pickle.dumps(table)
    assert len(sent) < 500
    assert list(pickle.loads(sent).media_of()) == as_media()


@pytest.mark.parametrize("name", ["table.json", "columns", "pairs.jsonl"])
def test_a_damaged_table_is_refused(tmp_path: Path, name: str):
    table = write(tmp_path / "t")
    file = table.folder / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"damaged.*remove it"):
        PairTable(table.folder)


def test_a_folder_without_a_table(tmp_path: Path):
    with pytest.raises(DataError, match="is damaged, or was written by another version"):
        PairTable(tmp_path)


def test_where_the_table_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write the index .*file/t: .*MMTS_CACHE names another folder"):
        write(tmp_path / "file" / "t")


def test_an_id_that_stands_twice_is_found(tmp_path: Path):
    twice = [*PAIRS, ("b", "x", "9.tar", "train", None)]
    with pytest.raises(DataError, match=r"/data/9\.tar: the id 'b' is there already, in /data/0\.tar"):
        write(tmp_path / "2", twice)
    assert list(tmp_path.iterdir()) == []


# --- the data set ----------------------------------------------------------------------------------------------------


def test_a_split_is_the_same_as_one_of_listed_media(tmp_path: Path):
    table = write(tmp_path / "t")
    listed = Dataset("d", Path("/data"), Path("/data"), as_media())
    ours = dataset(table)
    assert ours.split_sizes == listed.split_sizes
    assert ours.split_names == listed.split_names
    for here, there in ((ours.split("train"), listed.split("train")), (ours.whole(), listed.whole())):
        assert isinstance(here, TableSplit)
        assert repr(here) == repr(there)
        assert list(here.media) == list(there.media)
        assert list(here.captions) == list(there.captions)
        assert torch.equal(here.owner, there.owner)
        assert torch.equal(here.first, there.first)
        assert (here.text[:, None] == here.text).equal(there.text[:, None] == there.text)
        assert (here.name, here.graded, here.num_media, here.num_captions) == (
            there.name,
            there.graded,
            there.num_media,
            there.num_captions,
        )
        every = torch.arange(here.num_media)
        right = positives(here, every, every)
        expected = positives(there, every, every)
        assert right is not None
        assert expected is not None
        assert torch.equal(right.to_dense(), expected.to_dense())
    assert (ours.split("train").media_checked, listed.split("train").media_checked) == (True, False)


def test_sequences_take_slices_and_negative_positions(tmp_path: Path):
    captions = TableSplit("some", write(tmp_path / "t"), np.array([3, 1, 0])).captions
    assert list(captions[1:]) == ["ein Hund 🐕", "a cat"]
    assert captions[-1] == "a cat"
    assert "a bird" in captions
    with pytest.raises(IndexError):
        captions[3]


def test_without(tmp_path: Path):
    split = dataset(write(tmp_path / "t")).split("train")
    kept = split.without({1})
    assert [each.id for each in kept.media] == ["a", "d"]
    assert kept.owner.tolist() == [0, 1]
    assert split.without([]) is split
    with pytest.raises(DataError, match="nothing remains of split 'train'"):
        split.without([0, 1, 2])


def test_a_split_that_is_empty(tmp_path: Path):
    few = dataset(write(tmp_path / "t", PAIRS[:2]))
    with pytest.raises(DataError, match=r"nothing is in split 'test'; the splits are: train \(1 media\), val"):
        few.split("test")
    with pytest.raises(DataError, match="nothing is in split 'dev-2'"):
        few.split("dev-2")


def test_shard_sizes_are_runs_of_one_file(tmp_path: Path):
    split = dataset(write(tmp_path / "t")).whole()
    assert split.shard_sizes == [2, 1, 1, 1]
    assert split.without([0]).shard_sizes is None


def test_memory_stays_bounded(tmp_path: Path):
    N, files = 20_000, 10
    tracemalloc.start()
    try:
        pairs = (
            (f"{at:09d}", f"a caption of some length, number {at % 1000}", f"{shard:05d}.tar", "train", (at, 9))
            for shard in range(files)
            for at in range(shard * N // files, (shard + 1) * N // files)
        )
        write_pair_table(tmp_path / "t", Path("/data"), ("train", "val"), pairs)
        table = PairTable(tmp_path / "t")
        split = TableDataset("d", tmp_path, tmp_path, table.media_of(), table=table).split("train")
        assert split.text.unique().numel() == 1000
        assert sum(len(split.captions[at]) for at in range(0, N, 100)) > 0
        assert split.media[N - 1].id == "000019999"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Listed as Media they take over 600 bytes a pair; here it is a few arrays of 8 bytes, and the write buffer.
    assert peak < 100 * N
    on_disk = sum(file.stat().st_size for file in (tmp_path / "t").iterdir())
    assert on_disk < 110 * N
