"""Load the batches of a plan: decode and tokenize, in other processes if asked to."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mmts.console import errors
from mmts.data.batches.epoch_plan import EpochPlan, Positions, process_slice
from mmts.data.batches.positives import on_device, positives
from mmts.data.graded import Graded
from mmts.data.media.image import Augmentation
from mmts.data.media.load import load_medium
from mmts.data.media.video import FrameSampling
from mmts.data.pair_table import LazySequence
from mmts.data.records import Medium, Split
from mmts.errors import DataError, WorkersLost

Tokens = dict[str, Tensor]
MediaSource = Callable[[list[int], int, list[int]], Tensor]
"""(positions of media in the split, epoch, how often each came before in the epoch) -> their inputs (B, ...)"""
TextSource = Callable[[list[int]], Tensor | Tokens]
"""positions of captions in the split -> their feature rows (B, W) or tokens"""
_Decode = Callable[[list[list[int]]], Tensor | DataError]
_LOST = "DataLoader worker (pid"  # torch's message about a killed process
_AT_ONCE = 16  # media that a worker process decodes at a time: a whole batch of clips is gigabytes, and several wait


@dataclass
class Batch:
    """B pairs as a model and an objective take them.

    If several processes train together, `media` and `text` are those of this process's Q queries only, and everything
    else is that of the global batch. With one process Q = B.

    Attributes:
        media: (Q, ...) images or clips (uint8), or feature rows.
        text: (Q, W) feature rows, or tokens by name, each (Q, ...).
        index: (B,) int64, position of each pair's caption in the split.
        media_index: (B,) int64, position of each pair's medium.
        positives: (B, B) bool, sparse or dense, see `positives`; or None.
        relevance: float32 in [0, 1], or None: (B, B), of medium i and text j; with several processes (2, Q, B), of the
            queries' media and all texts, and of the queries' texts and all media.
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
        text = text.to(device) if isinstance(text, Tensor) else {name: part.to(device) for name, part in text.items()}
        media, index, media_index = (part.to(device) for part in (self.media, self.index, self.media_index))
        relevance = None if self.relevance is None else self.relevance.to(device)
        return Batch(media, text, index, media_index, on_device(self.positives, device), relevance)


@dataclass(frozen=True)
class FeatureRows:
    """Serves feature rows (M, W) or (N, W), in memory or memory-mapped, for either side."""

    rows: npt.NDArray[np.float32]

    def __call__(self, positions: list[int], epoch: int = 0, copies: Sequence[int] = ()) -> Tensor:
        """Return the rows at these positions, (B, W) float32."""
        return torch.from_numpy(np.asarray(self.rows[positions], dtype=np.float32))


@dataclass(frozen=True)
class Pixels:
    """Decodes images or clips, with random changes if an augmentation is given.

    The changes depend on (seed, epoch, position of the medium, how often it came before in the epoch) alone, so a
    resumed epoch sees the same pixels.
    """

    media: Sequence[Medium]
    size: int
    resize: str = "stretch"
    sampling: FrameSampling | None = None
    augmentation: Augmentation | None = None
    seed: int = 0

    def __call__(self, positions: list[int], epoch: int = 0, copies: Sequence[int] = ()) -> Tensor:
        """Return images (B, 3, size, size), or clips (B, F, 3, size, size), uint8; towers scale them to [0, 1]."""
        loaded = []
        for at, copy in zip(positions, copies or [0] * len(positions), strict=True):
            rng = np.random.default_rng([self.seed, epoch, at, copy])
            pixels = load_medium(self.media[at], self.size, self.resize, self.sampling, self.augmentation, rng)
            # They are whole numbers over 255: uint8 loses nothing, and waiting batches take a quarter of the memory.
            loaded.append((255 * pixels).round_().to(torch.uint8))
        return torch.stack(loaded)


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
    """Yield the batches of an epoch from `first_batch` on, exactly as the whole epoch has them.

    torch's global random state is not touched, so a resumed run draws the same dropout as an uninterrupted one.

    Args:
        workers: processes that call `media_source` ahead of time; 0 calls it here, which is right for feature rows.
        process: (index of this process, number of processes); the process gets the media and text of its queries.
        with_relevance: compute the batches' graded relevance, if the split has any.

    Raises DataError from the sources, and WorkersLost if a process was killed, restarted, and killed again.
    """
    queries = process_slice(plan.batch_size, *process)
    batches = plan.batches(epoch)[first_batch:]
    graded = split.graded if with_relevance else None
    media_sides = _media_sides(batches, queries, media_source, epoch, workers)
    for batch, media in zip(batches, media_sides, strict=True):
        text = text_source(batch.text[queries].tolist())
        extra = positives(split, batch.media, batch.text)
        relevance = None if graded is None else _relevance(graded, split, batch, queries)
        yield Batch(media, text, batch.index, batch.media, extra, relevance)


def _relevance(graded: Graded, split: Split, batch: Positions, queries: slice) -> Tensor:
    media, owners = batch.media.numpy(), split.owner[batch.text].numpy()
    of_media = torch.from_numpy(graded.between(media[queries], owners)).float()
    if len(of_media) == len(media):
        return of_media
    return torch.stack([of_media, torch.from_numpy(graded.between(media, owners[queries])).float().T])


def _media_sides(
    batches: Sequence[Positions], queries: slice, source: MediaSource, epoch: int, workers: int
) -> Iterator[Tensor]:
    """Yield the decoded media of the queries of each batch; with workers they are decoded ahead, a few at a time."""
    if workers == 0 or not batches:
        yield from (source(batch.media[queries].tolist(), epoch, batch.copy[queries].tolist()) for batch in batches)
        return
    parts = range(queries.start, queries.stop, _AT_ONCE)

    def piece(number: int) -> list[list[int]]:
        batch, start = batches[number // len(parts)], parts[number % len(parts)]
        part = slice(start, min(start + _AT_ONCE, queries.stop))
        return torch.stack([batch.media[part], batch.copy[part]], dim=1).tolist()

    pieces = LazySequence(piece, range(len(batches) * len(parts)))
    decoded = _decode_ahead(pieces, partial(_decode, source, epoch), workers)
    for _ in batches:
        yield torch.cat([next(decoded) for _ in parts])


def _decode(source: MediaSource, epoch: int, places: list[list[int]]) -> Tensor | DataError:
    try:
        return source([at for at, _ in places], epoch, [copy for _, copy in places])
    except DataError as error:  # torch would bury it in a traceback
        return error


def _decode_ahead(pieces: Sequence[list[list[int]]], decode: _Decode, workers: int) -> Iterator[Tensor]:
    """Yield the media of every piece, decoded in other processes; if one is killed, all are restarted once."""
    done, lost_at = 0, -1
    while done < len(pieces):
        decoded = _start_processes(pieces[done:], decode, workers)
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
                errors.print("note: a process that decodes media was killed (out of memory?); all are restarted")
                break
            if isinstance(media, DataError):
                raise media
            yield media
            done += 1


class _Same(TorchDataset[Any]):
    """A data set whose items are the pieces that the sampler gives."""

    def __getitem__(self, piece: list[list[int]]) -> list[list[int]]:
        return piece


def _start_processes(pieces: Sequence[list[list[int]]], decode: _Decode, workers: int) -> Iterator[Tensor | DataError]:
    """Start processes that decode ahead; a killed one is noticed only when its media are needed."""
    loader: DataLoader[Tensor | DataError] = DataLoader(
        _Same(),
        sampler=pieces,  # drawn here, a few ahead of the processes
        batch_size=None,
        num_workers=min(workers, len(pieces)),
        collate_fn=decode,
        # Said here, because within the processes of a sweep joblib sets another default.
        multiprocessing_context="fork" if sys.platform == "linux" else "spawn",
        generator=torch.Generator(),  # without one it draws from the global state
    )
    # torch's handler of SIGCHLD would raise in the main thread at any point, even inside an optimizer step.
    watched = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if watched else None
    decoded = iter(loader)
    if watched:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return decoded
