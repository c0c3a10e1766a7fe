import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmts.data.batches.epoch_plan import process_slice, stream_order
from mmts.errors import InputError

sizes_of_shards = st.lists(st.integers(0, 12), max_size=8)


@given(sizes_of_shards, st.integers(0, 5), st.integers(0, 5), st.integers(1, 60))
def test_every_sample_comes_once(shard_sizes: list[int], seed: int, epoch: int, buffer: int):
    order = stream_order(shard_sizes, seed, epoch, buffer)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(sum(shard_sizes)))
    assert order.tolist() == stream_order(np.array(shard_sizes, dtype=np.int64), seed, epoch, buffer).tolist()


def drawn_whole(shard_sizes: list[int], seed: int, epoch: int, buffer: int) -> list[int]:
    """The order as its definition says, with one random number after the other for all samples."""
    rng, N = np.random.default_rng([seed, epoch, 2**32 - 1]), sum(shard_sizes)
    if buffer >= N:
        return rng.permutation(N).tolist()
    samples = [range(sum(shard_sizes[:at]), sum(shard_sizes[: at + 1])) for at in range(len(shard_sizes))]
    in_line = [sample for at in rng.permutation(len(shard_sizes)).tolist() for sample in samples[at]]
    time = [place + buffer * rng.random() for place in range(N)]
    return [in_line[place] for place in sorted(range(N), key=lambda place: time[place])]


@given(sizes_of_shards, st.integers(0, 5), st.integers(1, 60), st.data())
def test_any_part_equals_that_of_the_order_drawn_whole(shard_sizes: list[int], seed: int, buffer: int, data):
    whole = drawn_whole(shard_sizes, seed, 3, buffer)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    assert stream_order(shard_sizes, seed, 3, buffer, start, stop).tolist() == whole[start:stop]


@given(st.integers(1, 200), st.integers(0, 5), st.integers(1, 220))
def test_a_sample_moves_by_less_than_the_buffer_and_few_wait(N: int, seed: int, buffer: int):
    order = stream_order([N], seed, 0, buffer)
    assert np.abs(order - np.arange(N)).max() < buffer
    # A reader in file order has read up to the furthest sample asked for so far; the rest of those wait.
    waiting = np.maximum.accumulate(order) + 1 - np.arange(N)
    assert waiting.max() <= buffer


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 20))
def test_a_buffer_of_one_keeps_each_shards_order(shard_sizes: list[int], seed: int):
    order = stream_order(shard_sizes, seed, 0, 1)
    steps = np.diff(order)
    # One jump for every change of shard at most, everywhere else the next sample of the file.
    assert (steps != 1).sum() <= len(shard_sizes) - 1
    starts = {0, *np.cumsum(shard_sizes).tolist()}
    assert all(order[at + 1] in starts for at in np.flatnonzero(steps != 1))


def test_shards_far_apart_do_not_mix():
    order = stream_order([1000] * 10, seed=1, epoch=0, buffer=50)
    shard = order // 1000
    # Runs of one shard, but for the places where one ends and the next begins.
    pure = [len(set(shard[at * 1000 + 100 : at * 1000 + 900].tolist())) for at in range(10)]
    assert pure == [1] * 10
    assert shard[::1000].tolist() != sorted(shard[::1000].tolist())


def test_batches_mix_the_shards_that_a_buffer_spans():
    shard = stream_order([100] * 100, seed=0, epoch=0, buffer=2000) // 100
    mixed = [len(np.unique(shard[at : at + 200])) for at in range(0, 10_000, 200)]
    # Without a buffer there would be 2 or 3 shards in 200 samples; a buffer of 2,000 reaches 20 of them.
    assert min(mixed[5:-5]) >= 12  # at both ends of an epoch the buffer reaches half as far
    together = [set(shard[:1000].tolist())]
    together += [set((stream_order([100] * 100, 0, epoch, 2000)[:1000] // 100).tolist()) for epoch in (1, 2)]
    assert len(together[0] & together[1] & together[2]) < 15  # other shards meet in every epoch


def test_epochs_and_seeds_differ():
    orders = [stream_order([50, 50], seed, epoch, 20).tolist() for seed in range(2) for epoch in range(2)]
    assert len({tuple(order) for order in orders}) == 4


def test_a_buffer_of_everything_gives_every_order_the_same_chance():
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(1200):
        order = tuple(stream_order([2, 1], seed, 0, 3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 150


@given(st.integers(1, 300), st.integers(1, 40))
def test_the_parts_of_all_processes_are_the_batch(batch_size: int, num_processes: int):
    if batch_size < num_processes:
        with pytest.raises(InputError, match="cannot be split"):
            process_slice(batch_size, 0, num_processes)
        return
    batch = list(range(batch_size))
    parts = [batch[process_slice(batch_size, process, num_processes)] for process in range(num_processes)]
    assert [each for part in parts for each in part] == batch
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
