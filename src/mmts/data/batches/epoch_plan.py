"""The order of media and the caption drawn for each of them in every epoch, and which process takes which pairs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.batches.sampling import Sampling, draw_counts, repeated, super_batch_size
from mmts.data.graded import CaptionPool
from mmts.errors import InputError

Indices = npt.NDArray[np.int64]
# Keep the random numbers of `stream_order` and of sampling apart from those for a medium, [seed, epoch, position].
_STREAM = 2**32 - 1
_SAMPLING = 2**32 - 2


@dataclass(frozen=True)
class Positions:
    """The positions in the split of the B pairs of a batch, each (B,) int64.

    `media` are the media, `index` the pairs, `text` the captions shown. `text` differs from `index` only if a caption
    is drawn from another medium (see `CaptionPool`); a pair's concept is still that of its own caption, `index`.
    """

    media: Tensor
    index: Tensor
    text: Tensor


class EpochPlan:
    """The batches of every epoch; they depend on (seed, epoch) alone.

    An epoch has every medium once, with one of its captions drawn at random; `sampling` may draw other numbers of them.
    An incomplete last batch is dropped. If the batch size is larger than the split, an epoch is one batch.

    >>> plan = EpochPlan(torch.tensor([0, 0, 1, 2]), num_media=3, batch_size=2, seed=0)
    >>> [(batch.media.tolist(), batch.index.tolist()) for batch in plan.batches(epoch=0)]
    [([2, 0], [3, 0])]
    """

    def __init__(
        self,
        owner: Tensor,
        num_media: int,
        batch_size: int,
        seed: int,
        *,
        order: Callable[[int], Indices] | None = None,
        pool: CaptionPool | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        """Raises InputError for a batch size or number of media below 1, a seed below 0, or a medium without a caption.

        Args:
            owner: (N,) int64, the medium of each caption, in [0, num_media).
            order: epoch -> the media in the order of that epoch; None for a uniformly random order.
            pool: the media whose captions may be drawn for each medium; None for its own captions.
            sampling: how often media come and captions are drawn, by weights (N,) of the captions. A medium comes in
                proportion to the mean of its captions' weights. A caption from `pool` is drawn without weights.
        """
        _check_at_least(1, batch_size=batch_size, num_media=num_media)
        _check_at_least(0, seed=seed)
        owners: Indices = owner.numpy().astype(np.int64)
        if len(owners) and not 0 <= owners.min() <= owners.max() < num_media:
            raise InputError(f"owner must be in [0, {num_media}), not in [{owners.min()}, {owners.max()}]")
        self.batch_size = min(batch_size, num_media)
        self.num_media, self.seed, self.order, self.pool, self.sampling = num_media, seed, order, pool, sampling
        self._counts = np.bincount(owners, minlength=num_media)
        if not self._counts.all():
            raise InputError(f"medium {int(np.argmin(self._counts))} has no caption")
        self._captions = np.argsort(owners, kind="stable")
        self._starts = np.cumsum(self._counts) - self._counts
        if sampling is not None:
            if len(sampling.weights) != len(owners):
                raise InputError(f"there are {len(sampling.weights)} weights for {len(owners)} captions")
            self._media_weights = np.bincount(owners, sampling.weights, num_media) / self._counts
            self._edges = np.concatenate([[0], np.cumsum(sampling.weights[self._captions])])

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches per epoch."""
        return self.num_media // self.batch_size

    def batches(self, epoch: int) -> list[Positions]:
        """Return every batch of an epoch."""
        B, sampling = self.batch_size, self.sampling
        if sampling is not None and not sampling.applies(epoch, self.batches_per_epoch):
            sampling = None
        if sampling is None or sampling.cabs is None:
            drawn = self._pass(epoch, sampling)
        else:
            size = super_batch_size(B, sampling.cabs.filter, self.num_media)
            wanted = self.batches_per_epoch * size
            passes = math.ceil(wanted / self.num_media)
            parts = [self._pass(at, sampling) for at in range(epoch * passes, (epoch + 1) * passes)]
            drawn = np.concatenate(parts, axis=1)[:, :wanted]
            drawn = drawn[:, sampling.cabs.choose(drawn[1], size, B)]
        positions = torch.from_numpy(drawn)
        return [Positions(*positions[:, end - B : end]) for end in range(B, self.num_media + 1, B)]

    def _pass(self, number: int, sampling: Sampling | None) -> Indices:
        """Return the positions (3, M) of M media, pairs and captions shown: one pass through the data."""
        rng = np.random.default_rng([self.seed, number])
        media = rng.permutation(self.num_media) if self.order is None else self.order(number)
        if sampling is not None:
            counts = draw_counts(self._media_weights, np.random.default_rng([self.seed, number, _SAMPLING]))
            media = repeated(media, counts)
        index = self._draw(media, rng, by_weight=sampling is not None)
        text = index if self.pool is None else self._draw(self.pool.draw(media, rng.random(self.num_media)), rng)
        return np.stack([media, index, text])

    def _draw(self, media: Indices, rng: np.random.Generator, by_weight: bool = False) -> Indices:
        """Draw one caption of each medium."""
        first, counts, uniform = self._starts[media], self._counts[media], rng.random(self.num_media)
        if by_weight:
            low, high = self._edges[first], self._edges[first + counts]
            drawn = np.searchsorted(self._edges, low + uniform * (high - low), side="right") - 1 - first
            drawn = np.clip(drawn, 0, counts - 1)  # a rounded sum may reach the next medium
        else:
            drawn = (uniform * counts).astype(np.int64)
        captions: Indices = self._captions[first + drawn]
        return captions


def stream_order(shard_sizes: Sequence[int] | Indices, seed: int, epoch: int, buffer: int) -> Indices:
    """Return the N positions in a random order that a shuffle buffer of `buffer` samples could produce.

    The shards come in random order, each with its samples in file order. Then the sample at place p gets the rank of
    p + buffer * u, u uniform in [0, 1), so it moves by less than `buffer` places, and a reader that follows the shards
    holds at most `buffer` samples back. With buffer >= N all orders are equally likely.

    `shard_sizes` are the samples of each shard, whose positions follow those of the shard before it. Every (seed,
    epoch) has another order. Raises InputError for a size, seed or epoch below 0, or a buffer below 1.

    >>> stream_order([3, 2, 4], seed=0, epoch=0, buffer=1).tolist()
    [3, 4, 5, 6, 7, 8, 0, 1, 2]
    """
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    _check_at_least(1, buffer=buffer)
    _check_at_least(0, seed=seed, epoch=epoch, shard_sizes=int(sizes.min(initial=0)))
    rng = np.random.default_rng([seed, epoch, _STREAM])
    N = int(sizes.sum())
    if buffer >= N:
        return rng.permutation(N)
    shards = rng.permutation(len(sizes))
    in_line = ranges((np.cumsum(sizes) - sizes)[shards], sizes[shards])
    return in_line[np.argsort(np.arange(N) + buffer * rng.random(N), kind="stable")]


def process_slice(batch_size: int, process: int, num_processes: int) -> slice:
    """Return the queries of one process: a contiguous slice of every global batch, sizes equal or one apart.

    Raises InputError for a process that does not exist, or a batch with fewer samples than processes.

    >>> [process_slice(10, process, 3) for process in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    if not 0 <= process < num_processes:
        raise InputError(f"process must be in [0, {num_processes}), not {process}")
    if batch_size < num_processes:
        raise InputError(f"a batch of {batch_size} cannot be split over {num_processes} processes")
    return slice(batch_size * process // num_processes, batch_size * (process + 1) // num_processes)


def ranges(starts: Indices, counts: Indices) -> Indices:
    """Return the concatenated ranges start, start + 1, ... (`count` numbers each)."""
    before = np.cumsum(counts) - counts
    result: Indices = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return result


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
