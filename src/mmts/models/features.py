"""Features of whole collections: from frozen towers computed once and cached, and embeddings without gradients."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmts.data.media.checks import content_name
from mmts.data.media.load import load_medium, why_unreadable
from mmts.data.records import Medium
from mmts.devices import has_bf16
from mmts.errors import DataError, InputError
from mmts.feature_cache import cached_file, cached_rows
from mmts.models.base import MediaTower, TextTower, Tower
from mmts.models.two_tower import TwoTower

Rows = npt.NDArray[np.float32]
LoadPixels = Callable[..., Tensor]
"""(medium, size, resize, sampling) -> (3, size, size) or (F, 3, size, size) float32 in [0, 1]."""

# On a CPU every worker thread runs its own batch on one core: no core waits for another, and the activations of few
# inputs stay in its cache. A batch of 8 images is twice as fast there as one of 64 (efficientnet-lite0 at 128 px).
_IMAGES = {"cpu": 8}
_CAPTIONS = {"cpu": 32}
_ON_DEVICE = 64
_NAMED_AT_ONCE = 256  # media per task of a thread: a task costs more than reading a small image


def media_features(
    tower: MediaTower,
    media: Sequence[Medium],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    load: LoadPixels | None = None,
    cached: bool = True,
) -> Rows:
    """Return the tower's features (M, width) of M media, float32, computed once and memory-mapped after that.

    Rows are kept under the hash of the tower's weights and settings and of every image's bytes, so that they are found
    again if files are moved or renamed, and computed again if files change. A video is identified by its path, size and
    time of change. A repeated medium is computed once (the result is then a copy in memory).

    Args:
        tower: runs in evaluation mode on its present device, in bf16 if the device has it.
        media: (M,) images or videos, whichever the tower takes.
        batch_size: images at a time in each thread; None is 8 on a CPU and 64 elsewhere (of a video's frames).
        workers: threads that decode and compute, each on its own batch; None is torch's number of threads.
        load: reads one medium; None is `mmts.data.media.load.load_medium`.
        cached: keep the rows, and look for them; otherwise all are computed.

    Raises:
        DataError: a file cannot be read; names it.
    """
    device = _device(tower)
    size = _batch_size(tower, batch_size, device)
    with _threads(workers) as pool, _evaluating(tower):

        def compute(chunk: Sequence[Medium]) -> Rows:
            return _concatenate(pool, lambda batch: tower(_pixels(tower, batch, load, device)), chunk, size, device)

        if not cached:
            return compute(media)
        return _media_rows(_name_of(tower, device), tower, media, compute, pool)[0]


def why_unreadable_by_features(tower: MediaTower, media: Sequence[Medium]) -> list[str | None]:
    """Return why each of the media cannot be read, or None, after decoding each once for its features.

    Later calls of `media_features` for the readable ones find their features in the cache. `tower` is frozen.
    """
    device = _device(tower)
    size, failed = _batch_size(tower, None, device), set[int]()

    def load(medium: Medium, *options: Any) -> Tensor:
        try:
            return load_medium(medium, *options)
        except DataError:
            failed.add(id(medium))
            return torch.zeros(*(() if tower.frames is None else (tower.frames,)), 3, tower.size, tower.size)

    def reason(medium: Medium, row: Rows) -> str | None:
        # A row of zeros was written for an unreadable medium, perhaps before an interrupt.
        return None if row.any() else why_unreadable(medium) or ("it failed once" if id(medium) in failed else None)

    with _threads(None) as pool, _evaluating(tower):

        def compute(chunk: Sequence[Medium]) -> Rows:
            rows = _concatenate(pool, lambda batch: tower(_pixels(tower, batch, load, device)), chunk, size, device)
            rows[[id(medium) in failed for medium in chunk]] = 0
            return rows

        # Kept under another name until it is known which media count, so that an interrupted pass can go on.
        name = _name_of(tower, device)
        try:
            rows, file = _media_rows(f"{name}, zeros if unreadable", tower, media, compute, pool)
        except DataError:  # not even the bytes of a file can be read
            return [*pool.map(why_unreadable, media)]
        reasons = [reason(medium, row) for medium, row in zip(media, rows, strict=True)]
        position = {id(medium): at for at, medium in enumerate(media) if reasons[at] is None}
        if position:
            readable = [media[at] for at in position.values()]
            _media_rows(name, tower, readable, lambda part: rows[[position[id(medium)] for medium in part]], pool)
        file.unlink(missing_ok=True)
    return reasons


def _name_of(tower: MediaTower, device: torch.device) -> str:
    kind = "image" if tower.frames is None else "video"
    return f"{kind} {tower.fingerprint} {_precision_name(device)}"


def _media_rows(
    name: str,
    tower: MediaTower,
    media: Sequence[Medium],
    compute: Callable[[Sequence[Medium]], Rows],
    pool: ThreadPoolExecutor,
) -> tuple[Rows, Path]:
    """Return the cached rows of media, those that the cache lacks by `compute`, and their file."""
    keys = [key for part in pool.map(_content_names, _parts(media, _NAMED_AT_ONCE)) for key in part]
    distinct = dict(zip(reversed(keys), reversed(media), strict=True))  # the first medium with each content
    ordered = list(dict.fromkeys(keys))
    rows = cached_rows(
        name,
        ordered,
        tower.width,
        lambda part: compute([distinct[key] for key in ordered[part.start : part.stop]]),
        unit="images" if tower.frames is None else "videos",
        chunk=max(1, 512 // (tower.frames or 1)),
    )
    return _repeated(rows, ordered, keys), cached_file(name, ordered)


def text_features(
    tower: TextTower,
    captions: Sequence[str],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    cached: bool = True,
) -> Rows:
    """Return the tower's features (N, width) of N captions, float32, computed once and cached.

    Only distinct captions are computed, sorted by length so that a batch carries little padding. They are kept under
    the hash of the tower's weights and settings and of the captions, whatever their order.

    Args:
        tower: runs in evaluation mode on its present device, in bf16 if the device has it.
        captions: (N,) strings, empty ones included.
        batch_size: captions at a time in each thread; None is 32 on a CPU and 64 elsewhere.
        workers: threads that compute, each on its own batch; None is torch's number of threads.
        cached: keep the rows, and look for them; otherwise all are computed.
    """
    device = _device(tower)
    size = batch_size or _CAPTIONS.get(device.type, _ON_DEVICE)
    ordered = sorted(set(captions), key=lambda caption: (len(caption), caption))
    with _threads(workers) as pool, _evaluating(tower):

        def compute(chunk: Sequence[str]) -> Rows:
            return _concatenate(pool, lambda batch: tower(_tokens(tower, batch, device)), chunk, size, device)

        if not cached:
            rows = compute(ordered)
        else:
            rows = cached_rows(
                f"text {tower.fingerprint} {_precision_name(device)}",
                ordered,
                tower.width,
                lambda part: compute(ordered[part.start : part.stop]),
                unit="captions",
                chunk=512,
            )
    return _repeated(rows, ordered, captions)


def embed_media(
    model: TwoTower,
    inputs: Rows | Tensor | Sequence[Medium],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    load: LoadPixels | None = None,
) -> Tensor:
    """Return the unit embeddings (M, D) of media, float32 on the CPU, in chunks, without gradients, not cached.

    Args:
        model: put into evaluation mode for this, and back.
        inputs: feature rows (M, W) if the model's media tower is None, else M media.
        batch_size: inputs at a time; None is 4,096 rows, and media as in `media_features`.
        workers: threads for media, as in `media_features`.
        load: reads one medium; None is `mmts.data.media.load.load_medium`.
    """
    device, tower = _device(model), model.media_tower
    with _evaluating(model):
        if tower is None:
            return _embed_rows(model.encode_media, inputs, batch_size or 4096, device)
        media: Sequence[Medium] = _not_rows(inputs, "media", "media")
        size = _batch_size(tower, batch_size, device)
        with _threads(workers) as pool:
            rows = _concatenate(
                pool, lambda batch: model.encode_media(_pixels(tower, batch, load, device)), media, size
            )
    return torch.from_numpy(rows)


def embed_text(
    model: TwoTower,
    inputs: Rows | Tensor | Sequence[str],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Tensor:
    """Return the unit embeddings (N, D) of captions, float32 on the CPU, in chunks, without gradients, not cached.

    Args:
        model: put into evaluation mode for this, and back.
        inputs: feature rows (N, W) if the model's text tower is None, else N captions.
        batch_size: inputs at a time; None is 4,096 rows, and captions as in `text_features`.
        workers: threads for captions, as in `text_features`.
    """
    device, tower = _device(model), model.text_tower
    with _evaluating(model):
        if tower is None:
            return _embed_rows(model.encode_text, inputs, batch_size or 4096, device)
        captions: Sequence[str] = _not_rows(inputs, "captions", "text")
        ordered = sorted(set(captions), key=lambda caption: (len(caption), caption))
        size = batch_size or _CAPTIONS.get(device.type, _ON_DEVICE)
        with _threads(workers) as pool:
            rows = _concatenate(pool, lambda batch: model.encode_text(_tokens(tower, batch, device)), ordered, size)
    return torch.from_numpy(_repeated(rows, ordered, captions))


def _repeated(rows: Rows, ordered: Sequence[str], keys: Sequence[str]) -> Rows:
    """Return the row of each key, from the rows of the distinct keys `ordered`; the rows themselves if they agree."""
    if list(keys) == ordered:
        return rows
    place = {key: row for row, key in enumerate(ordered)}
    return rows[[place[key] for key in keys]]


def _concatenate(
    pool: ThreadPoolExecutor,
    encode: Callable[[Any], Tensor],
    inputs: Sequence[Any],
    size: int,
    bf16_on: torch.device | None = None,
) -> Rows:
    """Return encode's rows of all inputs; the pool's threads take batches of `size`."""

    def run(batch: Sequence[Any]) -> Rows:
        # Both modes belong to a thread, so they are entered here.
        with torch.inference_mode(), _precision(bf16_on):
            rows: Rows = encode(batch).float().cpu().numpy()
        return rows

    return np.concatenate(list(pool.map(run, _parts(inputs, size))))


@contextmanager
def _threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Give threads that each compute on one core; afterwards torch has its own number of threads again."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers or before, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def _embed_rows(encode: Callable[[Tensor], Tensor], rows: Any, size: int, device: torch.device) -> Tensor:
    if getattr(rows, "ndim", 0) != 2:
        raise InputError("this model has no tower on this side, so it takes feature rows (M, W), not files or captions")
    with torch.no_grad():
        parts = [torch.as_tensor(rows[start : start + size]) for start in range(0, max(len(rows), 1), size)]
        return torch.cat([encode(part.to(device, torch.float32)).float().cpu() for part in parts])


def _not_rows(inputs: Any, what: str, side: str) -> Any:
    if hasattr(inputs, "ndim"):
        raise InputError(f"this model has a {side} tower, so it takes {what}, not feature rows")
    if len(inputs) == 0:
        raise InputError("there is nothing to embed")
    return inputs


def _batch_size(tower: MediaTower, wanted: int | None, device: torch.device) -> int:
    images = wanted or _IMAGES.get(device.type, _ON_DEVICE)
    return max(1, images // (tower.frames or 1))


def _pixels(tower: MediaTower, media: Sequence[Medium], load: LoadPixels | None, device: torch.device) -> Tensor:
    load = load or load_medium
    return torch.stack([load(medium, tower.size, tower.resize, tower.sampling) for medium in media]).to(device)


def _tokens(tower: TextTower, captions: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in tower.tokenize(captions).items()}


def _parts(inputs: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [inputs[at : at + size] for at in range(0, len(inputs), size)]


def _content_names(media: Sequence[Medium]) -> list[str]:
    return [content_name(medium) for medium in media]


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextmanager
def _evaluating(module: Tower | TwoTower) -> Iterator[None]:
    """Put `module` into evaluation mode, and back."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _precision(device: torch.device | None) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if device is not None and has_bf16(device) else nullcontext()


def _precision_name(device: torch.device) -> str:
    return "bf16" if has_bf16(device) else "fp32"
