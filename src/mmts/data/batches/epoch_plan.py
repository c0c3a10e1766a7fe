"""The order of media and the caption drawn for each of them in every epoch, and which process takes which pairs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.batches.sampling import Sampling, copy_numbers, draw_counts, repeated, super_batch_size
from mmts.data.graded import CaptionPool
from mmts.data.pair_table import LazySequence
from mmts.errors import InputError

Indices = npt.NDArray[np.int64]
Order = Callable[[int, int, int], Indices]
"""(epoch, start, stop) -> the media at the places from start to stop - 1 of that epoch"""
# Keep the random numbers of `stream_order` and of sampling apart from those for a medium, [seed, epoch, position].
_STREAM = 2**32 - 1
_SAMPLING = 2**32 - 2


@dataclass(frozen=True)
class Positions:
    """The positions in the split of the B pairs of a batch, each (B,) int64.

    `text` are the captions shown; they differ from those of `index` only if they are drawn from another medium (see
    `CaptionPool`), and a pair's concept is that of `index`. `copy` is how often the medium came before in the epoch.
    """

    media: Tensor
    index: Tensor
    text: Tensor
    copy: Tensor


class EpochPlan:
    """The batches of every epoch; they depend on (seed, epoch) alone, and are drawn when they are used.

    An epoch has every medium once, with one of its captions drawn at random; `sampling` may draw other numbers of them.
    An incomplete last batch is dropped. If the batch size is larger than the split, an epoch is one batch.

    >>> plan = EpochPlan(torch.tensor([0, 0, 1, 2]), num_media=3, batch_size=2, seed=0)
    >>> [(batch.media.tolist(), batch.index.tolist()) for batch in plan.batches(epoch=0)]
    [([2, 0], [3, 0])]
    """

    def __init__(
        self,
        owner: Tensor | None,
        num_media: int,
        batch_size: int,
        seed: int,
        *,
        order: Order | None = None,
        at_once: int = 65_536,
        pool: CaptionPool | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """Plan with the options of a recipe, which are checked there.

        Args:
            owner: (N,) int64, the medium of each caption; every medium has one. None if caption i is that of medium i.
            order: the media in the order of an epoch; None for a uniformly random order.
            at_once: places of an epoch that are drawn at a time.
            pool: the media whose captions may be drawn for each medium, without weights; None for its own captions.
            sampling: how often media come, in proportion to the mean of their captions' weights, and captions.
        """
        self.batch_size, self.at_once = min(batch_size, num_media), at_once
        self.num_media, self.seed, self.order, self.pool, self.sampling = num_media, seed, order, pool, sampling
        self._captions: Indices | None = None
        self._media_weights = None if sampling is None else sampling.weights
        if owner is None:
            return
        owners: Indices = owner.numpy().astype(np.int64)
        self._counts = np.bincount(owners, minlength=num_media)
        self._captions = np.argsort(owners, kind="stable")
        self._starts = np.cumsum(self._counts) - self._counts
        if sampling is not None:
            self._media_weights = np.bincount(owners, sampling.weights, num_media) / self._counts
            self._edges = np.concatenate([[0], np.cumsum(sampling.weights[self._captions])])

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches per epoch."""
        return self.num_media // self.batch_size

    def batches(self, epoch: int) -> Sequence[Positions]:
        """Return the batches of an epoch, drawn `at_once` places at a time; with `sampling` all are drawn now."""
        B, number = self.batch_size, self.batches_per_epoch
        together = max(1, self.at_once // B)
        is_sampled = self.sampling is not None and self.sampling.applies(epoch, number)
        source = self._sampled(epoch) if is_sampled else _Pass(self, epoch)

        @lru_cache(maxsize=2)  # decoding ahead may be in the next one
        def drawn(start: int) -> Tensor:
            first, last = start * B, min(start + together, number) * B
            return torch.from_numpy(source.draw(first, last) if isinstance(source, _Pass) else source[:, first:last])

        def batch(at: int) -> Positions:
            place = at % together
            return Positions(*drawn(at - place)[:, place * B : (place + 1) * B])

        return LazySequence(batch, range(number))

    def _sampled(self, epoch: int) -> Indices:
        """Return the positions (4, M) of an epoch whose media are drawn by weight."""
        M, B, sampling = self.num_media, self.batch_size, self.sampling
        assert sampling is not None
        if sampling.cabs is None:
            drawn = self._by_weight(epoch)
        else:
            size = super_batch_size(B, sampling.cabs.filter, M)
            wanted = self.batches_per_epoch * size
            passes = math.ceil(wanted / M)
            parts = [self._by_weight(at) for at in range(epoch * passes, (epoch + 1) * passes)]
            drawn = np.concatenate(parts, axis=1)[:, :wanted]
            drawn = drawn[:, sampling.cabs.choose(drawn[1], size, B)]
        drawn[3] = copy_numbers(drawn[0])
        return drawn

    def _by_weight(self, number: int) -> Indices:
        one, M = _Pass(self, number), self.num_media
        assert self._media_weights is not None
        counts = draw_counts(self._media_weights, np.random.default_rng([self.seed, number, _SAMPLING]))
        return one.draw(0, M, repeated(one.media(0, M), counts))

    def caption(self, media: Indices, uniform: npt.NDArray[np.float64], by_weight: bool = False) -> Indices:
        """Return one caption of each medium (n,), drawn by numbers in [0, 1), (n,)."""
        if self._captions is None:
            return media
        first, counts = self._starts[media], self._counts[media]
        if by_weight:
            low, high = self._edges[first], self._edges[first + counts]
            drawn = np.searchsorted(self._edges, low + uniform * (high - low), side="right") - 1 - first
            drawn = np.clip(drawn, 0, counts - 1)  # a rounded sum may reach the next medium
        else:
            drawn = (uniform * counts).astype(np.int64)
        captions: Indices = self._captions[first + drawn]
        return captions


class _Pass:
    """One pass through the data, of which any places can be drawn without those before them."""

    def __init__(self, plan: EpochPlan, number: int) -> None:
        self._plan, self._number = plan, number
        self._bits = np.random.PCG64([plan.seed, number])
        self._random = np.random.Generator(self._bits)
        if plan.order is None:
            kind = np.int32 if plan.num_media < 2**31 else np.int64
            self._shuffled = self._random.permutation(np.arange(plan.num_media, dtype=kind))
        self._state = self._bits.state

    def media(self, start: int, stop: int) -> Indices:
        if self._plan.order is not None:
            return self._plan.order(self._number, start, stop)
        return self._shuffled[start:stop].astype(np.int64)

    def draw(self, start: int, stop: int, sampled: Indices | None = None) -> Indices:
        """Return the positions (4, n) of these places: media, or those `sampled` by weight, pairs, captions and 0."""
        plan = self._plan
        media = self.media(start, stop) if sampled is None else sampled

        def uniform(which: int) -> npt.NDArray[np.float64]:
            self._bits.state = self._state
            self._bits.advance(which * plan.num_media + start)  # a number takes one step, and each pass M numbers
            return self._random.random(stop - start)

        index = plan.caption(media, uniform(0), by_weight=sampled is not None)
        text = index if plan.pool is None else plan.caption(plan.pool.draw(media, uniform(1)), uniform(2))
        return np.stack([media, index, text, np.zeros_like(media)])


def stream_order(
    shard_sizes: Sequence[int] | Indices, seed: int, epoch: int, buffer: int, start: int = 0, stop: int | None = None
) -> Indices:
    """Return places start to stop - 1 of N positions in a random order that a shuffle buffer could produce.

    The shards, with `shard_sizes` consecutive positions each, come in random order. Then the sample at place p gets the
    rank of p + buffer * u, u uniform in [0, 1), so it moves by less than `buffer` places. With buffer >= N all orders
    are equally likely. Memory is that of the buffer and the places asked for (default: all).

    Every (seed, epoch) has another order.

    >>> stream_order([3, 2, 4], seed=0, epoch=0, buffer=1).tolist()
    [3, 4, 5, 6, 7, 8, 0, 1, 2]
    >>> stream_order([3, 2, 4], seed=0, epoch=0, buffer=1, start=4, stop=7).tolist()
    [7, 8, 0]
    """
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    bits = np.random.PCG64([seed, epoch, _STREAM])
    rng, N = np.random.Generator(bits), int(sizes.sum())
    stop = N if stop is None else stop
    if buffer >= N:
        return rng.permutation(N)[start:stop]
    shards = rng.permutation(len(sizes))
    # Samples before low come before place start, and those from high on after place stop.
    low, high = max(0, start - buffer), min(N, stop + buffer)
    bits.advance(low)
    time = np.arange(low, high) + buffer * rng.random(high - low)
    places = low + np.argsort(time, kind="stable")[start - low : stop - low]
    ends = np.cumsum(sizes[shards])
    shard = np.searchsorted(ends, places, side="right")
    return places + (np.cumsum(sizes)[shards] - ends)[shard]


def process_slice(batch_size: int, process: int, num_processes: int) -> slice:
    """Return the queries of one process: a contiguous slice of every global batch, sizes equal or one apart.

    >>> [process_slice(10, process, 3) for process in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    if batch_size < num_processes:
        raise InputError(f"a batch of {batch_size} cannot be split over {num_processes} processes")
    return slice(batch_size * process // num_processes, batch_size * (process + 1) // num_processes)


def ranges(starts: Indices, counts: Indices) -> Indices:
    """Return the concatenated ranges start, start + 1, ... (`count` numbers each)."""
    before = np.cumsum(counts) - counts
    result: Indices = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return result
