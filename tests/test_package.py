"""What is uploaded: the source archive is whole, and the wheel made of it works where nothing else is."""

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
    told = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True).stdout
    return out / told.splitlines()[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("package")
    checkout = folder / "checkout"
    shutil.copytree(ROOT / "src", checkout / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, checkout)
    source = build("build_sdist", checkout, folder)
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    return source, build("build_wheel", folder / source.name.removesuffix(".tar.gz"), folder)


def test_the_wheel_has_every_file_of_the_package_and_says_what_it_is(archives: tuple[Path, Path]) -> None:
    source, wheel = archives
    assert source.name == f"mmts-{__version__}.tar.gz"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (each for each in names if each.endswith(".dist-info/METADATA"))
        told = archive.read(metadata).decode()
    package = ROOT / "src" / "mmts"
    files = {f"mmts/{each.relative_to(package).as_posix()}" for each in package.rglob("*") if each.is_file()}
    assert {each for each in files if "__pycache__" not in each} == {each for each in names if each.startswith("mmts/")}
    assert {"LICENSE", "NOTICE"} <= {Path(each).name for each in names}
    for line in (f"Version: {__version__}", "License-Expression: Apache-2.0", "Requires-Python: >=3.10"):
        assert line in told.splitlines()


@pytest.mark.slow
def test_the_wheel_trains_and_reports_in_an_environment_without_the_checkout(
    archives: tuple[Path, Path], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "env"], cwd=tmp_path, check=True)
    python = tmp_path / "env" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    # What mmts needs is taken from here; this folder's own .pth files, the checkout's among them, are not read.
    (own / "others.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(archives[1])], cwd=tmp_path, check=True)
    draw_shapes(tmp_path / "photos", 24)
    mmts = str(tmp_path / "env" / "bin" / "mmts")
    for command in (["train", "--data", "photos", *TINY], ["report", "runs/catalogue"], ["recipes", "demo"]):
        done = subprocess.run([mmts, *command], cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000
    where = subprocess.run([python, "-c", "import mmts; print(mmts.__file__)"], capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(own)
