"""One run for all tests of searching; each indexes into a folder of its own."""

import shutil
from pathlib import Path

import pytest
from small_search import make_run

from mmts.search import Searcher, build_index, open_searcher


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("search"))


@pytest.fixture
def photos(run: Path, tmp_path: Path) -> Path:
    """A folder of 12 images, one below another folder."""
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
