"""Checkpoints: written beside the old one and renamed, checked byte for byte when read, never unpickled.

What a run goes on from is kept twice, last.pt and previous.pt: whenever a process is killed, one of them is whole.
"""

import errno
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from mmts.console import errors
from mmts.errors import RunError
from mmts.files import atomic_write, leftovers

_NEXT = "next.pt"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values; a crash while writing leaves the old file. Raises OSError naming the file."""
    try:
        with atomic_write(path) as file:
            torch.save(state, file)
    except RuntimeError as error:  # what torch makes of a full disk
        message = f"cannot be written, is the disk full? ({' '.join(str(error).split())})"
        raise OSError(errno.EIO, message, str(path)) from None


def save_in_turn(last: Path, previous: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint as `last`; what stood there is `previous` from then on. Raises OSError naming the file.

    At every moment one of the two is whole: the new one is written under another name, and both renamed after that.
    """
    following = last.with_name(_NEXT)
    save_checkpoint(following, state)
    if last.exists():
        os.replace(last, previous)
    os.replace(following, last)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while it wrote a checkpoint left in their folder."""
    for left in [*leftovers(folder), folder / _NEXT]:
        left.unlink(missing_ok=True)


def load_newest(last: Path, previous: Path) -> dict[str, Any] | None:
    """Read `last`, or `previous` (saying so) where that is missing or damaged; None where neither is there.

    Raises RunError where all there is is damaged.
    """
    if not last.exists() and not previous.exists():
        return None
    try:
        return load_checkpoint(last)
    except RunError as error:
        if not previous.exists():
            raise RunError(f"{error}, and there is none before it; remove it, and --resume starts over") from None
        state = load_checkpoint(previous)
        errors.print(f"note: {error}; going on from the one before it, {previous.name}")
        return state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint (weights only); raises RunError naming the file where there is none or it is damaged.

    torch itself takes a file with flipped bits, so that the checksum of every part is compared first.
    """
    if not path.is_file():
        raise RunError(f"there is no checkpoint {path}")
    try:
        _check_parts(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch and zipfile raise nearly anything on a damaged file
        state = None
    if not isinstance(state, dict):
        raise RunError(f"{path} cannot be read as a checkpoint: it is damaged, or another kind of file")
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


def _check_parts(path: Path) -> None:
    """Raise BadZipFile where a part's checksum is wrong, or a part is compressed: torch writes none, a bomb would be.

    Sizes are then those of the file, so that what is read cannot be larger than what lies on the disk.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()) or archive.testzip():
            raise zipfile.BadZipFile
