"""The two ends of what pyproject.toml allows, each in an environment of its own. docs/support.md has the results."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_cli import TINY
from test_package import copy_checkout
from tests_support import draw_shapes

ROOT = Path(__file__).parent.parent
# Gigabytes, so they are kept for the next time.
ENVIRONMENTS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmts-environments"
FOLDERS = [
    *("losses", "objectives", "policies", "concepts", "metrics", "recipe", "models", "data", "training", "evaluation"),
    *("distributed", "search", "report", "sweep", "export", "adapters"),
]
EXTRAS = "demo,export,ray,remote"
TOOLS = ["pytest", "pytest-xdist", "hypothesis", "webdataset", "datasets", "pytorch-lightning"]  # of the extra dev


def pythons() -> Iterator[tuple[int, Path]]:
    """Yield the minor version and path of every Python from 3.10 on PATH and of pyenv."""
    places = [*map(Path, os.environ["PATH"].split(os.pathsep)), *Path.home().glob(".pyenv/versions/*/bin")]
    for path in (path for place in places for path in place.glob("python3.*")):
        name = re.fullmatch(r"python3\.(\d+)", path.name)
        # pyenv has a script for every version, which fails if that version is not chosen; Debian leaves out ensurepip.
        if name and int(name[1]) >= 10 and not run([path, "-c", "import ensurepip"]).returncode:
            yield int(name[1]), path


def lowest_versions() -> list[str]:
    """Return the lowest versions that pyproject.toml allows, as constraints; torch brings its own Triton."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    bounds = [(needed.name, bound) for needed in map(Requirement, lines) for bound in needed.specifier]
    return [f"{name}=={bound.version}" for name, bound in bounds if bound.operator == ">=" and name != "triton"]


def run(command: Sequence[str | Path], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST"))}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def output_of(command: Sequence[str | Path], folder: Path | None = None) -> str:
    """Return what a command printed, which must not fail."""
    process = run(command, folder)
    assert process.returncode == 0, process.stdout[-10_000:] + process.stderr[-10_000:]
    return process.stdout


def environment(end: str, minor: int, python: Path, requirements: list[str | Path]) -> Path:
    """Return the folder of the programs of an environment that has the requirements; skip if no index answers."""
    folder = ENVIRONMENTS / f"{end}-3.{minor}"
    for other in ENVIRONMENTS.glob(f"{end}-*"):
        if other != folder:
            shutil.rmtree(other)  # of another Python
    output_of([python, "-m", "venv", folder])
    install = [folder / "bin" / "python", "-m", "pip", "install", "--no-cache-dir", "--upgrade"]
    if run([*install, "--retries", "1", "pip"]).returncode:
        pytest.skip("no package index answers")
    output_of([*install, "--upgrade-strategy", "eager", *requirements])
    return folder / "bin"


@pytest.mark.slow
@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_the_ends_of_the_supported_versions(end: str, tmp_path: Path) -> None:
    found = dict(pythons())
    minor = 10 if end == "oldest" else max(found, default=0)
    if minor not in found:
        pytest.skip("no Python 3.10 with ensurepip on PATH or in ~/.pyenv/versions")
    requirements: list[str | Path] = [f"{copy_checkout(tmp_path / 'checkout')}[{EXTRAS}]", *TOOLS]
    if end == "oldest":
        (tmp_path / "lowest.txt").write_text("\n".join(lowest_versions()))
        requirements += ["--constraint", tmp_path / "lowest.txt"]
    programs = environment(end, minor, found[minor], requirements)

    draw_shapes(tmp_path / "photos", 24)
    for command in (["train", "--data", "photos", *TINY], ["report", "runs/catalogue"], ["doctor"]):
        print(output_of([programs / "mmts", *command], tmp_path))
    options = ["-q", "-ra", "-n", "2", "-m", "not slow", "-p", "no:cacheprovider", "--override-ini=addopts="]
    print(output_of([programs / "python", "-m", "pytest", *options, *(f"tests/{folder}" for folder in FOLDERS)], ROOT))
