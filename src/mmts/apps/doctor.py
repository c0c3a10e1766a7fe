"""`mmts doctor`: does this machine have what mmts needs, and if not, what to do about it."""

import importlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
    """What a look at one thing found, and, where something is wrong or slow, what would help."""

    what: str
    state: State
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Look at everything and print what was found."""
    findings = [finding for check in CHECKS for finding in _careful(check)]
    table = Table.grid(padding=(0, 2))
    for each in findings:
        text = f"{each.found}; {each.fix}" if each.fix else each.found
        table.add_row(Text(each.state, style=_STYLES[each.state]), each.what, text)
    console.print(table)
    return findings


def judge(findings: Sequence[Finding]) -> None:
    """Say that nothing is in the way, or raise RunError naming what is wrong."""
    wrong = [each.what for each in findings if each.state == "wrong"]
    if wrong:
        raise RunError(f"{len(wrong)} of {len(findings)} things need mending: {', '.join(wrong)}")
    console.print("nothing is in the way")


def _careful(check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run a check; one that fails itself has found something wrong too."""
    try:
        return list(check())
    except Exception as error:  # a broken installation fails in ways nobody listed
        name = check.__name__.lstrip("_").replace("_", " ")
        return [Finding(name, "wrong", f"{type(error).__name__}: {error}", "reinstall with -c constraints.txt")]


def _versions() -> Iterator[Finding]:
    yield Finding("mmts", "ok", f"{__version__}, Python {platform.python_version()} on {platform.machine()}")
    for requirement in metadata.requires("mmts") or ():
        needed = Requirement(requirement)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield Finding(needed.name, "wrong", "not installed", f"pip install -c constraints.txt '{requirement}'")
            continue
        fits = needed.specifier.contains(version, prereleases=True)
        fix = "" if fits else f"pip install -c constraints.txt '{requirement}'"
        yield Finding(needed.name, "ok" if fits else "wrong", version, fix)


def _torchvision() -> Iterator[Finding]:
    """Look whether torchvision, which transformers imports where it is installed, fits this torch."""
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        fix = "pip uninstall torchvision: mmts does not need it, and transformers breaks with it"
        yield Finding("torchvision", "wrong", f"{version} does not fit torch ({error})", fix)
    else:
        yield Finding("torchvision", "ok", version)


def _device() -> Iterator[Finding]:
    import torch

    from mmts.devices import has_bf16

    if torch.cuda.is_available():
        device = torch.device("cuda")
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        yield Finding("device", "ok", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {memory:.0f} GB")
    else:
        device = torch.device("cpu")
        built = f"torch is built for CUDA {torch.version.cuda}, and no GPU answers" if torch.version.cuda else ""
        yield Finding("device", "note" if built else "ok", "CPU", built)
    fix = "" if has_bf16(device) else "train.precision: bf16 would be slower than fp32 here"
    yield Finding("bf16", "ok", "in hardware" if not fix else "emulated", fix)
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    fix = "" if threads <= cores else f"OMP_NUM_THREADS={cores}: more threads than cores wait for each other"
    yield Finding("threads", "note" if fix else "ok", f"torch uses {threads}, the machine has {cores} cores", fix)


def _decoders() -> Iterator[Finding]:
    import av
    from PIL import features

    missing = [name for name in ("jpg", "webp", "zlib") if not features.check(name)]
    if missing:
        yield Finding("images", "wrong", f"without {', '.join(missing)}", "pip install --force-reinstall pillow")
    else:
        yield Finding("images", "ok", "JPEG, PNG, WebP")
    wanted = ("h264", "hevc", "vp9", "av1")
    found = [name for name in wanted if name in av.codecs_available]
    fix = "" if "h264" in found else "pip install --force-reinstall av"
    yield Finding("videos", "wrong" if fix else "ok", ", ".join(found) or "no codec", fix)


def _disk() -> Iterator[Finding]:
    for what, folder, move in (
        ("this folder", Path.cwd(), "runs go to ./runs; --out names another place"),
        ("cache", cache_root(), "MMTS_CACHE names another folder for features and indexes"),
    ):
        existing = next(each for each in (folder, *folder.parents) if each.is_dir())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError as error:
            yield Finding(what, "wrong", f"{folder} cannot be written ({error.strerror})", move)
            continue
        free = shutil.disk_usage(existing).free / 1e9
        found = f"{folder}, {free:.0f} GB free"
        yield Finding(what, "ok", found) if free > _ROOM else Finding(what, "note", found, move)


CHECKS = (_versions, _torchvision, _device, _decoders, _disk)
"""In the order in which they are printed."""
