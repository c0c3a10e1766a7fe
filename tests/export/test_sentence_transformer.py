"""Exported folders load with sentence-transformers and transformers, and give the run's embeddings."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from sentence_transformers import SentenceTransformer
from small_runs import Runs, difference, embedded, make_run
from tests_support import load_pixels
from transformers import AutoModel, AutoProcessor, CLIPModel

from mmts.data.media.image import fit_square, load_image, to_pixels
from mmts.errors import RunError
from mmts.export import export_run, huggingface_pair
from mmts.export.onnx_files import pictures
from mmts.export.sentence_transformer import ImageModule, write_sentence_transformer
from mmts.models import build_two_tower, load_image_tower, load_text_tower

CAPTIONS = ["a red bar number 3", "stripe in BLUE", "a white square, " * 12, "dog"]


def load(folder: Path, trust: bool = False) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=trust)


@pytest.mark.parametrize("name", ["clip", "clip with heads", "siglip"])
def test_one_clip_needs_only_sentence_transformers(runs: Runs, tmp_path: Path, name: str) -> None:
    folder = export_run(runs(name), "sentence-transformers", tmp_path / "out")
    model = load(folder)
    assert not json.loads((folder / "export.json").read_text())["needs_mmts"]
    squares = pictures((32, 32), (32, 32), (32, 32))
    texts, images = embedded(runs(name), CAPTIONS, torch.stack([to_pixels(square) for square in squares]))
    assert difference(model.encode(CAPTIONS), texts) < 1e-5
    assert difference(model.encode(CAPTIONS[3]), texts[3]) < 1e-5
    assert difference(model.encode(squares), images) < 1e-5
    assert difference(model.encode_query(CAPTIONS), texts) < 1e-5


@pytest.mark.parametrize("name", ["words", "bytes", "bert", "padded clip"])
def test_towers_of_mmts_give_the_same_embeddings_for_any_picture(runs: Runs, tmp_path: Path, name: str) -> None:
    folder = export_run(runs(name), "sentence-transformers", tmp_path / "out")
    if Version(version("sentence-transformers")) >= Version("6"):  # older ones do not ask before they load a module
        with pytest.raises(ValueError, match="trust_remote_code"):
            load(folder)
    model = load(folder, trust=True)
    photos = [runs(name).parent / "shapes" / "images" / f"{number}.png" for number in range(3)]
    assert json.loads((folder / "export.json").read_text())["needs_mmts"]
    section = json.loads((folder / "image_0_ImageModule" / "tower.json").read_text())
    resize = section["options"]["resize"] or "crop"
    pixels = torch.stack([load_pixels(photo, section["size"], resize) for photo in photos])
    texts, images = embedded(runs(name), CAPTIONS, pixels)
    assert difference(model.encode(CAPTIONS), texts) < 1e-5
    assert difference(model.encode([str(photo) for photo in photos]), images) < 1e-5
    assert difference(model.encode([Image.open(photo) for photo in photos]), images) < 1e-5


def test_an_image_tower_names_an_input_of_another_type() -> None:
    module = ImageModule(load_image_tower("small-resnet", size=16, channels=8, depth=1))
    with pytest.raises(RunError, match=r"give an image \(PIL\) or the path of one, not ndarray"):
        module.preprocess([np.zeros((4, 4, 3))])


def test_a_clip_without_heads_is_a_folder_of_transformers(runs: Runs, tmp_path: Path) -> None:
    folder = export_run(runs("clip"), "sentence-transformers", tmp_path / "out")
    model, processor = CLIPModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    [square] = pictures((32, 32))
    inputs = processor(text=CAPTIONS[:1], images=[square], return_tensors="pt", padding=True)
    with torch.no_grad():
        output = model(**inputs)
    texts, images = embedded(runs("clip"), CAPTIONS[:1], to_pixels(square)[None])
    assert difference(output.text_embeds, texts) < 1e-5
    assert difference(output.image_embeds, images) < 1e-5


def test_a_note_tells_how_far_crops_of_other_sizes_differ(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_run(runs("clip"), "sentence-transformers", tmp_path / "out")
    about = json.loads((folder / "export.json").read_text())
    assert about["media"]["other_sizes"] > 1e-5 > about["media"]["largest_difference"]
    assert "for pictures that are not squares of the model's size" in capsys.readouterr().out
    photo = tmp_path / "photo.png"
    pictures((50, 80))[0].save(photo)
    square = fit_square(load_image(photo, 32), 32, "crop")  # what the docs advise
    _, images = embedded(runs("clip"), CAPTIONS, load_pixels(photo, 32, "crop")[None])
    assert difference(load(folder).encode([square]), images) < 1e-5


def test_a_trained_backbone_is_a_folder_of_transformers(runs: Runs, tmp_path: Path) -> None:
    folder = export_run(runs("bert"), "sentence-transformers", tmp_path / "out")
    assert type(AutoModel.from_pretrained(folder / "image_0_ImageModule" / "model")).__name__ == "ResNetModel"
    assert type(AutoModel.from_pretrained(folder / "text_0_Transformer")).__name__ == "BertModel"


@pytest.mark.slow
def test_a_folder_loads_in_a_process_that_never_saw_the_run(runs: Runs, tmp_path: Path) -> None:
    folder = export_run(runs("clip with heads"), "sentence-transformers", tmp_path / "out")
    code = (
        "import sys; from sentence_transformers import SentenceTransformer\n"
        f"print(SentenceTransformer({str(folder)!r}, device='cpu').encode('a red bar')[:2])\n"
        "assert not any(name.startswith('mmts') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_the_texts_of_a_run_on_features_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"tokenizer": "bytes", "width": 16, "depth": 1, "heads": 2, "output_width": 8}
    model = build_two_tower(8, load_text_tower("clip-text", **options), width=8).eval()
    content = write_sentence_transformer(model, tmp_path)
    assert "takes no features: only the text side is exported" in capsys.readouterr().out
    assert "media" not in content
    with torch.no_grad():
        own = model.encode_text(model.text_tower.tokenize(CAPTIONS))  # type: ignore[union-attr]
    assert difference(load(tmp_path, trust=True).encode(CAPTIONS), own) < 1e-5


def test_an_error_names_the_other_target(tmp_path: Path) -> None:
    options = {"tokenizer": "bytes", "width": 16, "depth": 1, "heads": 2, "output_width": 8}
    model = build_two_tower(8, load_text_tower("clip-text", **options), width=8).eval()
    model.text_tower.arguments = options | {"weights": "avion.pt"}  # type: ignore[union-attr]
    with pytest.raises(RunError, match=r"clip-text.* with weights from a checkpoint; --to onnx exports it"):
        write_sentence_transformer(model, tmp_path)


def test_a_difference_is_an_error_and_leaves_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_pair, "TOLERANCE", -1.0)
    with pytest.raises(RunError, match=r"sentence-transformers, text: its embeddings differ .*, more than -1"):
        export_run(runs("words"), "sentence-transformers", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_packaged_towers(tmp_path: Path) -> None:
    run = make_run(tmp_path, "{tower: efficientnet-lite0, size: 64}", "{tower: minilm}")
    model = load(export_run(run, "sentence-transformers"), trust=True)
    photo = tmp_path / "shapes" / "images" / "1.png"
    texts, images = embedded(run, CAPTIONS, load_pixels(photo, 64)[None])
    assert difference(model.encode(CAPTIONS), texts) < 1e-5
    assert difference(model.encode([str(photo)]), images) < 1e-5
    about = json.loads((export_run(run, "onnx") / "export.json").read_text())
    assert about["text"]["largest_difference"] < 1e-4
