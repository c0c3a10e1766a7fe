"""Sharded state in a checkpoint: each process writes its share by torch.distributed.checkpoint, any number read it.

A folder step-N beside last.pt holds the weights, their average and the optimizer's moments; last.pt has its name and
the checksums of its files. It holds tensors alone; of its description, a pickle, torch's plain classes alone are read.
"""

import errno
import pickle
import re
import shutil
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from mmts.distributed.processes import num_processes, once, process_index
from mmts.errors import RunError
from mmts.models import TwoTower
from mmts.objectives import Objective
from mmts.training.averages import MovingAverage

_DESCRIPTION = ".metadata"
_PLAIN = {
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}


def save_shards(
    folder: Path, model: TwoTower, objective: Objective, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> dict[str, Any]:
    """Write this process's share into `folder`, which is new; return what last.pt has to say of it.

    All processes call it. Raises OSError, naming the folder, if one of them cannot write.
    """
    once(lambda: shutil.rmtree(folder, ignore_errors=True))  # left by a process that was killed here
    state, _ = _tensors(model, objective, optimizer, average)
    try:
        save(state, checkpoint_id=folder)
    except CheckpointException as error:
        raise OSError(errno.EIO, f"cannot be written, is the disk full? ({_reasons(error)})", str(folder)) from None
    own = [*folder.glob(f"__{process_index()}_*"), *([folder / _DESCRIPTION] if process_index() == 0 else [])]
    sums: list[dict[str, int]] = [{} for _ in range(num_processes())]
    distributed.all_gather_object(sums, {file.name: _checksum(file) for file in own})
    written = {"folder": folder.name, "files": {name: value for part in sums for name, value in part.items()}}
    once(lambda: check_shards(folder.parent, written, read=False))
    return written


def check_shards(checkpoints: Path, written: Mapping[str, Any], read: bool = True) -> None:
    """Raise RunError, naming the file, if shards that last.pt names are missing or, if they are `read`, damaged."""
    try:
        folder, files = str(written["folder"]), dict(written["files"])
        inside = re.fullmatch(r"step-\d+", folder) and all(PurePath(name).name == name for name in files)
    except (TypeError, ValueError, LookupError):
        inside = False
    if not inside:
        raise RunError(f"a checkpoint in {checkpoints} names shards that mmts does not write")
    for name, checksum in files.items():
        file = checkpoints / folder / name
        if not file.is_file():
            raise RunError(f"{file} is missing; all processes must write their shards to one disk")
        if read and _checksum(file) != checksum:
            raise RunError(f"{file} is damaged")


def load_shards(
    folder: Path, model: TwoTower, objective: Objective, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> None:
    """Load weights, moments and average from `save_shards`, by however many processes, sharded or whole.

    All processes call it. Raises ValueError for another model's.
    """
    state, moments = _tensors(model, objective, optimizer, average)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a single process reads alone
            load(state, storage_reader=_Reader(folder))
    except CheckpointException as error:
        raise ValueError(_reasons(error)) from None
    model.load_trainable_state_dict(state["weights"])
    set_optimizer_state_dict(_both(model, objective), optimizer, moments)


def _tensors(
    model: TwoTower, objective: Objective, optimizer: torch.optim.Optimizer, average: MovingAverage | None
) -> tuple[dict[str, Any], Any]:
    """Return the tensors to write or to fill, and the optimizer's state that has some of them."""
    moments = get_optimizer_state_dict(_both(model, objective), optimizer)
    state = {"weights": model.trainable_state_dict(), "moments": moments["state"]}
    return state | ({} if average is None else {"average": average.state}), moments


def _both(model: TwoTower, objective: Objective) -> nn.Module:
    return nn.ModuleDict({"model": model, "objective": objective})


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _reasons(error: CheckpointException) -> str:
    """Say what was wrong on the first process that failed."""
    return " ".join(str(next(iter(error.failures.values()))[0]).split())


class _Description(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which torch does not write there")


class _Reader(FileSystemReader):
    """torch's reader, which runs no code that a checkpoint names and leaves its folder alone."""

    def read_metadata(self, *args: Any, **options: Any) -> Metadata:
        with (Path(self.path) / _DESCRIPTION).open("rb") as file:
            description = _Description(file).load()
        if not isinstance(description, Metadata):
            raise pickle.UnpicklingError("it describes no checkpoint")
        for place in description.storage_data.values():
            if PurePath(place.relative_path).name != place.relative_path:
                raise pickle.UnpicklingError(f"it names the file {place.relative_path!r} outside its folder")
        description.storage_meta = StorageMeta(load_id=self.load_id)
        return description
