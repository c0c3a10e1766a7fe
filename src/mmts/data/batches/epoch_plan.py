"""The order of media, and the caption drawn for each of them, in every epoch."""

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
class Positions:
    """The positions in the split of the B pairs of a batch, each (B,) int64.

    `media` are the media, `index` the pairs, `text` the captions shown. `text` differs from `index` only if a caption
    is drawn from another medium (see `CaptionPool`); a pair's concept is still that of its own caption, `index`.
    """

    media: Tensor
    index: Tensor
    text: Tensor

    def __getitem__(self, part: slice) -> "Positions":
        """Return some of the pairs."""
        return Positions(self.media[part], self.index[part], self.text[part])

    def __len__(self) -> int:
        return len(self.index)


class EpochPlan:
    """The batches of every epoch; they depend on (seed, epoch) alone.

    An epoch has every medium once, with one of its captions drawn at random. An incomplete last batch is dropped. If
    the batch size is larger than the split, an epoch is one batch.

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
    ) -> None:
        """Raises InputError if `owner` leaves one of the M media without a caption.

        Args:
            owner: (N,) int64, the medium of each caption.
            num_media: M.
            batch_size: pairs per batch; kept as min(batch_size, M).
            seed: at least 0.
            order: epoch -> the M media in the order of that epoch; None for a uniformly random order.
            pool: the media whose captions may be drawn for each medium; None for its own captions.
        """
        if batch_size < 1 or num_media < 1 or seed < 0:
            raise InputError(
                f"need batch_size >= 1, num_media >= 1 and seed >= 0, not {batch_size}, {num_media}, {seed}"
            )
        owners: Indices = owner.numpy().astype(np.int64)
        if len(owners) and not 0 <= owners.min() <= owners.max() < num_media:
            raise InputError(f"owner must be in [0, {num_media}), not in [{owners.min()}, {owners.max()}]")
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
        """The number of batches per epoch."""
        return self.num_media // self.batch_size

    def batches(self, epoch: int) -> list[Positions]:
        """Return every batch of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        media = rng.permutation(self.num_media) if self.order is None else self.order(epoch)
        index = self._draw(media, rng)
        text = index if self.pool is None else self._draw(self.pool.draw(media, rng.random(self.num_media)), rng)
        positions = Positions(*torch.from_numpy(np.stack([media, index, text])))
        ends = range(self.batch_size, self.num_media + 1, self.batch_size)
        return [positions[end - self.batch_size : end] for end in ends]

    def _draw(self, media: Indices, rng: np.random.Generator) -> Indices:
        """Draw one caption of each medium."""
        drawn = (rng.random(self.num_media) * self._counts[media]).astype(np.int64)
        captions: Indices = self._captions[self._starts[media] + drawn]
        return captions
