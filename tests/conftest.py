"""What every test gets, so that results do not depend on the machine; and the data and the model that many share."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

# A busy machine is no failure, and examples found are not kept in the checkout.
hypothesis.settings.register_profile("mmts", deadline=None, database=None)
hypothesis.settings.load_profile("mmts")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores: more threads only wait for each other

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; read when Triton is first imported


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MMTS_CACHE", str(cache))
    return cache


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of drawn shapes with train, val and test."""
    from tests_support import draw_shapes  # imports come after the settings above

    return draw_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random CLIP."""
    from models.tiny_models import tiny_clip

    return tiny_clip(tmp_path_factory.mktemp("models") / "tiny-clip")
