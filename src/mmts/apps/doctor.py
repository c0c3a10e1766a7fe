"""`mmts doctor`: checks that this machine has what mmts needs, and says how to fix what it lacks."""

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from mmts import __version__
from mmts.console import console
from mmts.errors import RunError
from mmts.files import cache_root

State = Literal["ok", "note", "wrong"]
_STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "wrong": "red"}
_ROOM = 5.0  # GB: features of a hundred thousand images and a few runs


@dataclass(frozen=True)
class Finding:
    """The result of a check, and how to fix what is wrong or slow."""

    what: str
    state: State
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Run all checks and print their results."""
    findings = [finding for check in CHECKS for finding in _run(check)]
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        text = "; ".join(filter(None, (finding.found, finding.fix)))
        table.add_row(Text(finding.state, style=_STYLES[finding.state]), finding.what, text)
    console.print(table)
    return findings


def judge(findings: Sequence[Finding]) -> None:
    """Print that everything is ready, or raise RunError with the failed checks."""
    wrong = [finding.what for finding in findings if finding.state == "wrong"]
    if wrong:
        raise RunError(f"{len(wrong)} of {len(findings)} checks failed: {', '.join(wrong)}")
    console.print("mmts is ready to run on this machine")


def _run(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # a broken installation can fail in any way
        name = check.__name__.lstrip("_")
        return [Finding(name, "wrong", f"{type(error).__name__}: {error}", "reinstall with -c constraints.txt")]


def _finding(what: str, found: str, fix: str, is_ok: object, otherwise: State = "wrong") -> Finding:
    return Finding(what, "ok", found) if is_ok else Finding(what, otherwise, found, fix)


def _versions() -> Iterator[Finding]:
    yield Finding("mmts", "ok", f"{__version__}, Python {platform.python_version()} on {platform.machine()}")
    for requirement in metadata.requires("mmts") or ():
        needed = Requirement(requirement)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            version, fits = "not installed", False
            with suppress(metadata.PackageNotFoundError):
                version = metadata.version(needed.name)
                fits = needed.specifier.contains(version, prereleases=True)
            yield _finding(needed.name, version, f"pip install -c constraints.txt '{requirement}'", fits)


def _system() -> Iterator[Finding]:
    """Say what does not work on macOS and Windows."""
    if system := {"darwin": "macOS", "win32": "Windows"}.get(sys.platform):
        yield Finding("Triton", "note", f"not available on {system}", "fused losses run in torch, slower than on CUDA")
        fix = "in scripts of your own, keep training below if __name__ == '__main__'"
        yield Finding("fork", "note", f"not used on {system}; decoding processes start anew, which takes seconds", fix)
    if system == "Windows":
        found = "an open file cannot be replaced or removed, so locks and checkpoints are not reliable"
        yield Finding("file locks", "note", found, "run mmts within WSL")


def _torchvision() -> Iterator[Finding]:
    """Check that torchvision, which transformers imports if it is installed, works with this torch."""
    with suppress(metadata.PackageNotFoundError):
        found, problem = metadata.version("torchvision"), None
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            problem, found = error, f"{found} does not work with this torch ({error})"
        fix = "pip uninstall torchvision: mmts does not need it, and it breaks transformers"
        yield _finding("torchvision", found, fix, problem is None)


def _device() -> Iterator[Finding]:
    import torch

    from mmts.devices import has_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        yield Finding("device", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {memory:.0f} GB")
    else:
        built = f"torch is built for CUDA {torch.version.cuda}, but it finds no GPU"
        yield _finding("device", "CPU", built, not torch.version.cuda, "note")
    slow = "train.precision: bf16 would be slower than fp32 here"
    yield Finding("bf16", "ok", "in hardware") if has_bf16(device) else Finding("bf16", "ok", "emulated", slow)
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    fix = f"set OMP_NUM_THREADS={cores}: more threads than cores slow each other down"
    found = f"torch uses {threads}, and the machine has {cores} cores"
    yield _finding("threads", found, fix, threads <= cores, "note")


def _decoders() -> Iterator[Finding]:
    import av
    from PIL import features

    lacks = [name for name in ("jpg", "webp", "zlib") if not features.check(name)]
    found = f"Pillow cannot read {', '.join(lacks)}" if lacks else "JPEG, PNG, WebP"
    yield _finding("images", found, "pip install --force-reinstall pillow", not lacks)
    codecs = [name for name in ("h264", "hevc", "vp9", "av1") if name in av.codecs_available]
    found = ", ".join(codecs) or "no codec"
    yield _finding("videos", found, "pip install --force-reinstall av", "h264" in codecs)


def _disk() -> Iterator[Finding]:
    for what, folder, fix in (
        ("this folder", Path.cwd(), "runs go to ./runs; choose another place with --out"),
        ("cache", cache_root(), "set MMTS_CACHE to another folder for features and indexes"),
    ):
        existing = next(path for path in (folder, *folder.parents) if path.is_dir())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError as error:
            yield Finding(what, "wrong", f"{folder} is not writable ({error.strerror})", fix)
        else:
            free = shutil.disk_usage(existing).free / 1e9
            yield _finding(what, f"{folder}, {free:.0f} GB free", fix, free > _ROOM, "note")


CHECKS = (_versions, _system, _torchvision, _device, _decoders, _disk)
"""The checks, in the order of their output."""
