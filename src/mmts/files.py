"""Writing files so that a reader never sees half of one, and naming contents by their hash."""

import difflib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from filelock import SoftFileLock, Timeout

from mmts.console import errors
from mmts.errors import DataError, RunError

_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as atomic_write's mkstemp names them
# Seconds: where a file cannot be exchanged for another at once, a dead process's lock takes two looks.
_TAKING_OVER = 0.3


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it over `path` once everything is written and flushed.

    Where the body raises, `path` is left as it was and the temporary file is removed.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(target, "w") as file:
    ...     _ = file.write("done")
    >>> target.read_text()
    'done'
    """
    path = Path(path)
    check_file_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise _about(error, path) from None
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _about(error, path) from None
        raise


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder beside `path`, and rename it to `path` once the body has filled it.

    Where the body raises, nothing is left. FileExistsError where there is anything at `path`, before the body runs.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a"
    >>> with atomic_folder(target) as folder:
    ...     _ = (folder / "b.txt").write_text("done")
    >>> [each.name for each in target.iterdir()]
    ['b.txt']
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise FileExistsError(errno.EEXIST, "is there already; remove it, or choose another place", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    except OSError as error:
        raise _about(error, path) from None
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            if file.is_file():
                flush_to_disk(file)
        temporary.rename(path)
        _flush_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:  # else it is a library's own, with words of its own
            raise _about(error, path) from None
        raise


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files that processes killed during an `atomic_write` into a folder left there.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / ".a.json.x1y2z3_4.tmp").touch(), (folder / "a.json").touch()
    (None, None)
    >>> [each.name for each in leftovers(folder)]
    ['.a.json.x1y2z3_4.tmp']
    """
    return [each for each in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(each.name) and each.is_file()]


def append_line(path: Path, line: str) -> None:
    """Add one line to a text file. Raises OSError naming it: a full disk by itself names nothing."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise _about(error, path) from None


def file_name(text: str) -> str:
    """Return a file name for any text, with no folder in it; different texts get different names.

    >>> file_name("val 2014"), file_name("../../x"), file_name("x")
    ('val 2014', 'x-ed1f9d', 'x')
    """
    plain = re.sub(r"[^\w.+ -]+", "-", text)[:55].strip(". -")
    return plain if plain and plain == text else f"{plain or 'name'}-{content_hash(text)[:6]}"


def flush_to_disk(path: Path) -> None:
    """Wait until a file's contents would outlive the machine's power; nothing where there is no such file."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def check_file_path(path: Path) -> None:
    """Raise OSError where a folder stands at `path`, or a file above it, before anything is computed for that file."""
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
    """Read a JSON file; raises DataError naming it where it is damaged, OSError where it cannot be opened."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        raise DataError(f"{path} is damaged: it is not JSON") from None


def read_kept(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file of the cache, None where there is none or it is damaged."""
    try:
        return dict(read_json(file))
    except (OSError, DataError, ValueError, TypeError):
        return None


def keep(file: Path, value: Mapping[Any, Any]) -> None:
    """Write an object into the cache; where that fails, which costs the next run the same work, say so and go on."""
    try:
        write_json(file, value)
    except (OSError, ValueError) as error:
        errors.print(f"note: cannot write {file} ({error})")


def why_missing(path: Path, guess: bool = True) -> str:
    """Say, to go on after a path, why nothing can be opened there and, with `guess`, which name was perhaps meant.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "photos").mkdir()
    >>> why_missing(folder / "fotos").replace(str(folder), "DATA")
    'does not exist; did you mean DATA/photos?'
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
        leads = f"a link that leads nowhere, to {os.readlink(gone)}"
        return f"is {leads}" if gone == path else f"does not exist: {gone} is {leads}"
    if gone.parent.is_file():
        return f"does not exist: {gone.parent} is a file, not a folder"
    try:
        names = [each.name for each in islice(gone.parent.iterdir(), 10_000 if guess else 0)]
    except OSError:
        names = []
    near = [gone.parent / name for name in difflib.get_close_matches(gone.name, names)]
    meant = next((f"; did you mean {each}?" for each in near if os.path.exists(each)), "")
    return f"does not exist{meant}" if gone == path else f"does not exist, nor does {gone}{meant}"


@contextmanager
def locked(file: Path, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock `file` while the body runs: one process at a time, of all machines that share the disk.

    The file, which is gone afterwards, names the process and the machine that hold it. After a kill it is taken over at
    once on the same machine; from another one nobody can see whether the holder still runs. While somebody else holds
    it, RunError says who, or `on_wait` is called with the same words and this waits. OSError where the file cannot be
    written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / ".lock"
    >>> with locked(file):
    ...     with locked(file):
    ...         pass
    Traceback (most recent call last):
    mmts.errors.RunError: ... is in use by process ... on ...; wait for it, or stop it (if it runs no more, remove ...)
    """
    lock = SoftFileLock(file)
    check_file_path(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_TAKING_OVER)
        except Timeout:
            remedy = f"wait for it, or stop it (if it runs no more, remove {file})"
            held = f"{file.parent} is in use by {_holder(file)}; {remedy}"
            if on_wait is None:
                raise RunError(held) from None
            on_wait(held)
            lock.acquire()
    except OSError as error:
        raise _about(error, file) from None
    try:
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    """Name who holds a lock, as SoftFileLock writes it down."""
    try:
        process, machine = file.read_text(encoding="utf-8", errors="replace").splitlines()[:2]
    except (OSError, ValueError):  # just released, or not yet written
        return "another process"
    return f"process {process} on {machine}"


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


def _about(error: OSError, path: Path) -> OSError:
    """Return the same error about the file that was asked for, not the temporary one (or, on a full disk, none)."""
    return type(error)(error.errno, error.strerror, str(path))


def _flush_folder(folder: Path) -> None:
    """Have a rename outlive the machine's power, where the system can say so."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some systems flush files only
        pass
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
