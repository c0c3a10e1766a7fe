"""Runs that start from a CLIP or SigLIP, exported to every format: the embeddings and the temperature are the run's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models.tiny_models import clip_of_bytes, save_preprocessor, tiny_clip
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from small_runs import Runs, difference, embedded
from tests_support import draw_shapes
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, CLIPModel, SiglipModel

from mmts.data.media.image import to_pixels
from mmts.errors import RunError
from mmts.export import export_run
from mmts.export.onnx_files import pictures
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.checkpoint import load_checkpoint
from mmts.training.run import train

CAPTIONS = ["a red shoe", "blue", "a shoe a shoe a red shoe"]
NO_HEAD = "model.head={kind: none}"
LEARNED = "objective.temperature={rule: learned, start: pretrained}"
Tune = Callable[..., Path]


@pytest.fixture(scope="session")
def tune(tmp_path_factory: pytest.TempPathFactory) -> Tune:
    """Return a function that tunes a tiny pair on shapes, once per pair and settings, and returns the run."""
    folder = tmp_path_factory.mktemp("tuned")
    draw_shapes(folder / "shapes")
    starts = {"clip": clip_of_bytes(folder / "clip"), "siglip": tiny_clip(folder / "siglip", "siglip")}
    save_preprocessor(starts["siglip"], size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    model = SiglipModel.from_pretrained(starts["siglip"])
    model.logit_scale.data.fill_(2.0)
    model.save_pretrained(starts["siglip"])
    runs: dict[tuple[str, ...], Path] = {}

    def tuned(start: str, *settings: str) -> Path:
        key = (start, *settings)
        if key not in runs:
            shared = ["concepts={encoder: tfidf, num_concepts: 3}", "train.epochs=1", "train.batch_size=16"]
            shared += [f"model.start={starts.get(start, start)}", "train.learning_rate=0.01", "train.trackers=[]"]
            recipe = load_recipe("catalogue", [*shared, *settings])
            train(recipe.with_data(folder / "shapes"), folder / f"run-{len(runs)}")
            runs[key] = folder / f"run-{len(runs)}"
        return runs[key]

    return tuned


def both(form: str, *settings: str) -> list[str]:
    return [f"model.image.train={form}", f"model.text.train={form}", *settings]


def photos(size: int) -> Tensor:
    return torch.stack([to_pixels(picture) for picture in pictures(*[(size, size)] * 3)])


@pytest.mark.parametrize("form", ["lora", "last-1", "all"])
@pytest.mark.parametrize("start", ["clip", "siglip"])
def test_plain_transformers_gives_the_runs_embeddings(tune: Tune, tmp_path: Path, start: str, form: str) -> None:
    run = tune(start, *both(form, NO_HEAD, LEARNED))
    folder = export_run(run, "huggingface", tmp_path / "out")
    kind = CLIPModel if start == "clip" else SiglipModel
    model, plain = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert not any("lora" in name for name in model.state_dict())
    padding = {"padding": "max_length", "max_length": 16} if start == "siglip" else {"padding": True}
    inputs = dict(plain(CAPTIONS, return_tensors="pt", **padding))
    names = ["input_ids", *(["attention_mask"] if start == "clip" else [])]
    pictured = pictures((model.config.vision_config.image_size,) * 2)
    pixels = AutoProcessor.from_pretrained(folder).image_processor(pictured, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        x = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output)
        y = F.normalize(model.get_text_features(**{name: inputs[name] for name in names}).pooler_output)
    texts, images = embedded(run, CAPTIONS, torch.stack([to_pixels(picture) for picture in pictured]))
    assert difference(y, texts) < 1e-5
    assert difference(x, images) < 1e-5
    state = load_checkpoint(RunDirectory(run).checkpoint_file("best"))["objective"]
    assert model.logit_scale.item() == pytest.approx(-state["temperature.log_value"].item(), abs=1e-6)
    untuned = kind.from_pretrained(run.parent / start)
    assert any(not torch.equal(value, untuned.state_dict()[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def reference_clip(state: dict[str, Tensor], pixels: Tensor, ids: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """open_clip's CLIP with QuickGELU, written down from its published forward pass."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def blocks(x: Tensor, prefix: str, mask: Tensor | None) -> Tensor:
        for number in range(2):
            at = f"{prefix}transformer.resblocks.{number}"
            attention = torch.nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
            attention.load_state_dict({k: state[f"{at}.attn.{k}"] for k in attention.state_dict()})
            h = norm(x, f"{at}.ln_1")
            x = x + attention(h, h, h, need_weights=False, attn_mask=mask)[0]
            h = linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc")
            x = x + linear(h * torch.sigmoid(1.702 * h), f"{at}.mlp.c_proj")
        return x

    patches = F.conv2d(pixels, state["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], 1) + state["visual.positional_embedding"]
    x = norm(blocks(norm(x, "visual.ln_pre"), "visual.", None)[:, 0], "visual.ln_post") @ state["visual.proj"]
    y = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
    y = norm(blocks(y, "", mask), "ln_final")[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]
    return F.normalize(x), F.normalize(y)


@pytest.mark.parametrize("form", ["lora", "all"])
def test_the_state_dict_of_open_clip_gives_the_runs_embeddings(tune: Tune, tmp_path: Path, form: str) -> None:
    run = tune("clip", *both(form, NO_HEAD, LEARNED))
    folder = export_run(run, "open_clip", tmp_path / "out")
    state = load_file(folder / "open_clip_model.safetensors")
    about = json.loads((folder / "export.json").read_text())
    pixels = photos(16)
    mean, std = (torch.tensor(about["media"][name])[:, None, None] for name in ("mean", "std"))
    ids = AutoTokenizer.from_pretrained(run.parent / "clip")(CAPTIONS, return_tensors="pt", padding=True)["input_ids"]
    x, y = reference_clip(state, (pixels - mean) / std, ids, heads=2)
    texts, images = embedded(run, CAPTIONS, pixels)
    assert difference(x, images) < 1e-5
    assert difference(y, texts) < 1e-5
    assert state["logit_scale"].exp().item() == pytest.approx(about["logit_scale"])
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert config["preprocess_cfg"] == {
        **{name: about["media"][name] for name in ("size", "mean", "std")},
        "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 255,
    }  # fmt: skip
    assert "library_name: open_clip\n" in (folder / "README.md").read_text()
    shape = config["model_cfg"]
    assert (shape["embed_dim"], shape["quick_gelu"]) == (12, True)
    assert shape["vision_cfg"] == {
        "width": 16, "layers": 2, "mlp_ratio": 2.0, "image_size": 16, "patch_size": 8, "head_width": 8
    }  # fmt: skip
    assert shape["text_cfg"] == {
        "width": 16, "layers": 2, "mlp_ratio": 2.0, "context_length": 16, "vocab_size": 258, "heads": 2
    }  # fmt: skip


@pytest.mark.parametrize("to", ["onnx", "sentence-transformers"])
@pytest.mark.parametrize(
    "settings",
    [both("lora", NO_HEAD), both("lora"), both("head"), both("last-1")],
    ids=["no heads", "lora", "head", "last"],
)
def test_tuned_pairs_with_residual_heads(tune: Tune, tmp_path: Path, settings: list[str], to: str) -> None:
    for start in ("clip", "siglip"):
        run = tune(start, *settings)
        folder = export_run(run, to, tmp_path / start)
        about = json.loads((folder / "export.json").read_text())
        assert max(about[side]["largest_difference"] for side in ("media", "text")) < (1e-4 if to == "onnx" else 1e-5)
        if to == "onnx":
            continue
        assert about["needs_mmts"] == (NO_HEAD not in settings)
        model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=about["needs_mmts"])
        squares = pictures(*[(32 if start == "siglip" else 16,) * 2] * 3)
        texts, images = embedded(run, CAPTIONS, torch.stack([to_pixels(square) for square in squares]))
        assert difference(model.encode(CAPTIONS), texts) < 1e-5
        assert difference(model.encode(squares), images) < 1e-5


def test_a_run_that_starts_from_a_run_keeps_all_its_heads(runs: Runs, tune: Tune, tmp_path: Path) -> None:
    run = tune(str(runs("words")), "model.text.train=lora")
    for to in ("onnx", "sentence-transformers"):
        about = json.loads((export_run(run, to, tmp_path / to) / "export.json").read_text())
        assert about["media"]["largest_difference"] < 1e-5
    model = SentenceTransformer(str(tmp_path / "sentence-transformers"), device="cpu", trust_remote_code=True)
    texts, _ = embedded(run, ["a red bar", "stripe"])
    assert difference(model.encode(["a red bar", "stripe"]), texts) < 1e-5
    with pytest.raises(RunError, match="the run's towers 'small-resnet' and 'small-transformer' are not its two sides"):
        export_run(run, "huggingface", tmp_path / "out")


@pytest.mark.parametrize("to", ["huggingface", "open_clip"])
def test_what_cannot_be_a_clip_says_what_can_be_done(runs: Runs, tune: Tune, tmp_path: Path, to: str) -> None:
    with pytest.raises(RunError, match=r"not linear.*--to onnx and --to sentence-tr.*head=\{kind: none\}.*lora"):
        export_run(tune("clip", *both("head")), to, tmp_path / "out")
    with pytest.raises(RunError, match=r"cannot make images square as the run does \(resize: pad\)"):
        export_run(runs("padded clip"), to, tmp_path / "out")
    if to == "open_clip":
        with pytest.raises(RunError, match="writes a CLIP, and the run's model is a siglip: give --to huggingface"):
            export_run(tune("siglip", *both("lora", NO_HEAD, LEARNED)), to, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_towers_of_one_clip_without_a_start_are_written_too(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export_run(runs("clip"), "huggingface", tmp_path / "out")
    assert "logit scale 20, a temperature of 0.05: the run's" in capsys.readouterr().out
    assert CLIPModel.from_pretrained(folder).logit_scale.item() == pytest.approx(-np.log(0.05))


def test_a_rule_with_several_temperatures_leaves_the_pairs_own(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tune("clip", *both("last-1", NO_HEAD, "objective.temperature={rule: shifted}"))
    folder = export_run(run, "huggingface", tmp_path / "out")
    own = CLIPModel.from_pretrained(run.parent / "clip").logit_scale.item()
    assert CLIPModel.from_pretrained(folder).logit_scale.item() == pytest.approx(own, abs=1e-6)
    assert ": the pretrained model's, as the run has no single one" in capsys.readouterr().out
