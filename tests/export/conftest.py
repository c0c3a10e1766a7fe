"""Tiny Hugging Face folders and runs, made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))

from small_runs import BYTES, RESNET, VIT, WORDS, make_run
from tiny_models import tiny_backbone, tiny_clip, tiny_encoder


class Runs:
    """Runs by name, trained when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, Path] = {}

    def __call__(self, name: str) -> Path:
        if name not in self.made:
            folder = self.folder / name
            folder.mkdir()
            self.made[name] = make_run(folder, *_sides(name, folder))
        return self.made[name]


def _sides(name: str, folder: Path) -> tuple[str, ...]:
    """Return the sections of the image and the text tower, and other settings."""
    if name == "words":
        return RESNET, WORDS
    if name == "bytes":
        return VIT, BYTES
    model = folder / "model"
    model.mkdir()
    if name == "clip":
        return (_of(tiny_clip(model)), _of(tiny_clip(model)), "model.head.kind=none", "model.width=12")
    if name == "clip with heads":
        return _of(tiny_clip(model), frozen="true"), _of(tiny_clip(model))
    if name == "siglip":
        return _of(tiny_clip(model, "siglip"), options="{resize: stretch}"), _of(tiny_clip(model, "siglip"))
    if name == "padded clip":
        return _of(tiny_clip(model), options="{resize: pad}"), _of(tiny_clip(model))
    assert name == "bert"
    (folder / "image").mkdir()
    return _of(tiny_backbone(folder / "image", "resnet"), size="32"), _of(tiny_encoder(model, "bert"))


def _of(folder: Path, frozen: str = "false", **more: str) -> str:
    rest = "".join(f", {key}: {value}" for key, value in more.items())
    return f"{{tower: '{folder}', frozen: {frozen}{rest}}}"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))
