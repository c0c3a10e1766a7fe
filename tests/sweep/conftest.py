"""The data and the finished sweep that the tests of sweeps share."""

from pathlib import Path

import pytest
from small_sweep import write_sweep
from tests_support import draw_shapes

from mmts.sweep import run_sweep


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("data") / "shapes", 60)


@pytest.fixture(scope="session")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished sweep."""
    folder = tmp_path_factory.mktemp("finished")
    run_sweep(write_sweep(folder), shapes, folder / "out", 1)
    return folder / "out"
