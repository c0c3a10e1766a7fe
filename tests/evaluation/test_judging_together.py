"""Several processes embed, rank and index as one does: the same bits; and an error or an interrupt on one ends all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from distributed.together import together
from models.tiny_models import tiny_encoder
from scipy.sparse import csr_matrix
from tests_support import captioned_split
from torch import Tensor

from mmts.console import errors
from mmts.data.graded import Graded
from mmts.data.records import Medium, Split
from mmts.distributed.processes import joined, num_processes, process_index
from mmts.errors import RunError
from mmts.evaluation import rank
from mmts.evaluation.figures import summarize
from mmts.evaluation.pretrained import evaluate_pretrained
from mmts.evaluation.rank import judge
from mmts.evaluation.run import evaluate
from mmts.losses import unit
from mmts.models import features
from mmts.search import build_index


def drawn(split: Split, D: int) -> tuple[Tensor, Tensor]:
    """Return embeddings that are near for own pairs, some of which are equal."""
    generator = torch.Generator().manual_seed(0)
    media = unit(torch.randn(split.num_media, D, generator=generator))
    media[1::7] = media[::7][: len(media[1::7])]
    return media, unit(media[split.owner] + 0.8 * torch.randn(split.num_captions, D, generator=generator))


def graded_split(M: int) -> Split:
    """Return M clips of two verbs and five nouns, and as many texts."""
    media = [Medium(str(i), Path(f"{i}.mp4"), (f"own {i}",), kind="video") for i in range(M)]
    verbs, nouns = (csr_matrix(np.eye(number)[np.arange(M) % number]) for number in (2, 5))
    return Split("test", media, Graded(tuple(map(str, range(M))), torch.arange(M), (verbs, nouns))).judged("graded")


def judgements(seed: int = 0) -> list[Any]:
    """Return the results and figures of splits that are ranked in several chunks."""
    given: list[Any] = []
    texts = captioned_split([[f"{i}", f"shared {i % 20}"] for i in range(150)])
    with patch.object(rank, "_CHUNK_QUERIES", 8):
        for split, relevance in ((texts, "text"), (texts, "own"), (graded_split(90), "graded")):
            sides = judge(*drawn(split, 33), split, relevance)  # type: ignore[arg-type]
            groups = [torch.arange(len(side.ranks)) % 3 for side in sides]
            given += [[vars(side) for side in sides], summarize(sides, split, groups)]
    return given


def same(one: Any, other: Any) -> bool:
    """Whether two nested results are equal, tensors bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@contextmanager
def failing(error: BaseException) -> Iterator[None]:
    """Within it, the last process fails at its first image."""
    load = features.load_medium

    def fail(medium: Medium, *options: Any) -> Tensor:
        if process_index() == num_processes() - 1:
            raise error
        return load(medium, *options)

    with patch.object(features, "load_medium", fail):
        yield


def ended(error: BaseException, *arguments: Any) -> list[Any]:
    """Tell how an evaluation ends in which one process fails."""
    try:
        with failing(error), patch.object(features, "_IMAGES_ON_CPU", 1):
            everything(*arguments)
    except BaseException as raised:
        return [type(raised).__name__, errors.quiet]
    return []


def everything(model: Path, data: Path, encoder: Path, out: Path) -> None:
    """Evaluate a pair that embeds with frozen towers, again on another split, and index what it embeds."""
    settings = [f"concepts.encoder={encoder}", "concepts.num_concepts=3", "data.max_unreadable=0.1"]
    by: dict[str, Any] = {"labels": ["shape"], "classify_by": "shape"}
    evaluate_pretrained(str(model), data, out, settings=settings, embeddings_file=out / "e.npz", **by)
    evaluate(out, split_name="train")
    build_index(out, data / "images", out / "index")


def as_one_of_several(cache: Path, *arguments: Any) -> list[Any]:
    os.environ["MMTS_CACHE"] = str(cache)
    ends = [ended(error, *arguments) for error in (RunError("the disk is away"), KeyboardInterrupt())]
    everything(*arguments)
    with joined():
        return [ends, judgements()]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"), "bert")


@pytest.fixture(scope="module")
def one(clip: Path, shapes: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes; an image cannot be read."""
    (shapes / "images" / "3.png").write_bytes(b"not an image")
    folder = tmp_path_factory.mktemp("one")
    with patch.dict(os.environ, {"MMTS_CACHE": str(folder / "cache")}):
        everything(clip, shapes, encoder, folder / "run")
    return folder


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_judge_as_one(
    number: int, one: Path, clip: Path, shapes: Path, encoder: Path, tmp_path: Path
) -> None:
    given = together(number, as_one_of_several, tmp_path / "cache", clip, shapes, encoder, tmp_path / "run")
    expected = judgements()
    for k, (ends, found) in enumerate(given):
        last = k == number - 1
        assert ends[0] == (["RunError", False] if last else ["FailedElsewhere", True])
        assert ends[1][0] == ("KeyboardInterrupt" if last else "FailedElsewhere")
        assert same(found, expected)
    files = [
        file.relative_to(one) for file in one.rglob("*") if file.suffix in (".json", ".npz", ".safetensors", ".npy")
    ]
    assert len(files) >= 8
    for file in files:
        if file.name == "e.npz":  # which also names the run
            names = ("media", "text", "owner")
            first, second = (np.load(folder / file) for folder in (one, tmp_path))
            assert all(np.array_equal(first[name], second[name]) for name in names)
        elif file.name != "readable":
            assert (tmp_path / file).read_bytes() == (one / file).read_bytes(), file
