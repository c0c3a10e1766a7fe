"""`watched` notices every access outside its folders, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from watch import watched


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "../outside").read_bytes(),
        lambda folder: (folder / "link").read_bytes(),
        lambda folder: (folder.parent / "new").write_bytes(b""),
        lambda folder: os.open(folder.parent / "new", os.O_CREAT | os.O_WRONLY),
        lambda folder: (folder / "a").rename(folder.parent / "b"),
        lambda folder: list(folder.parent.iterdir()),
        lambda folder: subprocess.run([sys.executable, "-c", ""], check=True),
        lambda folder: os.system("true"),
    ],
)
def test_access_outside_the_folder_is_noticed(harm: Callable[[Path], object], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a").touch()
    (tmp_path / "outside").touch()
    (folder / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(AssertionError), watched(folder):
        harm(folder)


def test_access_inside_the_folder_is_allowed(tmp_path: Path) -> None:
    with watched(tmp_path):
        (tmp_path / "a").write_bytes(b"x")
        (tmp_path / "a").rename(tmp_path / "b")
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"x"]
