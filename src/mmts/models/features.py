"""Features of whole collections: from frozen towers computed once and cached, and embeddings without gradients."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
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
from mmts.models.base import MediaTower, TextTower
from mmts.models.two_tower import TwoTower

Rows = npt.NDArray[np.float32]
LoadPixels = Callable[..., Tensor]
"""(medium, size, resize, sampling) -> (3, size, size) or (F, 3, size, size) float32 in [0, 1]."""

# On a CPU every worker thread runs its own batch on one core: no core waits for another, and the activations of few
# inputs stay in its cache. A batch of 8 images is twice as fast there as one of 64 (efficientnet-lite0 at 128 px).
_IMAGES_ON_CPU = 8
_CAPTIONS_ON_CPU = 32
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

    Rows are stored under the hash of the tower's weights and settings and of every image's bytes, so that they are
    reused if files are moved or renamed, and computed again if files change. A video is identified by its path, size
    and time of change. A repeated medium is computed once.

    The tower runs in evaluation mode on its present device, in bf16 if the device has it.

    batch_size: images, or frames of videos, at a time in each thread; None is 8 on a CPU and 64 elsewhere.
    workers: threads that decode and compute, each on its own batch; None is torch's number of threads.
    load: reads one medium; None is `mmts.data.media.load.load_medium`.
    cached: read and write the cache; otherwise all rows are computed.

    Raises DataError, naming the file, if a file cannot be read.
    """
    with _computing(tower, tower, batch_size, workers, load, bf16=True) as (compute, pool):
        if not cached:
            return compute(media)
        return _media_rows(_name_of(tower), tower, media, _content_names(media, pool), compute)


def why_unreadable_by_features(tower: MediaTower, media: Sequence[Medium]) -> list[str | None]:
    """Return why each of the media cannot be read, or None, after decoding each once for its features.

    Later calls of `media_features` for the readable ones read their features from the cache. `tower` is frozen.
    """
    failed: dict[int, str] = {}  # why, by id of the medium

    def load(medium: Medium, *options: Any) -> Tensor:
        try:
            return load_medium(medium, *options)
        except DataError as error:
            failed[id(medium)] = str(error).removeprefix(f"{medium.place}: ")
            return torch.zeros(*(() if tower.frames is None else (tower.frames,)), 3, tower.size, tower.size)

    def reason(medium: Medium, row: Rows) -> str | None:
        # A row of zeros was written for an unreadable medium, perhaps before an interrupt.
        return None if row.any() else why_unreadable(medium) or failed.get(id(medium))

    with _computing(tower, tower, load=load, bf16=True) as (compute, pool):

        def compute_or_zeros(chunk: Sequence[Medium]) -> Rows:
            rows = compute(chunk)
            rows[[id(medium) in failed for medium in chunk]] = 0
            return rows

        # Stored under another name until the readable media are known, so that an interrupted pass can resume.
        name = _name_of(tower)
        pending = f"{name}, zeros if unreadable"
        try:
            keys = _content_names(media, pool)
        except DataError:  # not even the bytes of a file can be read
            return [*pool.map(why_unreadable, media)]
        if cached_file(name, [*dict.fromkeys(keys)]).exists():  # of the same contents at other paths, all readable
            return [None] * len(media)
        rows = _media_rows(pending, tower, media, keys, compute_or_zeros)
        reasons = [reason(medium, row) for medium, row in zip(media, rows, strict=True)]
        position = {id(medium): at for at, medium in enumerate(media) if reasons[at] is None}
        if position:
            readable, names = zip(*((media[at], keys[at]) for at in position.values()), strict=True)

            def readable_rows(part: Sequence[Medium]) -> Rows:
                result = rows[[position[id(medium)] for medium in part]]
                zeros = np.flatnonzero(~result.any(axis=1)).tolist()  # what failed before an interrupt is readable now
                if zeros:
                    result[zeros] = compute([part[at] for at in zeros])
                return result

            _media_rows(name, tower, readable, names, readable_rows)
        cached_file(pending, [*dict.fromkeys(keys)]).unlink(missing_ok=True)
    return reasons


def _name_of(tower: MediaTower | TextTower) -> str:
    kind = "text" if isinstance(tower, TextTower) else "image" if tower.frames is None else "video"
    return f"{kind} {tower.fingerprint} {'bf16' if _in_bf16(tower) else 'fp32'}"


def _in_bf16(tower: MediaTower | TextTower) -> bool:
    return has_bf16(_device(tower)) and not tower.exact


def _content_names(media: Sequence[Medium], pool: ThreadPoolExecutor) -> list[str]:
    names = pool.map(lambda part: [content_name(medium) for medium in part], _parts(media, _NAMED_AT_ONCE))
    return [name for part in names for name in part]


def _media_rows(
    name: str,
    tower: MediaTower,
    media: Sequence[Medium],
    keys: Sequence[str],
    compute: Callable[[Sequence[Medium]], Rows],
) -> Rows:
    """Return the cached rows of media with contents named by `keys`; `compute` gives those that the cache lacks."""
    distinct = dict(zip(reversed(keys), reversed(media), strict=True))  # the first medium with each content
    ordered = list(dict.fromkeys(keys))
    rows = cached_rows(
        name,
        ordered,
        tower.width,
        lambda part: compute([distinct[key] for key in part]),
        unit="images" if tower.frames is None else "videos",
        chunk=max(1, 512 // (tower.frames or 1)),
    )
    return _repeated(rows, ordered, keys)


def text_features(
    tower: TextTower,
    captions: Sequence[str],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    cached: bool = True,
) -> Rows:
    """Return the tower's features (N, width) of N captions, float32, computed once and cached.

    Only distinct captions are computed, sorted by length so that a batch carries little padding. They are stored under
    the hash of the tower's weights and settings and of the captions, whatever their order. Arguments are those of
    `media_features`, except that `batch_size` is 32 captions on a CPU by default.
    """
    ordered = _distinct(captions)
    with _computing(tower, tower, batch_size, workers, bf16=True) as (compute, _):
        if cached:
            rows = cached_rows(_name_of(tower), ordered, tower.width, compute, unit="captions", chunk=512)
        else:
            rows = compute(ordered)
    return _repeated(rows, ordered, captions)


def embed_media(
    model: TwoTower,
    inputs: Rows | Tensor | Sequence[Medium],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    load: LoadPixels | None = None,
) -> Tensor:
    """Return the unit embeddings (M, D) of media, float32 on the CPU, without gradients, not cached.

    inputs: feature rows (M, W) if the model's media tower is None, else M media.
    batch_size: inputs at a time; None is 4,096 rows, and media as in `media_features`, like `workers` and `load`.
    """
    return _embed(model, model.media_tower, model.encode_media, inputs, batch_size, workers, load)


def embed_text(
    model: TwoTower,
    inputs: Rows | Tensor | Sequence[str],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Tensor:
    """Return the unit embeddings (N, D) of N captions, or of feature rows (N, W); otherwise as `embed_media` does."""
    return _embed(model, model.text_tower, model.encode_text, inputs, batch_size, workers)


def _embed(
    model: TwoTower,
    tower: MediaTower | TextTower | None,
    encode: Callable[[Any], Tensor],
    inputs: Any,
    batch_size: int | None,
    workers: int | None,
    load: LoadPixels | None = None,
) -> Tensor:
    if tower is None:
        if getattr(inputs, "ndim", 0) != 2:
            raise InputError("this model has no tower on this side, so it takes feature rows (M, W)")
        with _evaluating(model), torch.no_grad():
            parts = torch.split(torch.as_tensor(inputs), batch_size or 4096)
            return torch.cat([encode(part.to(_device(model), torch.float32)).float().cpu() for part in parts])
    if hasattr(inputs, "ndim"):
        takes = "captions" if isinstance(tower, TextTower) else "media"
        raise InputError(f"this model has a tower on this side, so it takes {takes}, not feature rows")
    if len(inputs) == 0:
        raise InputError("there is nothing to embed")
    ordered = _distinct(inputs) if isinstance(tower, TextTower) else inputs
    with _computing(model, tower, batch_size, workers, load, encode=encode) as (compute, _):
        rows = compute(ordered)
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
    module: nn.Module,
    tower: MediaTower | TextTower,
    batch_size: int | None = None,
    workers: int | None = None,
    load: LoadPixels | None = None,
    encode: Callable[[Any], Tensor] | None = None,
    bf16: bool = False,
) -> Iterator[tuple[Callable[[Sequence[Any]], Rows], ThreadPoolExecutor]]:
    """Yield a function from a tower's media or captions to rows of `encode`, and the threads that it computes in.

    encode: from pixels or tokens on the device of `module` to rows; None is the tower itself.
    """
    device = _device(module)
    on_cpu = device.type == "cpu"
    if isinstance(tower, MediaTower):
        size = max(1, (batch_size or (_IMAGES_ON_CPU if on_cpu else _ON_DEVICE)) // (tower.frames or 1))
    else:
        size = batch_size or (_CAPTIONS_ON_CPU if on_cpu else _ON_DEVICE)

    def run(batch: Sequence[Any]) -> Rows:
        # Both modes belong to a thread, so they are entered here.
        precision = torch.autocast(device.type, torch.bfloat16) if bf16 and _in_bf16(tower) else nullcontext()
        with torch.inference_mode(), precision:
            inputs: Any
            if isinstance(tower, MediaTower):
                read = load or load_medium
                inputs = torch.stack([read(medium, tower.size, tower.resize, tower.sampling) for medium in batch])
                inputs = inputs.to(device)
            else:
                inputs = {name: value.to(device) for name, value in tower.tokenize(batch).items()}
            rows: Rows = (encode or tower)(inputs).float().cpu().numpy()
        return rows

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers or threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with _evaluating(module):
            yield lambda inputs: np.concatenate(list(pool.map(run, _parts(inputs, size)))), pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode, and back."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
