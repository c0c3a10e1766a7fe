"""The uploaded files: the source archive is complete, and the wheel built from it works on its own."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from test_cli import TINY
from tests_support import draw_shapes

from mmts import __version__

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def build(what: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-c", BUILD, what, str(out)]
    process = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    return out / process.stdout.splitlines()[-1]


def copy_checkout(folder: Path) -> Path:
    """Copy what the package is built from, because building leaves files there."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("package")
    source = build("build_sdist", copy_checkout(folder / "checkout"), folder)
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    return source, build("build_wheel", folder / source.name.removesuffix(".tar.gz"), folder)


def test_the_wheel_has_every_file_of_the_package_and_the_right_metadata(archives: tuple[Path, Path]) -> None:
    source, wheel = archives
    assert source.name == f"mmts-{__version__}.tar.gz"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(path).decode()
    package = ROOT / "src" / "mmts"
    files = {f"mmts/{file.relative_to(package).as_posix()}" for file in package.rglob("*") if file.is_file()}
    assert {file for file in files if "__pycache__" not in file} == {name for name in names if name.startswith("mmts/")}
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in names}
    for line in (f"Version: {__version__}", "License-Expression: Apache-2.0", "Requires-Python: >=3.10"):
        assert line in metadata.splitlines()


@pytest.mark.slow
def test_the_wheel_trains_and_reports_in_an_environment_without_the_checkout(
    archives: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may name the checkout
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "env"], cwd=tmp_path, check=True)
    python = tmp_path / "env" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    # Dependencies come from this Python's packages, but without its .pth files, one of which names the checkout.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(archives[1])], cwd=tmp_path, check=True)
    draw_shapes(tmp_path / "photos", 24)
    mmts = str(tmp_path / "env" / "bin" / "mmts")
    for command in (["train", "--data", "photos", *TINY], ["report", "runs/catalogue"], ["recipes", "demo"]):
        process = subprocess.run([mmts, *command], cwd=tmp_path, check=False, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000
    process = subprocess.run([python, "-c", "import mmts; print(mmts.__file__)"], capture_output=True, text=True)
    assert Path(process.stdout.strip()).is_relative_to(packages)
