"""From a plan to batches: decoding, tokenizing and loading ahead."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mmts.console import errors
from mmts.data.batches.epoch_plan import EpochPlan, Pairs
from mmts.data.batches.positives import on_device, positives
from mmts.data.batches.stream_order import process_slice
from mmts.data.graded import Graded
from mmts.data.media.image import Augmentation
from mmts.data.media.load import load_medium
from mmts.data.media.video import FrameSampling
from mmts.data.records import Medium, Split
from mmts.errors import DataError, InputError, WorkersLost

Tokens = dict[str, Tensor]
MediaSource = Callable[[list[int], int], Tensor]
"""(positions of media in the split, epoch) -> their inputs (B, ...)"""
TextSource = Callable[[list[int]], Tensor | Tokens]
"""positions of captions in the split -> their feature rows (B, W) or tokens"""
_LOST = "DataLoader worker (pid"  # how torch says that a process is gone
_AT_ONCE = 16  # media that a worker process decodes at a time: a whole batch of clips is gigabytes, and several wait


@dataclass
class Batch:
    """B pairs as a model and an objective take them.

    Of several processes that train together each has its own share b of the media and the text; all that an objective
    is told of the pairs is there for the whole batch. With one process b = B.

    Attributes:
        media: (b, ...) images or clips (uint8), or feature rows.
        text: (b, W) feature rows, or tokens by name, each (b, ...).
        index: (B,) int64, position of each pair's caption in the split.
        media_index: (B,) int64, position of each pair's medium.
        positives: (B, B) bool, sparse where few are, see `positives`, or None.
        relevance: float32 in [0, 1], where it is asked for and there, or None: (B, B), of medium i and text j; with
            several processes (2, b, B), of this one's media and all texts, and of its texts and all media.
    """

    media: Tensor
    text: Tensor | Tokens
    index: Tensor
    media_index: Tensor
    positives: Tensor | None = None
    relevance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""
        text = self.text
        return Batch(
            self.media.to(device),
            text.to(device) if isinstance(text, Tensor) else {name: each.to(device) for name, each in text.items()},
            self.index.to(device),
            self.media_index.to(device),
            on_device(self.positives, device),
            None if self.relevance is None else self.relevance.to(device),
        )


@dataclass(frozen=True)
class FeatureRows:
    """Serves rows (M, W) of features, in memory or memory-mapped, for either side."""

    rows: npt.NDArray[np.float32]

    def __call__(self, positions: list[int], epoch: int = 0) -> Tensor:
        """Return the rows at these positions, (B, W) float32; the epoch changes nothing."""
        return torch.from_numpy(np.asarray(self.rows[positions], dtype=np.float32))


@dataclass(frozen=True)
class Pixels:
    """Decodes images or clips, changed at random where an augmentation is given.

    What happens to a medium depends on (seed, epoch, its position) alone, so that a resumed epoch sees the same.
    """

    media: Sequence[Medium]
    size: int
    resize: str = "stretch"
    sampling: FrameSampling | None = None
    augmentation: Augmentation | None = None
    seed: int = 0

    def __call__(self, positions: list[int], epoch: int = 0) -> Tensor:
        """Return images (B, 3, size, size), or clips (B, F, 3, size, size), uint8; towers take that for [0, 1]."""
        return torch.stack([self._load(at, epoch) for at in positions])

    def _load(self, at: int, epoch: int) -> Tensor:
        rng = np.random.default_rng([self.seed, epoch, at])
        pixels = load_medium(self.media[at], self.size, self.resize, self.sampling, self.augmentation, rng)
        # They are whole numbers over 255: nothing is lost, and batches that wait or go to a GPU are a quarter as large.
        return (255 * pixels).round_().to(torch.uint8)


@dataclass(frozen=True)
class TokenizedCaptions:
    """Tokenizes captions as batches ask for them."""

    tokenize: Callable[[list[str]], Tokens]
    captions: Sequence[str]

    def __call__(self, positions: list[int]) -> Tokens:
        """Return the tokens of the captions at these positions."""
        return self.tokenize([self.captions[at] for at in positions])


def make_loader(
    split: Split,
    plan: EpochPlan,
    media_source: MediaSource,
    text_source: TextSource,
    epoch: int,
    first_batch: int = 0,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
    with_relevance: bool = False,
) -> Iterator[Batch]:
    """Yield the batches of an epoch from `first_batch` on, exactly as the whole epoch would have them.

    Nothing here touches torch's global random state, so a resumed run draws the same dropout as an unbroken one.

    Args:
        split: what `plan` was made for.
        plan: which pairs make up which batch.
        media_source: gives the media side, for instance `Pixels` or `FeatureRows`.
        text_source: gives the text side, for instance `TokenizedCaptions` or `FeatureRows`.
        epoch: counted from 0.
        first_batch: how many batches to leave out.
        workers: processes that call `media_source` ahead of time; 0 calls it here, right for rows of features.
        process: (which, of how many): the media and the text of every batch are cut into that many parts, of which this
            process gets its own; `batch_size` counts all parts together.
        with_relevance: work out the batches' graded relevance, where the split has such.

    Raises:
        InputError: the plan is another split's, or there is no such batch.
        DataError: what the sources raise, whichever process they run in.
        WorkersLost: a process was killed, started anew, and killed again.
    """
    if plan.num_media != split.num_media:
        raise InputError(f"the plan is for {plan.num_media} media and the split has {split.num_media}")
    if not 0 <= first_batch <= plan.batches_per_epoch:
        raise InputError(f"first_batch lies in [0, {plan.batches_per_epoch}], not {first_batch}")
    own = process_slice(plan.batch_size, *process)
    graded = split.graded if with_relevance else None
    return _batches(split, plan.batches(epoch)[first_batch:], own, media_source, text_source, epoch, workers, graded)


def _batches(
    split: Split,
    pairs: list[Pairs],
    own: slice,
    media_source: MediaSource,
    text_source: TextSource,
    epoch: int,
    workers: int,
    graded: Graded | None,
) -> Iterator[Batch]:
    media_sides = _media_sides([each.media[own] for each in pairs], media_source, epoch, workers)
    for each, media in zip(pairs, media_sides, strict=True):
        right = positives(split, each.media, each.text)
        relevance = None
        if graded is not None:
            media_of, shown = each.media.numpy(), split.owner[each.text].numpy()
            relevance = torch.from_numpy(graded.between(media_of[own], shown)).float()
            if own.stop - own.start < len(media_of):
                of_texts = torch.from_numpy(graded.between(media_of, shown[own])).float().T
                relevance = torch.stack([relevance, of_texts])
        yield Batch(media, text_source(each.text[own].tolist()), each.index, each.media, right, relevance)


def _media_sides(parts: list[Tensor], source: MediaSource, epoch: int, workers: int) -> Iterator[Tensor]:
    """Yield the media of each part (B,), decoded here or, a few at a time, ahead in other processes."""
    if workers == 0 or not parts:
        yield from (source(part.tolist(), epoch) for part in parts)
        return
    pieces = [piece for part in parts for piece in _cut(part)]
    decoded = _decoded_ahead(pieces, source, epoch, workers)
    for part in parts:
        yield torch.cat([next(decoded) for _ in _cut(part)])


def _decoded_ahead(pieces: list[Tensor], source: MediaSource, epoch: int, workers: int) -> Iterator[Tensor]:
    """Yield the media of every piece, decoded in other processes; where one is killed, all are started anew.

    What a medium becomes depends on (seed, epoch, position) alone, so that the second try gives what the first would
    have. Raises WorkersLost where one is killed twice at the same piece.
    """
    done, lost_at = 0, -1
    while done < len(pieces):
        decoded = _start_processes(_Pieces(pieces[done:], source, epoch), workers)
        while done < len(pieces):
            try:
                media = next(decoded)
            except RuntimeError as error:
                if _LOST not in str(error):
                    raise
                if lost_at == done:
                    why = " ".join(str(error).split())
                    raise WorkersLost(
                        f"a process that decodes media was killed twice at the same place ({why}); out of memory? Try "
                        "fewer data.workers, a smaller train.micro_batch, or smaller images or clips"
                    ) from None
                lost_at = done
                errors.print("note: a process that decodes media was killed (out of memory?); all are started anew")
                break
            if isinstance(media, DataError):
                raise media
            yield media
            done += 1


def _start_processes(pieces: "_Pieces", workers: int) -> Iterator[Tensor | DataError]:
    """Start processes that decode ahead. One that dies is noticed where its media are asked for, nowhere else.

    torch's own handler of SIGCHLD would raise in the main thread wherever it is, be it half-way through an optimizer
    step, so it is taken out again.
    """
    own_randomness = torch.Generator()  # a DataLoader without one draws from the global state
    loader: DataLoader[Tensor | DataError] = DataLoader(
        pieces, batch_size=None, num_workers=min(workers, len(pieces)), generator=own_randomness
    )
    watched = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if watched else None
    decoded = iter(loader)
    if watched:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return decoded


def _cut(part: Tensor) -> list[Tensor]:
    return [part[at : at + _AT_ONCE] for at in range(0, len(part), _AT_ONCE)]


class _Pieces(TorchDataset[Tensor | DataError]):
    """Media by pieces of batches; an error comes back as a value, since torch would bury it in a traceback."""

    def __init__(self, pieces: list[Tensor], source: MediaSource, epoch: int) -> None:
        self.pieces = pieces
        self.source = source
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, at: int) -> Tensor | DataError:
        try:
            return self.source(self.pieces[at].tolist(), self.epoch)
        except DataError as error:
            return error
