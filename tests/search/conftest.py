"""The runs, photos and index that the tests of searching share."""

import shutil
from pathlib import Path

import pytest
from small_search import make_run

from mmts.search import Searcher, build_index, open_searcher


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="session")
def other_run(run: Path) -> Path:
    """Return a run on the same data with another seed."""
    return make_run(run.parent, "train.seed=5")


@pytest.fixture
def photos(run: Path, tmp_path: Path) -> Path:
    """Return a folder of 12 images, one of them in a folder inside it."""
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for number in range(12):
        shutil.copy(run.parent / "shapes" / "images" / f"{number}.png", folder / f"{number}.png")
    (folder / "0.png").rename(folder / "inner" / "0.png")
    return folder


@pytest.fixture
def searcher(run: Path, photos: Path, tmp_path: Path) -> Searcher:
    build_index(run, photos, tmp_path / "index")
    return open_searcher(run, tmp_path / "index")
