"""Files of the ids of media to keep: text, one id per line, or DataComp's .npy of 128-bit uids."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmts.errors import DataError, InputError, first_line
from mmts.files import atomic_write, why_missing

_UIDS = np.dtype([("f0", "<u8"), ("f1", "<u8")])  # the high and the low half of each uid, sorted
_UID = re.compile(r"[0-9a-f]{32}")


def write_keys(path: Path, ids: Sequence[str]) -> None:
    """Write ids: DataComp's uids, sorted, if the path ends in .npy, else text, one per line.

    Raises InputError naming an id that is not a uid (32 hexadecimal digits), or that holds a line break.
    """
    if path.suffix == ".npy":
        check_uids(path, ids)
        halves = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in ids)
        with atomic_write(path) as file:
            np.save(file, np.array(halves, _UIDS))
        return
    if broken := next((key for key in ids if len(key.splitlines()) != 1), None):
        raise InputError(f"the id {broken!r} does not fit on a line of {path}")
    with atomic_write(path, "w") as file:
        file.writelines(f"{key}\n" for key in ids)


def check_uids(path: Path, ids: Sequence[str]) -> None:
    """Raise InputError if a file that is to end in .npy cannot hold these ids."""
    if path.suffix == ".npy" and (other := next((key for key in ids if not _UID.fullmatch(key)), None)):
        raise InputError(f"{path}: the id {other!r} is not a uid of DataComp (32 hexadecimal digits); name a .txt file")


def read_keys(path: Path) -> list[str]:
    """Return the ids in a file that `write_keys`, or DataComp's filters, wrote. Raises DataError naming the file."""
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else why_missing(path)}; it must be a file of ids")
    if path.suffix != ".npy":
        try:
            return path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{path} is not text; a list of ids has one per line, and DataComp's end in .npy") from None
    try:
        uids = np.load(path, allow_pickle=False)
        return [f"{high:016x}{low:016x}" for high, low in uids.astype(_UIDS).tolist()]
    except Exception as error:  # numpy raises nearly anything on a damaged file, and TypeErrors on other contents
        raise DataError(
            f"{path} does not hold uids of DataComp, pairs of 64-bit numbers ({first_line(error)})"
        ) from None
