"""Features of whole collections: from frozen towers computed once and cached, and embeddings without gradients.

Several processes compute together: each takes every n-th batch, and all get all rows. The batches are those of one
process, and each is computed by one thread, so that the rows are the same bits.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmts.data.media.checks import content_name
from mmts.data.media.load import load_medium, why_unreadable
from mmts.data.records import Medium
from mmts.devices import has_bf16
from mmts.distributed.processes import alone, led, num_processes, once, shared
from mmts.errors import DataError, InputError
from mmts.feature_cache import cached_file, cached_rows
from mmts.models.base import MediaTower, TextTower
from mmts.models.two_tower import TwoTower

Rows = npt.NDArray[np.float32]

# On a CPU every worker thread runs its own batch on one core: no core waits for another, and the activations of few
# inputs stay in its cache. A batch of 8 images is twice as fast there as one of 64 (efficientnet-lite0 at 128 px).
_IMAGES_ON_CPU = 8
_CAPTIONS_ON_CPU = 32
_ON_DEVICE = 64
_ROWS = 4096  # that only pass through a head
_AT_ONCE = 64  # batches that a process computes between two exchanges
_WRITTEN_AT_ONCE = 512  # images, frames or captions of each process
_NAMED_AT_ONCE = 256  # media per task of a thread: a task costs more than reading a small image


def media_features(
    tower: MediaTower, media: Sequence[Medium], *, cached: bool = True, failed: dict[int, str] | None = None
) -> Rows:
    """Return the tower's features (M, width) of M media, float32, in bf16 precision if the device has it.

    Rows are computed once, memory-mapped, and stored under the hash of the tower's weights and settings and of every
    image's bytes; a video is identified by its path, size and time of change.

    failed: without the cache, is filled with why media cannot be read, by their positions; their rows are zeros.

    Raises DataError, naming the file, if a file cannot be read and there is no `failed`.
    """
    with _computing(tower, tower) as (compute, pool, chunk):
        if not cached:
            return compute(media, failed)
        keys = _content_names(media, pool)
        for key in keys:
            if isinstance(key, DataError):
                raise key
        return _kept_rows(_name_of(tower), tower, media, keys, compute, chunk)


def why_unreadable_by_features(tower: MediaTower, media: Sequence[Medium]) -> list[str | None]:
    """Return why each of the media cannot be read, or None, after decoding each once for its features.

    Later calls of `media_features` for the readable ones read their features from the cache. `tower` is frozen.
    """
    failed: dict[int, str] = {}  # why, by id of the medium

    def reason(medium: Medium, row: Rows) -> str | None:
        # A row of zeros was written for an unreadable medium, perhaps before an interrupt.
        return None if row.any() else why_unreadable(medium) or failed.get(id(medium))

    with _computing(tower, tower) as (compute, pool, chunk):

        def compute_or_zeros(part: Sequence[Medium]) -> Rows:
            places: dict[int, str] = {}
            rows = compute(part, places)
            failed.update({id(part[at]): why for at, why in places.items()})
            return rows

        # Stored under another name until the readable media are known, so that an interrupted pass can resume.
        name = _name_of(tower)
        pending = f"{name}, zeros if unreadable"
        keys = _content_names(media, pool)
        if any(isinstance(key, DataError) for key in keys):  # not even the bytes of a file can be read
            return once(lambda: [*pool.map(why_unreadable, media)])
        distinct = [*dict.fromkeys(keys)]
        if once(lambda: cached_file(name, distinct).exists()):  # of the same contents at other paths, all readable
            return [None] * len(media)
        rows = _kept_rows(pending, tower, media, keys, compute_or_zeros, chunk)
        reasons = once(lambda: [reason(medium, row) for medium, row in zip(media, rows, strict=True)])
        position = {id(medium): at for at, medium in enumerate(media) if reasons[at] is None}
        if position:
            readable, names = zip(*((media[at], keys[at]) for at in position.values()), strict=True)

            def readable_rows(part: Sequence[Medium]) -> Rows:
                result = rows[[position[id(medium)] for medium in part]]
                zeros = np.flatnonzero(~result.any(axis=1)).tolist()  # what failed before an interrupt is readable now
                if zeros:
                    result[zeros] = compute([part[at] for at in zeros])
                return result

            _kept_rows(name, tower, readable, names, readable_rows, chunk)
        once(lambda: cached_file(pending, distinct).unlink(missing_ok=True))
    return reasons


def _name_of(tower: MediaTower | TextTower) -> str:
    kind = "text" if isinstance(tower, TextTower) else "image" if tower.frames is None else "video"
    return f"{kind} {tower.fingerprint} {'bf16' if _in_bf16(tower) else 'fp32'}"


def _in_bf16(tower: MediaTower | TextTower) -> bool:
    return has_bf16(_device(tower)) and not tower.exact


def _content_names(media: Sequence[Medium], pool: ThreadPoolExecutor) -> list[Any]:
    """Return the name of the content of each medium, or the DataError of one whose bytes cannot be read."""

    def name(medium: Medium) -> str | DataError:
        try:
            return content_name(medium)
        except DataError as error:
            return error

    parts = shared(_parts(media, _NAMED_AT_ONCE), lambda own: pool.map(lambda part: [*map(name, part)], own))
    return [name for part in parts for name in part]


def _kept_rows(
    name: str,
    tower: MediaTower | TextTower,
    inputs: Sequence[Any],
    keys: Sequence[str],
    compute: Callable[[Sequence[Any]], Rows],
    chunk: int,
) -> Rows:
    """Return the cached rows of inputs with contents named by `keys`; `compute` gives those that the cache lacks.

    The main process writes what all compute together, and the others find its file.
    """
    if isinstance(tower, TextTower):
        ordered, unit = _distinct(keys), "captions"
    else:
        ordered, unit = list(dict.fromkeys(keys)), "images" if tower.frames is None else "videos"
    distinct = dict(zip(reversed(keys), reversed(inputs), strict=True))  # the first input with each content

    def rows(compute: Callable[[Sequence[str]], Rows]) -> Rows:
        return cached_rows(name, ordered, tower.width, compute, unit=unit, chunk=chunk)

    def compute_keys(part: Sequence[str]) -> Rows:
        return compute([distinct[key] for key in part])

    kept = led(rows, compute_keys)
    with alone():  # if the main process could not write, or its disk is not seen here, the rows are computed again
        kept = rows(compute_keys) if kept is None else kept
    return _repeated(kept, ordered, keys)


def text_features(tower: TextTower, captions: Sequence[str], *, cached: bool = True) -> Rows:
    """Return the tower's features (N, width) of N captions, as `media_features` does.

    Only distinct captions are computed, sorted by length so that a batch carries little padding.
    """
    with _computing(tower, tower) as (compute, _, chunk):
        if cached:
            return _kept_rows(_name_of(tower), tower, captions, captions, compute, chunk)
        ordered = _distinct(captions)
        return _repeated(compute(ordered), ordered, captions)


def embed_media(
    model: TwoTower, inputs: Rows | Tensor | Sequence[Medium], *, failed: dict[int, str] | None = None
) -> Tensor:
    """Return the unit embeddings (M, D) of media, float32 on the CPU, without gradients, not cached.

    inputs: feature rows (M, W) if the model's media tower is None, else M media. failed: as in `media_features`.
    """
    return _embed(model, model.media_tower, model.encode_media, inputs, failed)


def embed_text(model: TwoTower, inputs: Rows | Tensor | Sequence[str]) -> Tensor:
    """Return the unit embeddings (N, D) of N captions, or of feature rows (N, W); otherwise as `embed_media` does."""
    return _embed(model, model.text_tower, model.encode_text, inputs)


def _embed(
    model: TwoTower,
    tower: MediaTower | TextTower | None,
    encode: Callable[[Any], Tensor],
    inputs: Any,
    failed: dict[int, str] | None = None,
) -> Tensor:
    if tower is None and getattr(inputs, "ndim", 0) != 2:
        raise InputError("this model has no tower on this side, so it takes feature rows (M, W)")
    if tower is not None and hasattr(inputs, "ndim"):
        takes = "captions" if isinstance(tower, TextTower) else "media"
        raise InputError(f"this model has a tower on this side, so it takes {takes}, not feature rows")
    if len(inputs) == 0:
        raise InputError("there is nothing to embed")
    ordered = _distinct(inputs) if isinstance(tower, TextTower) else inputs
    with _computing(model, tower, encode) as (compute, *_):
        rows = compute(ordered, failed)
    return torch.from_numpy(_repeated(rows, ordered, inputs) if isinstance(tower, TextTower) else rows)


def _distinct(captions: Sequence[str]) -> list[str]:
    return sorted(set(captions), key=lambda caption: (len(caption), caption))


def _repeated(rows: Rows, ordered: Sequence[str], keys: Sequence[str]) -> Rows:
    """Return the row of each key, from the rows of the distinct keys `ordered`; the rows themselves if they agree."""
    if list(keys) == ordered:
        return rows
    place = {key: row for row, key in enumerate(ordered)}
    return rows[[place[key] for key in keys]]


def _parts(inputs: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [inputs[at : at + size] for at in range(0, len(inputs), size)]


@contextmanager
def _computing(
    module: nn.Module, tower: MediaTower | TextTower | None, encode: Callable[[Any], Tensor] | None = None
) -> Iterator[tuple[Callable[..., Rows], ThreadPoolExecutor, int]]:
    """Yield a function from a tower's media or captions to rows, its threads, and how many rows to ask for at a time.

    tower: None if the inputs are feature rows. encode: None is the tower itself, which may compute in bf16.
    """
    device = _device(module)
    frames = tower.frames if isinstance(tower, MediaTower) else None
    if tower is None:
        size = _ROWS
    elif device.type != "cpu":
        size = _ON_DEVICE
    else:
        size = _CAPTIONS_ON_CPU if isinstance(tower, TextTower) else _IMAGES_ON_CPU
    size = max(1, size // (frames or 1))

    def pixels(batch: Sequence[Medium], failed: dict[int, str] | None) -> Tensor:
        assert isinstance(tower, MediaTower)
        loaded = []
        for at, medium in enumerate(batch):
            try:
                loaded.append(load_medium(medium, tower.size, tower.resize, tower.sampling))
            except DataError as error:
                if failed is None:
                    raise
                failed[at] = str(error).removeprefix(f"{medium.place}: ")
                loaded.append(torch.zeros(*(() if frames is None else (frames,)), 3, tower.size, tower.size))
        return torch.stack(loaded)

    def run(batch: Any, zeros: bool) -> tuple[Rows, dict[int, str]]:
        # Both modes belong to a thread, so they are entered here.
        bf16 = encode is None and tower is not None and _in_bf16(tower)
        failed: dict[int, str] = {}
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            inputs: Any
            if isinstance(tower, MediaTower):
                inputs = pixels(batch, failed if zeros else None).to(device)
            elif tower is None:
                inputs = torch.as_tensor(batch).to(device, torch.float32)
            else:
                inputs = {name: value.to(device) for name, value in tower.tokenize(batch).items()}
            rows: Rows = (encode or module)(inputs).float().cpu().numpy()
        rows[[*failed]] = 0
        return rows, failed

    def compute(inputs: Sequence[Any], failed: dict[int, str] | None = None) -> Rows:
        rows: list[Rows] = []
        work = partial(run, zeros=failed is not None)
        for chunk in _parts(_parts(inputs, size), _AT_ONCE * num_processes()):
            for part, why in shared(chunk, lambda own: pool.map(work, own)):
                if failed is not None:
                    failed |= {len(rows) * size + at: reason for at, reason in why.items()}
                rows.append(part)
        return np.concatenate(rows)

    threads, training = torch.get_num_threads(), module.training
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        module.eval()
        yield compute, pool, max(1, _WRITTEN_AT_ONCE // (frames or 1) // size) * size * num_processes()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
        module.train(training)


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
