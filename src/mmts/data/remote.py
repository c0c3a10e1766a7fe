"""Fetch shards and tables from s3://, gs://, hf:// and http(s):// into the cache, which keeps their names and folders.

A file is at remote/SCHEME/HOST/... in the cache only once all of it is there; beside it is what the server said about
it, by which a later change is noticed.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from mmts.console import errors, progress_bar
from mmts.data.formats.parts import expanded, find_files
from mmts.data.media.reading import in_threads, threads
from mmts.data.records import SPLITS, split_name
from mmts.errors import DataError, first_line
from mmts.files import atomic_write, cache_root, leftovers, locked, read_kept, write_json

T = TypeVar("T")
_SUFFIXES = (".tar", ".parquet")  # the first that a folder has counts
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}
# What tells a changed file, best first, as the libraries name it.
_MARKS = ("md5Hash", "Content-MD5", "blob_id", "ETag", "etag", "Last-Modified", "LastModified", "created")
_TRIES = 5  # of each request
_WAIT = 1.0  # seconds after the first failure; twice as long after each further one
_CHUNK = 1 << 23  # bytes per request
_GLOB = "*?["
_PASSING = (408, 425, 429)  # of the statuses 4xx, those that may pass


def fetch_data(address: str) -> tuple[Path, str]:
    """Fetch the shards or tables at an address; return the path in the cache that stands for it, and their suffix.

    The address is a .tar or .parquet file, braces, a glob in its name, or a folder with such files or with folders
    named train, val and test. Raises DataError for a missing package or file, a file that changed or vanished since it
    was fetched, and a request that failed five times.
    """
    system, address = _system(address), address.rstrip("/")
    files = {name: _place(name) for written in expanded(address) for name in _names(system, address, written)}
    states = dict(zip(files, in_threads(partial(_state, system), files, "checking", "files"), strict=True))
    known = {name: _known(file) for name, file in files.items()}
    changed = [name for name in files if known[name] not in (None, states[name])]
    if changed:
        raise DataError(
            f"{changed[0]} changed since it was fetched ({len(changed):,} of {len(files):,} files did); to use what is "
            f"there now, remove {files[changed[0]]}; to go on with what was fetched, give {_place(address)} as --data"
        )
    _fetch(system, {name: file for name, file in files.items() if known[name] is None}, states)
    local, fetched = _place(address), {*files.values()}
    suffix = next(iter(fetched)).suffix
    if gone := [file for file, _ in find_files(local, suffix)[0] if file not in fetched]:
        raise DataError(f"{address} no longer has {gone[0].name}; remove {gone[0]}, or give {local} as --data")
    return local, suffix


def fetch_media(paths: Collection[Path]) -> None:
    """Fetch the files that a fetched table names, given by their paths in the cache, unless they are there.

    A file that the server does not have stays missing. Raises DataError for a request that failed five times.
    """
    root, files = _root(), {}
    for path in sorted(path for path in {*paths} if path.is_relative_to(root) and not path.exists()):
        scheme, _, inside = path.relative_to(root).as_posix().partition("/")
        files[f"{scheme}://{quote(inside, safe='/%:') if scheme.startswith('http') else inside}"] = path
    if files:
        _fetch(_system(next(iter(files))), files, {})


class _MissingError(DataError):
    """There is no such file on the server."""


def _system(address: str) -> Any:
    """Return fsspec's file system for an address. Raises DataError if its package is missing."""
    scheme = address.partition(":")[0]
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError:
        raise DataError(f"{address} needs the package {_PACKAGES[scheme]}: pip install 'mmts[remote]'") from None


def _names(system: Any, address: str, written: str) -> list[str]:
    """Return the addresses of the files that one of the expanded names stands for."""
    is_folder = not written.endswith(_SUFFIXES)
    folder, pattern = (written, "*") if is_folder else written.rsplit("/", 1)
    if any(sign in folder for sign in _GLOB):
        raise DataError(f"{address}: *, ? and [ can stand only in the name of a .tar or .parquet file")
    if not any(sign in pattern for sign in _GLOB):
        return [written]
    entries = _entries(system, folder)
    for name, kind in [*entries] if is_folder else ():
        if kind == "directory" and split_name(_last(name)) in SPLITS:
            entries += _entries(system, name)
    files = [name for name, kind in entries if kind == "file" and fnmatchcase(_last(name), pattern)]
    files = [name for name in files if not _last(name).startswith(".")]
    names = next((of for suffix in _SUFFIXES if (of := [name for name in files if name.endswith(suffix)])), [])
    if not names:
        raise DataError(
            f"{written}: no .tar or .parquet files there, nor in folders named train, val and test; other data must be "
            "copied to this machine first"
        )
    return sorted(names)


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _entries(system: Any, folder: str) -> list[tuple[str, str]]:
    """Return the address and the type of everything in a folder."""
    scheme = folder.partition(":")[0]
    found = _tried(folder, lambda: system.ls(folder, detail=True))
    names = [(str(entry["name"]), str(entry["type"])) for entry in found]
    return [(name if "://" in name else f"{scheme}://{name.lstrip('/')}", kind) for name, kind in names]


def _root() -> Path:
    return cache_root().absolute() / "remote"


def _place(name: str) -> Path:
    """Return the path in the cache of an address. Raises DataError if it would be elsewhere, or hold a password."""
    scheme, _, inside = name.partition("://")
    parts = inside.split("/")
    if not all(parts) or not inside.isprintable() or {".", ".."} & {*parts}:
        raise DataError(f"{name!r} cannot be the address of data: it has an empty part, . or ..")
    if scheme.startswith("http") and ("@" in parts[0] or "?" in inside):
        where = f"{scheme}://.../{parts[-1].partition('?')[0]}"
        raise DataError(f"{where}: a password or ? in an address would be stored with the run (docs/datasets.md)")
    return _root() / scheme / inside


def _state(system: Any, name: str) -> Mapping[str, Any]:
    """Return the size of a file in bytes, and what changes with its content."""
    info = _tried(name, lambda: system.info(name))
    if info.get("size") is None or info.get("type") != "file":
        raise DataError(f"{name} is not a file whose size the server tells; copy it to this machine")
    return {"size": info["size"], "mark": next((str(info[mark]) for mark in _MARKS if info.get(mark)), "")}


def _beside(file: Path) -> Path:
    return file.with_name(f".{file.name}.json")


def _known(file: Path) -> dict[str, Any] | None:
    """Return the state of a file when it was fetched; None if it was not, or is no longer whole."""
    kept = read_kept(_beside(file))
    with suppress(OSError):
        return kept if kept is not None and file.stat().st_size == kept["size"] else None
    return None


def _fetch(system: Any, files: Mapping[str, Path], states: Mapping[str, Mapping[str, Any]]) -> None:
    """Fetch files into the cache, folder by folder: of many processes one fetches into a folder, the others wait.

    Files without a state may be missing on the server, and are fetched by one request each.
    """
    stopped = threading.Event()
    may_lack = () if states else (_MissingError,)
    bytes_in_all = sum(states[name]["size"] for name in files) if states else 0
    with threads() as pool, progress_bar("fetching", bytes_in_all or len(files), "bytes" if states else "files") as bar:

        def fetch(name: str) -> None:
            file, state = files[name], states.get(name)
            if file.exists() if state is None else _known(file) == state:  # another process has fetched it
                return
            with suppress(*may_lack), atomic_write(file) as out:
                for piece in _pieces(system, name, None if state is None else state["size"]):
                    if stopped.is_set():
                        raise DataError(f"{name}: stopped")
                    out.write(piece)
                    bar.advance(1 if state is None else len(piece))
                system.invalidate_cache()
                if state is not None and _state(system, name) != state:
                    raise DataError(f"{name} changed while it was fetched; run the same command again")
            if state is not None:
                write_json(_beside(file), state)

        try:
            for folder, group in groupby(sorted(files, key=lambda name: files[name]), lambda name: files[name].parent):
                with locked(folder / ".fetching.lock", wait=True):
                    for left in leftovers(folder):
                        left.unlink(missing_ok=True)
                    for _ in pool.map(fetch, group):
                        pass
        finally:
            stopped.set()


def _pieces(system: Any, name: str, size: int | None) -> Iterator[bytes]:
    """Yield the content of a file: pieces of 8 MiB if its size is known, else all by one request."""

    def request(start: int, end: int) -> bytes:
        data = bytes(system.cat_file(name, start=start, end=end))
        if len(data) not in (end - start, (size or 0) - start):  # the latter from servers without ranges
            raise OSError(f"{len(data):,} bytes came in place of {end - start:,}")
        return data

    if size is None:
        yield _tried(name, lambda: bytes(system.cat_file(name)))
        return
    at = 0
    while at < size:
        piece = _tried(name, partial(request, at, min(at + _CHUNK, size)))
        yield piece
        at += len(piece)


def _tried(name: str, request: Callable[[], T]) -> T:
    """Return the result of a request, tried five times. Raises DataError that names the cause."""
    for attempt in range(1, _TRIES + 1):
        try:
            return request()
        except Exception as error:  # every library has errors of its own
            # Of a web server, fsspec says of every failure that there is no file.
            web = isinstance(error, FileNotFoundError) and name.startswith("http")
            cause = (error.__cause__ if web else None) or error
        status = getattr(cause, "status", None)
        if status == 404 or isinstance(cause, FileNotFoundError):
            raise _MissingError(f"{name} does not exist")
        is_final = isinstance(cause, PermissionError) or (status in range(400, 500) and status not in _PASSING)
        if is_final or attempt == _TRIES:
            after = "" if is_final else f" ({_TRIES} times); the same command fetches only what is still missing"
            raise DataError(f"{name}: {first_line(cause)}{after}")
        wait = _WAIT * 2 ** (attempt - 1)
        errors.print(f"note: {name}: {first_line(cause)}; trying again in {wait:g} s ({attempt} of {_TRIES})")
        time.sleep(wait)
    raise AssertionError
