"""Which medium and which caption stand where in every epoch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.graded import CaptionPool
from mmts.errors import InputError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """The B pairs of a batch, each (B,) int64: `media`, `index` (the pair), and `text`, the caption shown with it.

    `text` differs from `index` only where captions are drawn from other media that fit (a `CaptionPool`): what is known
    of a pair, its concept for one, stays that of the medium's own caption.
    """

    media: Tensor
    index: Tensor
    text: Tensor

    def __getitem__(self, part: slice) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(self.media[part], self.index[part], self.text[part])

    def __len__(self) -> int:
        return len(self.index)


class EpochPlan:
    """Which medium and which of its captions stands where in every epoch; depends on (seed, epoch) alone.

    In an epoch every medium comes once, with one of its captions drawn at random. The last batch is dropped where it is
    incomplete; a batch size larger than the split means one batch of everything.

    >>> plan = EpochPlan(torch.tensor([0, 0, 1, 2]), num_media=3, batch_size=2, seed=0)
    >>> [(pairs.media.tolist(), pairs.index.tolist()) for pairs in plan.batches(epoch=0)]
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
    ) -> None:
        """Raises InputError where `owner` (N,) does not give every one of the M media at least one caption.

        Args:
            owner: (N,) int64, each caption's medium.
            num_media: M.
            batch_size: pairs a batch; kept as min(batch_size, M).
            seed: at least 0.
            order: epoch -> the M media in the order they come; None is any order with equal chance.
            pool: from whose captions one is drawn for each medium; None is its own.
        """
        if batch_size < 1 or num_media < 1 or seed < 0:
            raise InputError(
                f"need batch_size >= 1, num_media >= 1 and seed >= 0, not {batch_size}, {num_media}, {seed}"
            )
        owners: Indices = owner.numpy().astype(np.int64)
        if len(owners) and not 0 <= owners.min() <= owners.max() < num_media:
            raise InputError(f"owner lies in [0, {num_media}), not in [{owners.min()}, {owners.max()}]")
        self.batch_size = min(batch_size, num_media)
        self.num_media = num_media
        self.seed = seed
        self.order = order
        self.pool = pool
        self._counts = np.bincount(owners, minlength=num_media)
        if not self._counts.all():
            raise InputError(f"medium {int(np.argmin(self._counts))} has no caption")
        self._captions = np.argsort(owners, kind="stable")
        self._starts = np.cumsum(self._counts) - self._counts

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return self.num_media // self.batch_size

    def batches(self, epoch: int) -> list[Pairs]:
        """Return every batch of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        media = rng.permutation(self.num_media) if self.order is None else self.order(epoch)
        index = self._draw(media, rng)
        text = index if self.pool is None else self._draw(self.pool.draw(media, rng.random(self.num_media)), rng)
        kept = self.batches_per_epoch * self.batch_size
        pairs = Pairs(*torch.from_numpy(np.stack([media, index, text])))
        return [pairs[at : at + self.batch_size] for at in range(0, kept, self.batch_size)]

    def _draw(self, media: Indices, rng: np.random.Generator) -> Indices:
        """Draw one caption of each medium."""
        drawn = (rng.random(self.num_media) * self._counts[media]).astype(np.int64)
        captions: Indices = self._captions[self._starts[media] + drawn]
        return captions
