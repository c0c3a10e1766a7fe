"""Features of whole collections: from frozen towers computed once and cached, and embeddings without gradients."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mmts.errors import DataError, InputError
from mmts.feature_cache import cached_rows
from mmts.models.base import Tower
from mmts.models.image_towers import ImageTower
from mmts.models.text_towers import TextTower
from mmts.models.two_tower import TwoTower

Rows = npt.NDArray[np.float32]
# (path, size, resize) -> (3, size, size) float32 in [0, 1]
LoadPixels = Callable[[Path, int, str], Tensor]

# On a CPU the activations of few images stay in its cache: 16 at a time are twice as fast as 64 (efficientnet-lite0).
_CPU_IMAGES = 16
_DEVICE_IMAGES = 256


def image_features(
    tower: ImageTower,
    paths: Sequence[str | Path],
    *,
    batch_size: int | None = None,
    workers: int = 2,
    load: LoadPixels | None = None,
) -> Rows:
    """Return the tower's features (M, width) of M image files, float32, computed once and memory-mapped after that.

    Rows are kept under the hash of the tower's weights and settings and of every file's bytes, so that moved or renamed
    files are found again and changed ones are not. A file that stands there twice is computed once (the result is then
    a copy in memory). Decoding runs in threads beside the model.

    Args:
        tower: evaluated as it is, in evaluation mode, on the device it is on; bf16 where that device has it.
        paths: (M,) image files.
        batch_size: images at a time; None is 16 on a CPU, where more are slower, and 256 elsewhere.
        workers: decoding threads.
        load: reads one image; None is `mmts.data.image.load_pixels`.

    Raises:
        DataError: a file cannot be read; names it.
    """
    files = [Path(path) for path in paths]
    device = _device(tower)
    size = batch_size or (_CPU_IMAGES if device.type == "cpu" else _DEVICE_IMAGES)
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        keys = list(pool.map(_hash_file, files))
        first = {key: at for at, key in reversed(list(enumerate(keys)))}  # where each content stands first
        distinct = sorted(first.values())

        def compute(part: range) -> Rows:
            chunk = [files[distinct[at]] for at in part]
            rows = [_to_rows(tower(batch)) for batch in _pixels(tower, chunk, size, pool, load, device)]
            return np.concatenate(rows)

        with _evaluating(tower), torch.inference_mode(), _precision(device):
            rows = cached_rows(
                f"image {tower.fingerprint} {_precision_name(device)}",
                [keys[at] for at in distinct],
                tower.width,
                compute,
                unit="images",
                chunk=_chunk(size),
            )
    if len(distinct) == len(files):
        return rows
    place = {keys[at]: row for row, at in enumerate(distinct)}
    return rows[[place[key] for key in keys]]


def text_features(tower: TextTower, captions: Sequence[str], *, batch_size: int = 64) -> Rows:
    """Return the tower's features (N, width) of N captions, float32, computed once and cached.

    Only distinct captions are computed, sorted by length so that a batch carries little padding. They are kept under
    the hash of the tower's weights and settings and of the captions, whatever their order.

    Args:
        tower: evaluated as it is, in evaluation mode, on the device it is on; bf16 where that device has it.
        captions: (N,) strings, empty ones included.
        batch_size: captions at a time.
    """
    device = _device(tower)
    distinct = sorted(set(captions), key=lambda caption: (len(caption), caption))

    def compute(part: range) -> Rows:
        chunk = distinct[part.start : part.stop]
        batches = [chunk[start : start + batch_size] for start in range(0, len(chunk), batch_size)]
        return np.concatenate([_to_rows(tower(_tokens(tower, batch, device))) for batch in batches])

    with _evaluating(tower), torch.inference_mode(), _precision(device):
        rows = cached_rows(
            f"text {tower.fingerprint} {_precision_name(device)}",
            distinct,
            tower.width,
            compute,
            unit="captions",
            chunk=_chunk(batch_size),
        )
    if list(captions) == distinct:
        return rows
    place = {caption: row for row, caption in enumerate(distinct)}
    return rows[[place[caption] for caption in captions]]


def embed_media(
    model: TwoTower,
    inputs: Rows | Tensor | Sequence[Path],
    *,
    batch_size: int | None = None,
    workers: int = 2,
    load: LoadPixels | None = None,
) -> Tensor:
    """Return the unit embeddings (M, D) of media, float32 on the CPU, in chunks, without gradients, not cached.

    Args:
        model: put into evaluation mode for this, and back.
        inputs: feature rows (M, W) where the model's media tower is None, else M image files.
        batch_size: inputs at a time; None is 4,096 rows, and images as in `image_features`.
        workers: decoding threads.
        load: reads one image; None is `mmts.data.image.load_pixels`.
    """
    device = _device(model)
    with _evaluating(model), torch.inference_mode():
        if model.media_tower is None:
            return _embed_rows(model.encode_media, inputs, batch_size or 4096, device)
        files = _only(Path, inputs, "image files", "media")
        size = batch_size or (_CPU_IMAGES if device.type == "cpu" else _DEVICE_IMAGES)
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            batches = _pixels(model.media_tower, files, size, pool, load, device)
            return _join([model.encode_media(batch) for batch in batches])


def embed_text(model: TwoTower, inputs: Rows | Tensor | Sequence[str], *, batch_size: int | None = None) -> Tensor:
    """Return the unit embeddings (N, D) of captions, float32 on the CPU, in chunks, without gradients, not cached.

    Args:
        model: put into evaluation mode for this, and back.
        inputs: feature rows (N, W) where the model's text tower is None, else N captions.
        batch_size: inputs at a time; None is 4,096 rows or 64 captions.
    """
    device = _device(model)
    with _evaluating(model), torch.inference_mode():
        tower = model.text_tower
        if tower is None:
            return _embed_rows(model.encode_text, inputs, batch_size or 4096, device)
        captions: list[str] = _only(str, inputs, "captions", "text")
        order = sorted(range(len(captions)), key=lambda at: len(captions[at]))
        size = batch_size or 64
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        encoded = [model.encode_text(_tokens(tower, [captions[at] for at in part], device)) for part in parts]
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order, dtype=torch.long)] = torch.arange(len(order))
        return _join(encoded)[back]


def has_bf16(device: torch.device) -> bool:
    """Return whether `device` computes in bf16 itself; a CPU that only emulates it is slower with it.

    >>> has_bf16(torch.device("meta"))
    False
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check)() for check in checks if hasattr(torch.cpu, check))
    return False


def _embed_rows(encode: Callable[[Tensor], Tensor], rows: Any, size: int, device: torch.device) -> Tensor:
    if getattr(rows, "ndim", 0) != 2:
        raise InputError("this model has no tower on this side, so it takes feature rows (M, W), not files or captions")
    parts = [torch.as_tensor(rows[start : start + size]) for start in range(0, max(len(rows), 1), size)]
    return _join([encode(part.to(device, torch.float32)) for part in parts])


def _only(kind: type, inputs: Any, what: str, side: str) -> list[Any]:
    if hasattr(inputs, "ndim"):
        raise InputError(f"this model has a {side} tower, so it takes {what}, not feature rows")
    return [kind(each) for each in inputs]


def _join(parts: list[Tensor]) -> Tensor:
    if not parts:
        raise InputError("there is nothing to embed")
    return torch.cat([part.float().cpu() for part in parts])


def _pixels(
    tower: ImageTower,
    files: Sequence[Path],
    size: int,
    pool: ThreadPoolExecutor,
    load: LoadPixels | None,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield batches (B, 3, size, size), the next one being decoded while the model works on the present one."""
    if load is None:
        from mmts.data.image import load_pixels

        load = load_pixels
    ahead: deque[list[Future[Tensor]]] = deque()
    for start in range(0, len(files), size):
        ahead.append([pool.submit(load, path, tower.size, tower.resize) for path in files[start : start + size]])
        if len(ahead) > 2:
            yield torch.stack([future.result() for future in ahead.popleft()]).to(device)
    while ahead:
        yield torch.stack([future.result() for future in ahead.popleft()]).to(device)


def _tokens(tower: TextTower, captions: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in tower.tokenize(captions).items()}


def _hash_file(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.blake2b(file.read(), digest_size=16).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror or error}") from None


def _to_rows(features: Tensor) -> Rows:
    rows: Rows = features.float().cpu().numpy()
    return rows


def _chunk(size: int) -> int:
    """Return how many rows are computed and written at a time: about 512, in whole batches."""
    return max(512 // size, 1) * size


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


def _precision(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if has_bf16(device) else nullcontext()


def _precision_name(device: torch.device) -> str:
    return "bf16" if has_bf16(device) else "fp32"
