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


def _versions() -> Iterator[Finding]:
    yield Finding("mmts", "ok", f"{__version__}, Python {platform.python_version()} on {platform.machine()}")
    for requirement in metadata.requires("mmts") or ():
        needed = Requirement(requirement)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            fix = f"pip install -c constraints.txt '{requirement}'"
            try:
                version = metadata.version(needed.name)
            except metadata.PackageNotFoundError:
                yield Finding(needed.name, "wrong", "not installed", fix)
            else:
                fits = needed.specifier.contains(version, prereleases=True)
                yield Finding(needed.name, "ok", version) if fits else Finding(needed.name, "wrong", version, fix)


def _system() -> Iterator[Finding]:
    """Say what does not work on macOS and Windows."""
    system = {"darwin": "macOS", "win32": "Windows"}.get(sys.platform)
    if system:
        yield Finding("Triton", "note", f"not available on {system}", "fused losses run in torch, slower than on CUDA")
        fix = "in scripts of your own, keep training below if __name__ == '__main__'"
        yield Finding("fork", "note", f"not used on {system}; decoding processes start anew, which takes seconds", fix)
    if system == "Windows":
        found = "an open file cannot be replaced or removed, so locks and checkpoints are not reliable"
        yield Finding("file locks", "note", found, "run mmts within WSL")


def _torchvision() -> Iterator[Finding]:
    """Check that torchvision, which transformers imports if it is installed, works with this torch."""
    with suppress(metadata.PackageNotFoundError):
        version = metadata.version("torchvision")
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            fix = "pip uninstall torchvision: mmts does not need it, and it breaks transformers"
            yield Finding("torchvision", "wrong", f"{version} does not work with this torch ({error})", fix)
        else:
            yield Finding("torchvision", "ok", version)


def _device() -> Iterator[Finding]:
    import torch

    from mmts.devices import has_bf16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        yield Finding("device", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {memory:.0f} GB")
    elif torch.version.cuda:
        yield Finding("device", "note", "CPU", f"torch is built for CUDA {torch.version.cuda}, but it finds no GPU")
    else:
        yield Finding("device", "ok", "CPU")
    if has_bf16(device):
        yield Finding("bf16", "ok", "in hardware")
    else:
        yield Finding("bf16", "ok", "emulated", "train.precision: bf16 would be slower than fp32 here")
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    fix = "" if threads <= cores else f"set OMP_NUM_THREADS={cores}: more threads than cores slow each other down"
    found = f"torch uses {threads}, and the machine has {cores} cores"
    yield Finding("threads", "note" if fix else "ok", found, fix)


def _decoders() -> Iterator[Finding]:
    import av
    from PIL import features

    lacks = ", ".join(name for name in ("jpg", "webp", "zlib") if not features.check(name))
    if lacks:
        yield Finding("images", "wrong", f"Pillow cannot read {lacks}", "pip install --force-reinstall pillow")
    else:
        yield Finding("images", "ok", "JPEG, PNG, WebP")
    codecs = [name for name in ("h264", "hevc", "vp9", "av1") if name in av.codecs_available]
    fix = "" if "h264" in codecs else "pip install --force-reinstall av"
    yield Finding("videos", "wrong" if fix else "ok", ", ".join(codecs) or "no codec", fix)


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
            found = f"{folder}, {free:.0f} GB free"
            yield Finding(what, "ok", found) if free > _ROOM else Finding(what, "note", found, fix)


CHECKS = (_versions, _system, _torchvision, _device, _decoders, _disk)
"""The checks, in the order of their output."""
