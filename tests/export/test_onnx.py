"""Exported graphs give the run's embeddings with nothing but onnxruntime, tokenizers, pillow and numpy."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from small_runs import Runs, difference, embedded
from tests_support import load_pixels
from tokenizers import Tokenizer

from mmts.errors import RunError
from mmts.export import export_run, onnx_files
from mmts.export.onnx_files import build_tokenizer, check_tokenizer, pixel_settings, write_onnx
from mmts.models import Vocabulary, build_two_tower, load_text_tower, load_video_tower
from mmts.training.checkpoint import load_checkpoint, save_checkpoint

CAPTIONS = ["a red bar number 3", "stripe in BLUE", "a white square, " * 12, "dog"]
BICUBIC = Image.Resampling.BICUBIC


def squared(photo: Image.Image, side: int, resize: str) -> Image.Image:
    """Make a photo square as docs/export.md says."""
    if resize == "crop":
        return ImageOps.fit(photo, (side, side), BICUBIC)
    if resize == "pad":
        inner, square = ImageOps.contain(photo, (side, side), BICUBIC), Image.new("RGB", (side, side), "white")
        square.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
        return square
    return photo.resize((side, side), BICUBIC, reducing_gap=3)


def embed_text(folder: Path, captions: list[str]) -> np.ndarray:
    about = json.loads((folder / "export.json").read_text())["text"]
    rows = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(captions)
    ids = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    feeds = {name: np.array([getattr(row, ids[name]) for row in rows]) for name in about["inputs"]}
    return onnxruntime.InferenceSession(str(folder / "text.onnx")).run(None, feeds)[0]


def embed_images(folder: Path, photos: list[Path]) -> np.ndarray:
    about = json.loads((folder / "export.json").read_text())["media"]
    squares = [squared(Image.open(photo).convert("RGB"), about["size"], about["resize"]) for photo in photos]
    pixels = np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) / 255 for image in squares])
    return onnxruntime.InferenceSession(str(folder / about["file"])).run(None, {"pixels": pixels})[0]


@pytest.mark.parametrize("name", ["words", "bytes", "clip", "siglip", "bert"])
def test_photos_and_sentences_without_mmts_or_torch(runs: Runs, tmp_path: Path, name: str) -> None:
    folder = export_run(runs(name), "onnx", tmp_path / "out")
    about = json.loads((folder / "export.json").read_text())["media"]
    photos = [runs(name).parent / "shapes" / "images" / f"{number}.png" for number in range(3)]
    pixels = torch.stack([load_pixels(photo, about["size"], about["resize"]) for photo in photos])
    texts, images = embedded(runs(name), CAPTIONS, pixels)
    assert difference(embed_text(folder, CAPTIONS), texts) < 1e-4
    assert difference(embed_text(folder, CAPTIONS[3:]), texts[3:]) < 1e-4
    assert difference(embed_images(folder, photos), images) < 1e-4
    assert difference(embed_images(folder, photos[:1]), images[:1]) < 1e-4
    assert np.abs(texts.numpy()[0] - texts.numpy()[3]).max() > 1e-2  # nothing is alike by itself


def test_the_snippet_of_the_docs_runs(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_run(runs("words"), "onnx", tmp_path / "exported")
    Image.new("RGB", (60, 40), (200, 30, 40)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "onnxruntime" in block)
    names: dict[str, np.ndarray] = {}
    exec(compile(code, "docs/export.md", "exec"), names)
    texts, images = embedded(runs("words"), ["a red shoe"], load_pixels("photo.jpg", 16)[None])
    assert difference(names["x"], images) < 1e-4
    assert difference(names["y"], texts) < 1e-4


@pytest.mark.parametrize(
    "video",
    [
        {"name": "space-time-vit", "patch": 8, "width": 16, "depth": 1, "heads": 2},
        {
            "name": "frames",
            "image": "small-vit",
            "image_options": {"patch": 8, "width": 16, "depth": 1, "heads": 2},
            "pooling": "transformer",
            "depth": 1,
            "heads": 2,
        },
    ],
    ids=["space-time-vit", "frames"],
)
def test_any_number_of_clips(tmp_path: Path, video: dict) -> None:
    text = load_text_tower("clip-text", tokenizer="bytes", width=16, depth=1, heads=2)
    model = build_two_tower(load_video_tower(**video, frames=3, size=16), text, width=8).eval()
    content = write_onnx(model, "video", tmp_path)
    assert content["media"]["shape"] == ["batch", 3, 3, 16, 16]
    assert pixel_settings(model.media_tower)["sampling"]["frames"] == 3
    clips = torch.rand(2, 3, 3, 16, 16)
    got = onnxruntime.InferenceSession(str(tmp_path / "video.onnx")).run(None, {"pixels": clips.numpy()})[0]
    with torch.no_grad():
        assert difference(got, model.encode_media(clips)) < 1e-4


@pytest.mark.parametrize("head", ["two-layer", "none"])
def test_precomputed_features(tmp_path: Path, head: str) -> None:
    text = load_text_tower("clip-text", tokenizer="bytes", width=16, depth=1, output_width=8)
    model = build_two_tower(8, text, width=8, kind=head).eval()
    assert write_onnx(model, "image", tmp_path)["media"]["shape"] == ["batch", 8]
    rows = torch.randn(4, 8)
    got = onnxruntime.InferenceSession(str(tmp_path / "features.onnx")).run(None, {"features": rows.numpy()})[0]
    with torch.no_grad():
        assert difference(got, model.encode_media(rows)) < 1e-4


SMALL = {"width": 8, "depth": 1, "heads": 2}
WORDS = load_text_tower(
    "small-transformer",
    vocabulary=Vocabulary(("ss", "straße", "strasse", "red", "!", "_a", "ΐ")),
    max_length=9,
    **SMALL,
)
BYTES = load_text_tower("clip-text", tokenizer="bytes", context_length=9, **SMALL)
WRITTEN = [(build_tokenizer(tower), tower) for tower in (WORDS, BYTES)]
# The square era name Reiwa came with Unicode 12.1, which `tokenizers` does not take apart yet.
SIGNS = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cn"], exclude_characters="\u32ff")
ODD = st.sampled_from(
    ["Straße", "ΣΊΣΥΦΟΣ", "ǰ RED!", "İ", "ﬁsh", "हिन्दी", "❤️", "x_1²", "\x1f", "[PAD] [UNK]", "½", "ᏸ"]
)


@given(st.lists(st.text(SIGNS) | ODD, min_size=1, max_size=4))
def test_written_tokenizers_give_the_towers_ids(captions: list[str]) -> None:
    for tokenizer, tower in WRITTEN:
        check_tokenizer(tokenizer, tower, captions)


def test_a_tokenizer_with_other_ids_is_an_error() -> None:
    other = build_tokenizer(load_text_tower("small-transformer", vocabulary=Vocabulary(("blue",)), **SMALL))
    with pytest.raises(RunError, match="gives other input_ids than the tower"):
        check_tokenizer(other, WORDS, ["a red shoe"])


def test_either_checkpoint_can_be_exported(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs("words"), run)
    file = run / "checkpoints" / "last.pt"
    state = load_checkpoint(file)
    state["model"] = {name: value.flip(0) for name, value in state["model"].items()}
    save_checkpoint(file, state)
    best = export_run(run, "onnx")
    assert "the model card" not in capsys.readouterr().out
    last = export_run(run, "onnx", tmp_path / "last", "last")
    assert "so the model card has none; before, run `mmts evaluate" in " ".join(capsys.readouterr().out.split())
    assert best == run / "onnx"
    assert difference(embed_text(best, CAPTIONS), embedded(runs("words"), CAPTIONS)[0]) < 1e-4
    assert difference(embed_text(best, CAPTIONS), embed_text(last, CAPTIONS)) > 1e-2


def test_an_existing_folder_is_not_overwritten(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match="is there already; remove it, or choose another place"):
        export_run(runs("words"), "onnx", tmp_path / "out")
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_a_difference_is_an_error_and_leaves_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match=r"text\.onnx: its embeddings differ from the run's by up to .*, more than -1"):
        export_run(runs("words"), "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RunError, match="pip install onnx onnxruntime"):
        export_run(runs("words"), "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_files_and_differences_are_printed(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_run(runs("words"), "onnx", tmp_path / "out")
    said = capsys.readouterr().out
    assert "out: README.md, export.json, image.onnx, mmts-recipe.yaml, text.onnx, tokenizer.json" in said
    assert re.search(r"largest difference from the run's embeddings: media \d\.\de-\d\d, text \d\.\de-\d\d", said)
