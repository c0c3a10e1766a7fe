"""Watch which files Python opens or changes and what it starts, so that a test can check what a reader of files did."""

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Folders that may be read at any time: code that is imported late, and files that Python and its libraries read.
_READABLE = {
    os.path.realpath(path)
    for path in (
        *sysconfig.get_paths().values(),
        sys.prefix,
        sys.base_prefix,
        Path(__file__).parents[2],
        "/proc",
        "/dev",
    )
}
_CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.symlink", "os.link", "os.truncate"}
_STARTS = {
    "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class", "os.fork"
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC

_allowed: list[str] | None = None
_violations: list[str] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event in _STARTS:
        _violations.append(f"{event}{arguments!r:.200}")
    elif event == "open":
        path, mode, flags = arguments
        writes = bool(flags & _WRITES) if isinstance(flags, int) else bool(mode) and mode != "r"
        if not isinstance(path, int) and not _inside(path, writes):
            _violations.append(f"open {path!r} to {'write' if writes else 'read'}")
    elif event in _CHANGES:
        for path in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
            if not isinstance(path, int) and not _inside(path, True):
                _violations.append(f"{event} {path!r}")
    elif event in ("os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes | os.PathLike):
        _note("open", (arguments[0], "r", None))


def _inside(path: Any, writes: bool) -> bool:
    assert _allowed is not None
    real = os.path.realpath(os.fsdecode(path)) if "\0" not in os.fsdecode(path) else ""
    folders = _allowed if writes else [*_allowed, *_READABLE]
    return not real or any(real == folder or real.startswith(folder + os.sep) for folder in folders)


sys.addaudithook(_note)  # a hook cannot be removed, so it does nothing outside of `watched`


@contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """Fail if the body writes outside these folders, reads outside these and Python's own, or starts anything."""
    global _allowed
    _violations.clear()
    _allowed = [os.path.realpath(folder) for folder in folders]
    try:
        yield
    finally:
        _allowed = None
    assert not _violations, _violations
