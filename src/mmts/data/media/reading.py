"""Read many files at once, in threads, say why a file cannot be read, and report once what libraries warn of."""

import os
import stat
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mmts.console import console, progress_bar
from mmts.errors import DataError, counted
from mmts.files import why_missing

T = TypeVar("T")
R = TypeVar("R")

_show_as_python_does = warnings.showwarning
_reading = threading.local()
_first_warnings: dict[str, str] = {}  # by place; empty once it was printed


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """Open a pool of threads; waiting jobs are dropped if the body raises. Decoders leave Python free meanwhile."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def in_threads(function: Callable[[T], R], items: Collection[T], title: str, unit: str) -> Iterator[R]:
    """Yield the function's results for the items, in order, under a progress bar."""
    with threads() as pool, progress_bar(title, len(items), unit) as bar:
        for result in pool.map(function, items):
            yield result
            bar.advance()


def check_file(path: Path) -> None:
    """Raise DataError that says why, without the name, unless a path is a regular file with anything in it."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise DataError(why_missing(path, guess=False)) from None
    except (OSError, ValueError) as error:  # a link to itself, a NUL in the name
        raise DataError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(state.st_mode):
        raise DataError("is a folder, not a file")
    if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for its writer
        raise DataError("is not a regular file")
    if not state.st_size:
        raise DataError("is empty (0 bytes)")


def file_state(path: Path) -> tuple[int | None, int]:
    """Return the size of a file, None for anything else, and the modification time, which tell a changed file."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None, 0
    return state.st_size if stat.S_ISREG(state.st_mode) else None, state.st_mtime_ns


@contextmanager
def kept_warnings(place: object) -> Iterator[None]:
    """Keep the warnings of this thread for the file at `place` while it is read; drop them if reading it fails.

    Unlike warnings.catch_warnings this is safe in threads. A hook that another library has installed stays.
    """
    if warnings.showwarning is _show_as_python_does:
        warnings.showwarning = _keep
        warnings.filterwarnings("always", module=r"PIL\.")  # by default Python shows each text only once
    texts: list[str] = []
    _reading.texts = texts
    try:
        yield
    finally:
        _reading.texts = None
    if texts:
        _first_warnings.setdefault(str(place), texts[0])


def tell_warnings() -> None:
    """Print how many files were read with warnings since the last call, and the first of them."""
    new = [(place, text) for place, text in list(_first_warnings.items()) if text]
    if not new:
        return
    _first_warnings.update((place, "") for place, _ in new)
    place, text = new[0]
    console.print(f"note: {counted(len(new), 'file')} read with a warning, the first: {place}: {text}")


def _keep(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    texts: list[str] | None = getattr(_reading, "texts", None)
    if texts is None:
        _show_as_python_does(message, category, *where, **more)
    elif category.__name__ != "DecompressionBombWarning":  # we have our own limit
        texts.append(" ".join(str(message).split()))
