"""What every test gets: a private cache folder and one thread, so that results do not depend on the machine."""

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
