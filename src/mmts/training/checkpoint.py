"""Checkpoints: written beside the old one and renamed, read without unpickling anything but tensors."""

import errno
from pathlib import Path
from typing import Any

import torch

from mmts.errors import RunError
from mmts.files import atomic_write


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; a crash while writing leaves the old file. Raises OSError naming the file."""
    try:
        with atomic_write(path) as file:
            torch.save(state, file)
    except RuntimeError as error:  # what torch makes of a full disk
        message = f"cannot be written, is the disk full? ({' '.join(str(error).split())})"
        raise OSError(errno.EIO, message, str(path)) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint (weights only); raises RunError naming the file where there is none or it is damaged."""
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch and zipfile raise nearly anything on a damaged file
        raise RunError(f"{path} cannot be read as a checkpoint: it is damaged, or another kind of file") from None
    return state


def random_state() -> dict[str, Any]:
    """Return the state of torch's random generators, CPU and CUDA."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back where `random_state` found them."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
