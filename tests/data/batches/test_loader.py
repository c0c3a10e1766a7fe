import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import csr_matrix
from tests_support import draw_shapes
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from mmts.data.batches.epoch_plan import EpochPlan, stream_order
from mmts.data.batches.loader import Batch, FeatureRows, Pixels, make_loader
from mmts.data.batches.positives import positives
from mmts.data.graded import CaptionPool, Graded
from mmts.data.media.image import Augmentation
from mmts.data.media.load import load_medium
from mmts.data.read import read_dataset
from mmts.data.records import Medium, Split
from mmts.errors import DataError, WorkersLost
from mmts.losses.queries import query_rows
from mmts.models import load_image_tower


def split_of(captions: list[list[str]]) -> Split:
    return Split("train", [Medium(str(at), Path(f"{at}.png"), tuple(texts)) for at, texts in enumerate(captions)])


def plan_of(split: Split, batch_size: int, seed: int = 0) -> EpochPlan:
    return EpochPlan(split.owner, split.num_media, batch_size, seed)


def equal(first: Batch, second: Batch) -> bool:
    pairs = [(first.media, second.media), (first.text, second.text), (first.index, second.index)]
    pairs += [(first.media_index, second.media_index)]
    same = (first.positives is None) == (second.positives is None)
    if first.positives is not None and second.positives is not None:
        pairs.append((first.positives.to_dense(), second.positives.to_dense()))
    return same and all(torch.equal(a, b) for a, b in pairs)


# --- the plan --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.integers(1, 40), st.integers(0, 3))
def test_every_medium_comes_at_most_once_with_a_caption_of_its_own(counts: list[int], batch_size: int, epoch: int):
    split = split_of([["x"] * count for count in counts])
    plan = plan_of(split, batch_size)
    batches = plan.batches(epoch)
    assert len(batches) == plan.batches_per_epoch == len(counts) // min(batch_size, len(counts)) >= 1
    media, index, text = (torch.cat([getattr(each, name) for each in batches]) for name in ("media", "index", "text"))
    assert all(len(each.index) == min(batch_size, len(counts)) for each in batches)
    assert torch.equal(text, index)
    assert len(set(media.tolist())) == len(media)
    assert torch.equal(split.owner[index], media)


def pairs_of(split: Split, epoch: int, seed: int = 0) -> Tensor:
    """Media and captions of an epoch, (2, pairs)."""
    return torch.cat([torch.stack([each.media, each.index]) for each in plan_of(split, 8, seed).batches(epoch)], 1)


def test_epochs_differ_and_repeat():
    split = split_of([["a", "b", "c"]] * 50)
    epochs = [pairs_of(split, epoch) for epoch in (0, 1)]
    again = pairs_of(split, 1)
    other_seed = pairs_of(split, 1, seed=1)
    assert torch.equal(epochs[1], again)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], other_seed)


def test_every_caption_is_drawn_about_equally_often():
    split = split_of([["a", "b", "c"], ["d"]])
    drawn = torch.cat([pairs.index for epoch in range(600) for pairs in plan_of(split, 2).batches(epoch)])
    counts = torch.bincount(drawn)
    assert counts[3] == 600
    assert all(150 < count < 250 for count in counts[:3])


def test_captions_of_one_medium_need_not_stand_together():
    plan = EpochPlan(torch.tensor([1, 0, 1]), num_media=2, batch_size=2, seed=0)
    for epoch in range(20):
        (pairs,) = plan.batches(epoch)
        media, index = pairs.media, pairs.index
        assert torch.equal(torch.tensor([1, 0, 1])[index], media)


# --- positives -------------------------------------------------------------------------------------------------------


def slow_positives(split: Split, media: list[int], index: list[int]) -> list[list[bool]]:
    def is_right(i: int, j: int) -> bool:
        return media[i] == media[j] or split.captions[index[j]] in split.media[media[i]].captions

    B = range(len(media))
    return [[is_right(i, j) or is_right(j, i) for j in B] for i in B]


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4), min_size=1, max_size=12), st.data())
def test_positives_equal_the_double_loop(captions: list[list[str]], data: st.DataObject):
    split = split_of(captions)
    index = data.draw(st.lists(st.integers(0, split.num_captions - 1), min_size=1, max_size=12))
    media = split.owner[index].tolist()
    expected = slow_positives(split, media, index)
    found = positives(split, torch.tensor(media), torch.tensor(index))
    if found is None:
        assert expected == torch.eye(len(index), dtype=torch.bool).tolist()
    else:
        assert found.dtype == torch.bool
        assert found.to_dense().tolist() == found.to_dense().T.tolist() == expected


def test_few_positives_are_sparse_and_the_same() -> None:
    captions = [["same"], ["same", "b0"], *([f"c{i}"] for i in range(198))]
    split, every = split_of(captions), torch.arange(200)
    index = torch.cat([torch.tensor([0, 1]), torch.arange(3, 201)])
    found = positives(split, every, index)
    assert found is not None
    assert found.is_sparse
    assert found.is_coalesced()
    assert found.indices()[0].is_contiguous()
    assert found.to_dense().tolist() == slow_positives(split, every.tolist(), index.tolist())


def test_only_the_diagonal_is_none():
    split = split_of([["a"], ["b", "b"], ["c"]])
    assert positives(split, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3])) is None


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Split:
    media = []
    for at in range(23):
        noise = np.random.default_rng(at).integers(0, 256, (20, 16, 3), dtype=np.uint8)
        path = tmp_path / f"{at}.png"
        Image.fromarray(noise).save(path)
        media.append(Medium(str(at), path, (f"caption {at % 5}", f"other {at}")))
    return Split("train", media)


def images_of(split: Split) -> Pixels:
    return Pixels(split.media, 8, augmentation=Augmentation(), seed=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_is_the_tail_of_the_whole_one(pictures: Split, workers: int):
    plan, text = plan_of(pictures, 4), FeatureRows(np.arange(46, dtype=np.float32)[:, None])
    whole = list(make_loader(pictures, plan, images_of(pictures), text, epoch=2))
    assert len(whole) == 5
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    tail = list(make_loader(pictures, plan, images_of(pictures), text, epoch=2, first_batch=3, workers=workers))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(tail) == 2
    assert all(equal(a, b) for a, b in zip(whole[3:], tail, strict=True))
    assert list(make_loader(pictures, plan, images_of(pictures), text, epoch=2, first_batch=5, workers=workers)) == []


def test_the_same_image_is_changed_differently_in_every_epoch(pictures: Split):
    images = images_of(pictures)
    assert torch.equal(images([4], 0), images([4], 0))
    assert torch.equal(images([3, 4], 0)[1], images([4], 0)[0])
    assert not torch.equal(images([4], 0), images([4], 1))


def lengths(split: Split) -> Callable[[list[int]], dict[str, Tensor]]:
    """A tokenizer that knows only how long a caption is."""
    return lambda positions: {"length": torch.tensor([len(split.captions[at]) for at in positions])}


def test_a_batch_holds_what_belongs_together():
    split = split_of([["a", "bb"], ["ccc"], ["dddd"]])
    rows = np.arange(3, dtype=np.float32)[:, None].repeat(2, axis=1)
    (batch,) = make_loader(split, plan_of(split, 8), FeatureRows(rows), lengths(split), epoch=0)
    assert len(batch) == 3
    assert torch.equal(batch.media[:, 0].long(), batch.media_index)
    assert isinstance(batch.text, dict)
    assert torch.equal(batch.text["length"], batch.index + 1)
    assert torch.equal(split.owner[batch.index], batch.media_index)
    assert batch.positives is None
    moved = batch.to("meta")
    assert {moved.media.device.type, moved.text["length"].device.type, moved.index.device.type} == {"meta"}


def test_the_positives_of_a_batch():
    split = split_of([["a"], ["a"], ["b"]])
    rows = FeatureRows(np.zeros((3, 1), np.float32))
    (batch,) = make_loader(split, plan_of(split, 3), rows, rows, epoch=0)
    assert batch.positives is not None
    assert batch.positives.to_dense().sum() == 5
    assert batch.to("meta").positives.device.type == "meta"


def test_rows_from_a_memory_mapped_file(tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", values)
    rows = FeatureRows(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    taken = rows([7, 2])
    assert torch.equal(taken, torch.from_numpy(values[[7, 2]]))
    taken += 1  # a copy: the file is not touched
    assert torch.equal(rows([7, 2]), torch.from_numpy(values[[7, 2]]))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_gone_is_named_in_one_line(pictures: Split, workers: int):
    pictures.media[5].path.unlink()
    rows = FeatureRows(np.zeros((46, 1), np.float32))
    with pytest.raises(DataError, match=r"^[^\n]*5.png: does not exist$"):
        list(make_loader(pictures, plan_of(pictures, 23), images_of(pictures), rows, epoch=0, workers=workers))


def test_captions_may_be_drawn_from_media_that_fit() -> None:
    split = split_of([["a"], ["b"], ["c"], ["d"]])
    # Media 0 and 1 draw from each other, 2 and 3 only from 3.
    pool = CaptionPool(key=np.array([0, 0, 1, 1]), starts=np.array([0, 2, 3]), positions=np.array([0, 1, 3]))
    plan = EpochPlan(split.owner, 4, 4, seed=0, pool=pool)
    drawn: dict[int, set[int]] = {medium: set() for medium in range(4)}
    for epoch in range(40):
        (pairs,) = plan.batches(epoch)
        assert torch.equal(pairs.index, split.first[pairs.media])  # what is known of a pair stays its own
        for medium, text in zip(pairs.media.tolist(), pairs.text.tolist(), strict=True):
            drawn[medium].add(text)
    assert drawn == {0: {0, 1}, 1: {0, 1}, 2: {3}, 3: {3}}


@pytest.mark.parametrize("in_shards", [False, True])
@pytest.mark.parametrize("each", [1, 3])
def test_an_epoch_drawn_in_pieces_from_any_place_is_the_epoch_drawn_at_once(in_shards: bool, each: int) -> None:
    order = (lambda epoch, *part: stream_order([30, 20, 50], 0, epoch, 7, *part)) if in_shards else None
    owner = torch.arange(100).repeat_interleave(each)
    pool = CaptionPool(key=np.arange(100) % 2, starts=np.array([0, 50, 100]), positions=np.arange(100))
    whole = EpochPlan(owner, 100, 9, seed=1, order=order, pool=pool, at_once=1000).batches(4)
    # With one caption each, the plan needs no table of them.
    plan = EpochPlan(owner if each > 1 else None, 100, 9, seed=1, order=order, pool=pool, at_once=20)
    pieces = plan.batches(4)
    for at in [7, 0, 10, 3, 4, 5]:
        for name in ("media", "index", "text", "copy"):
            assert torch.equal(getattr(pieces[at], name), getattr(whole[at], name))
    assert len({media for batch in pieces for media in batch.media.tolist()}) == 99


def test_media_come_in_the_order_given() -> None:
    split = split_of([["a", "b"]] * 6)
    plan = EpochPlan(
        split.owner, 6, 4, seed=0, order=lambda epoch, start, stop: np.roll(np.arange(6), epoch)[start:stop]
    )
    assert [pairs.media.tolist() for pairs in plan.batches(2)] == [[4, 5, 0, 1]]


def test_processes_share_every_batch_without_overlap_or_loss() -> None:
    split = split_of([[f"{i}"] for i in range(23)])
    plan = plan_of(split, 10)
    rows = FeatureRows(np.arange(23, dtype=np.float32)[:, None])
    whole = list(make_loader(split, plan, rows, rows, epoch=1))
    parts = [list(make_loader(split, plan, rows, rows, epoch=1, process=(k, 3))) for k in range(3)]
    for at, batch in enumerate(whole):
        assert [len(part[at].media) for part in parts] == [3, 3, 4]
        assert torch.equal(torch.cat([part[at].media for part in parts]), batch.media)
        assert torch.equal(torch.cat([part[at].text for part in parts]), batch.text)
        assert all(torch.equal(part[at].index, batch.index) for part in parts)  # an objective is told of all pairs
        assert all(torch.equal(part[at].media_index, batch.media_index) for part in parts)


def test_media_that_drew_the_same_caption_are_positives_of_each_other() -> None:
    split = split_of([["slice onion"], ["chop onion"], ["cut onion"]])
    right = positives(split, torch.tensor([0, 1]), torch.tensor([2, 2]))
    other = positives(split, torch.tensor([0, 1]), torch.tensor([2, 0]))
    for each in (right, other):
        assert each is not None
        assert each.to_dense().all()
    assert positives(split, torch.tensor([0, 2]), torch.tensor([1, 2])) is None


def test_pixels_travel_as_bytes_and_lose_nothing(tmp_path: Path) -> None:
    draw_shapes(tmp_path, 4)
    media = read_dataset(tmp_path).whole().media
    as_bytes = Pixels(media, 16, augmentation=Augmentation(), seed=3)([0, 1, 2, 3], epoch=5)
    rngs = [np.random.default_rng([3, 5, at]) for at in range(4)]
    exact = torch.stack([load_medium(media[at], 16, "stretch", None, Augmentation(), rngs[at]) for at in range(4)])
    assert as_bytes.dtype == torch.uint8
    assert torch.equal(as_bytes.float() / 255, exact)
    tower = load_image_tower("small-vit", size=16, patch=8, width=8, depth=1, heads=1)
    assert torch.equal(tower(as_bytes), tower(exact))


def test_relevance_is_worked_out_only_where_it_is_asked_for() -> None:
    verbs, nouns = csr_matrix(np.array([[1, 0], [1, 0], [0, 1]])), csr_matrix(np.array([[1, 0], [0, 1], [1, 0]]))
    graded = Graded(("a", "b", "c"), torch.arange(3), (verbs, nouns))
    plain = split_of([["a"], ["b"], ["c"]])
    split = Split("train", plain.media, graded)
    rows = FeatureRows(np.zeros((3, 2), dtype=np.float32))
    (silent,) = make_loader(split, plan_of(split, 3), rows, rows, epoch=0)
    assert silent.relevance is None
    (batch,) = make_loader(split, plan_of(split, 3), rows, rows, epoch=0, with_relevance=True)
    expected = graded.relevance()[batch.media_index][:, batch.index]
    torch.testing.assert_close(batch.relevance, expected.float())
    for number, own in ((0, slice(0, 1)), (1, slice(1, 3))):
        (share,) = make_loader(split, plan_of(split, 3), rows, rows, epoch=0, process=(number, 2), with_relevance=True)
        assert share.relevance is not None
        for found, wanted in zip(share.relevance, query_rows(expected, own), strict=False):
            torch.testing.assert_close(found, wanted.float())


# --- processes that are killed ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deadly:
    """Gives rows, and kills the process that is to give row 11 as often as there are marks left."""

    marks: Path

    def __call__(self, positions: list[int], epoch: int, copies: list[int]) -> Tensor:
        mark = next(self.marks.glob("*"), None)
        if 11 in positions and mark is not None:
            mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(positions)[:, None] + torch.zeros(3)


@pytest.fixture
def quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch look after its processes every .1 seconds, not every 5."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))


def deadly_batches(folder: Path, marks: int) -> Iterator[Batch]:
    folder.mkdir()
    for number in range(marks):
        (folder / str(number)).touch()
    split = split_of([["x"]] * 40)
    text = FeatureRows(np.zeros((40, 2), np.float32))
    return make_loader(split, plan_of(split, 10), Deadly(folder), text, epoch=0, workers=2)


def test_a_killed_process_is_started_anew_and_nothing_is_lost(
    tmp_path: Path, quick_look: None, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    whole = list(deadly_batches(tmp_path / "whole", 0))
    assert all(map(equal, whole, deadly_batches(tmp_path / "killed", 1)))
    assert "was killed (out of memory?)" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_a_process_killed_at_the_same_place_again_is_an_error(tmp_path: Path, quick_look: None) -> None:
    with pytest.raises(WorkersLost, match=r"killed twice at the same place .* fewer data\.workers"):
        list(deadly_batches(tmp_path / "killed", 2))
