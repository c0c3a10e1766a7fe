"""Write files so that a reader never sees half of one, lock them, say why one is missing, and name their contents."""

import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

from filelock import SoftFileLock, Timeout

from mmts.console import errors
from mmts.errors import DataError, RunError

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # the names that `_beside` gives
# Seconds: where a file cannot be exchanged for another at once, taking over a dead process's lock needs two looks.
_TAKING_OVER = 0.3


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it over `path` once everything is written and flushed.

    If the body raises, `path` is left as it was and the temporary file is removed.
    """
    path = Path(path)
    check_file_path(path)
    with _beside(path) as temporary:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, and rename it to `path` once the body has filled it.

    If the body raises, nothing is left. Raises FileExistsError, before the body runs, if anything is at `path`.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise FileExistsError(errno.EEXIST, "is there already; remove it, or choose another place", str(path))
    with _beside(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            flush_to_disk(file)
        temporary.rename(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, at which the body makes what it then renames; errors name `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _errors_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            flush_to_disk(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True) if temporary.is_dir() else temporary.unlink(missing_ok=True)
            raise


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Let an OSError of the system name `path`: otherwise it names a temporary file or, if the disk is full, none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library, with its own message
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files left in a folder by processes that were killed during an `atomic_write`."""
    return [file for file in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(file.name) and file.is_file()]


def append_line(path: Path, line: str) -> None:
    """Add one line to a text file. Raises OSError naming it, also if its folder is gone."""
    with _errors_name(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut; does nothing if nothing is at `path`."""
    if not path.exists():
        return
    with suppress(OSError) if path.is_dir() else nullcontext():  # some systems cannot flush folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def file_name(text: str) -> str:
    """Return a file name for any text, with no folder in it; different texts get different names.

    >>> file_name("val 2014"), file_name("../../x"), file_name("x")
    ('val 2014', 'x-ed1f9d', 'x')
    """
    plain = re.sub(r"[^\w.+ -]+", "-", text)[:55].strip(". -")
    return plain if plain and plain == text else f"{plain or 'name'}-{content_hash(text)[:6]}"


def check_file_path(path: Path) -> None:
    """Raise OSError if `path` is a folder or has a file above it, before anything is computed for that file."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, and a file is to be written there", str(path))
    for above in path.parents:
        if above.is_file():
            raise NotADirectoryError(errno.ENOTDIR, f"is a file, so that there is no place for {path}", str(above))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path, "w") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raises DataError naming it if it is damaged, OSError if it cannot be opened."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path} is damaged: it is not JSON") from None


def read_kept(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file of the cache; None if it is missing or damaged."""
    try:
        return dict(read_json(file))
    except (OSError, DataError, ValueError, TypeError):
        return None


def keep(file: Path, value: Mapping[Any, Any]) -> None:
    """Write an object into the cache; if that fails, print a note: the next run computes it again."""
    try:
        write_json(file, value)
    except (OSError, ValueError) as error:
        errors.print(f"note: cannot write {file} ({error})")


def why_missing(path: Path, guess: bool = True) -> str:
    """Say why nothing can be opened at a path, to follow its name in a message; `guess` adds a similar name.

    >>> why_missing(Path("/nowhere/photos"), guess=False)
    'does not exist, nor does /nowhere'
    """
    for gone in (*reversed(path.parents), path):
        try:
            os.stat(gone)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return f"cannot be opened: {gone}: {error.strerror}"
            break
        except ValueError:
            return "cannot be a path"
    else:
        return "is neither a file nor a folder" if os.access(path, os.R_OK) else "cannot be opened: Permission denied"
    if gone.is_symlink():
        link = f"a link that leads nowhere, to {os.readlink(gone)}"
        return f"is {link}" if gone == path else f"does not exist: {gone} is {link}"
    if gone.parent.is_file():
        return f"does not exist: {gone.parent} is a file, not a folder"
    names: list[str] = []
    with suppress(OSError):
        names = [item.name for item in islice(gone.parent.iterdir(), 10_000 if guess else 0)]
    near = [gone.parent / name for name in difflib.get_close_matches(gone.name, names)]
    meant = next((f"; did you mean {item}?" for item in near if os.path.exists(item)), "")  # item.exists() may raise
    return f"does not exist{meant}" if gone == path else f"does not exist, nor does {gone}{meant}"


@contextmanager
def locked(file: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock `file` while the body runs: one process at a time, on all machines that share the disk.

    After a kill it is taken over at once on the same machine; from another machine nobody can see whether the holder
    still runs. If another process holds it, RunError says which one; with `wait` this prints it instead, and waits.
    """
    lock = SoftFileLock(file)
    check_file_path(file)
    with _errors_name(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_TAKING_OVER)
        except Timeout:
            holder = _holder(file)
            remedy = f"wait for it, or stop it (if it is not running, remove {file})"
            message = f"{file.parent} is in use by {holder}; {remedy}"
            if not wait:
                raise RunError(message) from None
            errors.print(f"note: waiting: {message}")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    """Name the process and the machine that hold a lock."""
    with suppress(OSError, ValueError):  # just released, or not yet written
        process, machine = file.read_text(encoding="utf-8", errors="replace").splitlines()[:2]
        return f"process {process} on {machine}"
    return "another process"


def held_by(file: Path) -> tuple[str, bool] | None:
    """Return who holds the lock `file`, and whether on this machine; None if nobody does, or a process that is dead.

    The lock is not touched: to take it, even for a moment, would stand in the way of a process that starts. Whether
    the holder runs is a question to filelock about a copy. On another machine it is taken to run.
    """
    with tempfile.TemporaryDirectory() as folder, suppress(FileNotFoundError):
        own, copy = Path(folder) / "own", Path(folder) / "copy"
        shutil.copy2(file, copy)
        try:
            with SoftFileLock(copy, timeout=0.05, poll_interval=0.02):  # time for two looks: see _TAKING_OVER
                return None
        except Timeout:
            with SoftFileLock(own):
                return _holder(file), _holder(own).partition(" on ")[2] == _holder(copy).partition(" on ")[2]
    return None


def as_address(path: str | Path) -> str | None:
    """Return a path that is an address (s3, gs, hf, http or https) as one; None for a path on this machine.

    >>> as_address(Path("s3://bucket/a.tar")), as_address("hf://datasets/a/b"), as_address("photos/a.tar")
    ('s3://bucket/a.tar', 'hf://datasets/a/b', None)
    """
    matched = re.match(r"(s3|gs|hf|https?):/+", str(path))  # a Path keeps one slash of two
    return None if matched is None else f"{matched[1]}://{str(path)[matched.end() :]}"


def content_hash(*parts: str | bytes) -> str:
    """Name contents: 32 hex digits of BLAKE2b over the length-prefixed parts.

    >>> content_hash("ab", "c") == content_hash("a", "bc")
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def cache_root() -> Path:
    """Return the folder for what can be computed again: $MMTS_CACHE, else $XDG_CACHE_HOME/mmts, else ~/.cache/mmts."""
    if chosen := os.environ.get("MMTS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmts"
