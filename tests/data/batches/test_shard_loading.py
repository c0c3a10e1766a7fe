"""Training batches from shards: seeded order, exact resume, and parts for processes without overlap or loss."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import draw_shards

from mmts.data.batches.epoch_plan import EpochPlan, stream_order
from mmts.data.batches.loader import Batch, Pixels, make_loader
from mmts.data.formats.shards import read_shards
from mmts.data.records import Split

SEED, BUFFER, BATCH = 3, 4, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def split(folder: Path) -> Split:
    return read_shards(folder).whole()


def in_shard_order(sizes: list[int], epoch: int, *part: int) -> np.ndarray:
    return stream_order(sizes, SEED, epoch, BUFFER, *part)


def batches(split: Split, epoch: int = 0, first: int = 0, workers: int = 0, process: tuple = (0, 1)) -> list[Batch]:
    order = partial(in_shard_order, split.shard_sizes)
    plan = EpochPlan(split.owner, split.num_media, BATCH, SEED, order=order)

    def tokens(positions: list[int]) -> dict[str, torch.Tensor]:
        return {"length": torch.tensor([len(split.captions[at]) for at in positions])}

    return list(make_loader(split, plan, Pixels(split.media, 8), tokens, epoch, first, workers, process))


def index_of(parts: list[Batch]) -> list[int]:
    return torch.cat([part.index for part in parts]).tolist()


def test_every_pair_comes_once_with_its_own_caption(split: Split):
    whole = batches(split)
    assert len(whole) == 31 // BATCH
    seen = index_of(whole)
    assert len(set(seen)) == len(seen) == 30
    assert seen != index_of(batches(split, epoch=1))
    lengths = [len(split.captions[at]) for at in seen]
    assert torch.cat([batch.text["length"] for batch in whole]).tolist() == lengths


def test_reading_stays_near_the_order_of_the_file(split: Split):
    order = in_shard_order(list(split.shard_sizes or ()), 0).tolist()
    files = [split.media[at].path.name for at in order]
    assert sorted(order) == list(range(31))
    # Where one shard's middle is read, no other is.
    place = 0
    for size in (files.count(name) for name in dict.fromkeys(files)):
        assert len(set(files[place + BUFFER : place + size - BUFFER])) <= 1
        place += size


def test_resuming_and_worker_processes_change_nothing(split: Split):
    whole = batches(split, epoch=2)
    for other in (batches(split, epoch=2, first=3), batches(split, epoch=2, first=3, workers=2)):
        assert index_of(other) == index_of(whole[3:])
        for one, two in zip(other, whole[3:], strict=True):
            assert torch.equal(one.media, two.media)


def test_processes_share_a_batch_without_overlap_or_loss(split: Split):
    whole = batches(split)
    parts = [batches(split, process=(process, 2)) for process in range(2)]
    for together, first, second in zip(whole, *parts, strict=True):
        assert (len(first.media), len(second.media)) == (2, 3)
        assert torch.equal(torch.cat([first.media, second.media]), together.media)
        assert torch.equal(first.index, together.index)
