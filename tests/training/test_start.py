"""Models that start from a pretrained pair: at step 0 they are that pair, whatever trains."""

import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny_models import tiny_backbone, tiny_clip
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmts.errors import InputError, Interrupted, MmtsError, RecipeError, RunError
from mmts.evaluation.run import evaluate
from mmts.models import TwoTower, embed_media, embed_text
from mmts.models.trainable import merge_lora
from mmts.recipe.recipe import Recipe, load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training import run as runs
from mmts.training.experiment import build_model, load_model
from mmts.training.run import train
from mmts.training.splits import open_data
from mmts.training.start import open_pair
from mmts.training.trainer import Trainer

FORMS = ["none", "head", "last-1", "lora", "all"]


def from_pair(start: Path, data: Path, *settings: str) -> Recipe:
    shared = ["concepts.encoder=tfidf", "concepts.num_concepts=4", "train.batch_size=12", "train.trackers=[]"]
    steps = ["train.epochs=null", "train.steps=3", f"model.start={start}", "model.head.hidden=16"]
    return load_recipe("catalogue", [*shared, *steps, *settings]).with_data(data)


def scaled_clip(folder: Path, scale: float, kind: str = "clip") -> Path:
    """A tiny pair with a logit scale, and for a SigLIP a logit bias of -5."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_clip(folder, kind))
    with torch.no_grad():
        model.logit_scale.fill_(math.log(scale))
        if kind == "siglip":
            model.logit_bias.fill_(-5.0)
    model.save_pretrained(folder)
    return folder


def embeddings(model: TwoTower, data: Path) -> tuple[Tensor, Tensor]:
    split = open_data(load_recipe("catalogue").data, data).split("test")
    return embed_media(model, split.media), embed_text(model, split.captions)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_pair_embeds_as_transformers_does(kind: str, shapes: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tiny_clip(tmp_path / kind, kind)
    pair = open_pair(str(folder))
    whole = AutoModel.from_pretrained(folder).eval()
    pixels, tokens = torch.rand(4, 3, 32, 32), pair.text_tower.tokenize(["red dog", "a blue circle", "cat"])
    inputs = {name: tokens[name] for name in ("input_ids", *(["attention_mask"] if kind == "clip" else []))}
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    with torch.no_grad():
        media = whole.get_image_features(pixel_values=(pixels - mean) / std).pooler_output
        text = whole.get_text_features(**inputs).pooler_output
        x, y = pair.eval()(pixels, tokens)
    assert torch.allclose(x, media / media.norm(dim=1, keepdim=True), atol=1e-6)
    assert torch.allclose(y, text / text.norm(dim=1, keepdim=True), atol=1e-6)
    assert pair.temperature == pytest.approx(1 / whole.logit_scale.exp().item())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", ["residual", "none"])
def test_every_form_starts_at_the_pair_bit_for_bit(form: str, head: str, shapes: Path, clip: Path) -> None:
    settings = [f"model.image.train={form}", f"model.text.train={form}", f"model.head.kind={head}"]
    if head == "none":
        settings = [setting for setting in settings if "head.kind" not in setting] + ["model.head={kind: none}"]
    recipe = from_pair(clip, shapes, *settings, "train.steps=0")
    model = build_model(recipe.model, (), RunDirectory(Path("unused")))
    for ours, theirs in zip(embeddings(model, shapes), embeddings(open_pair(str(clip)), shapes), strict=True):
        assert torch.equal(ours, theirs)
    training = {name for name, value in model.named_parameters() if value.requires_grad}
    if form == "none":
        assert not training
    elif form == "head":
        assert all(name.startswith(("media_head", "text_head")) for name in training)
    elif form == "lora":
        towers = {name for name in training if "_tower" in name}
        assert towers
        assert all("lora_" in name for name in towers)
    elif form == "last-1":
        assert any("layers.1" in name for name in training)
        assert not any("layers.0" in name or "embeddings" in name for name in training)


@pytest.mark.parametrize("form", ["head", "last-1", "lora", "all"])
def test_a_tuned_pair_is_what_is_evaluated_later(form: str, shapes: Path, clip: Path, tmp_path: Path) -> None:
    recipe = from_pair(clip, shapes, f"model.image.train={form}", f"model.text.train={form}")
    train(recipe, tmp_path / "run")
    first, again = load_model(RunDirectory(tmp_path / "run")), load_model(RunDirectory(tmp_path / "run"))
    before, after = embeddings(open_pair(str(clip)), shapes), embeddings(first, shapes)
    assert torch.equal(after[0], embeddings(again, shapes)[0])
    assert not torch.allclose(before[0], after[0], atol=1e-4)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert ("lora" in form) == any("lora_A" in name for name in saved)
    if form in ("last-1", "lora"):
        assert not any("layers.0" in name and "lora" not in name for name in saved)


@pytest.mark.parametrize("tower", ["clip", "small-vit"])
def test_merged_lora_computes_the_same(tower: str, shapes: Path, clip: Path, tmp_path: Path) -> None:
    start = clip
    if tower == "small-vit":
        start = tmp_path / "start"
        vit = "{tower: small-vit, train: all, size: 16, options: {patch: 8, width: 16, depth: 1, heads: 2}}"
        words = "{tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}"
        scratch = [f"model.image={vit}", f"model.text={words}", "model.width=16", "train.epochs=1"]
        train(
            load_recipe("catalogue", [*scratch, "concepts.encoder=tfidf", "train.trackers=[]"]).with_data(shapes), start
        )
    recipe = from_pair(start, shapes, "model.image.train=lora", "model.text.train=lora", "train.learning_rate=.01")
    train(recipe, tmp_path / "run")
    model = load_model(RunDirectory(tmp_path / "run"))
    adapted, before = embeddings(model, shapes), embeddings(open_pair(str(start)), shapes)
    assert not torch.allclose(adapted[0], before[0], atol=1e-3)
    for side in (model.media_tower, model.text_tower):
        merge_lora(side)
    assert not any("lora" in name for name in model.state_dict())
    for ours, theirs in zip(embeddings(model, shapes), adapted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("form", ["head", "last-1", "lora"])
def test_another_start_than_the_run_was_tuned_from_is_refused(
    form: str, shapes: Path, clip: Path, tmp_path: Path
) -> None:
    shutil.copytree(clip, tmp_path / "clip")
    train(from_pair(tmp_path / "clip", shapes, f"model.image.train={form}"), tmp_path / "run")
    load_model(RunDirectory(tmp_path / "run"))
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    weights["vision_model.encoder.layers.0.mlp.fc1.weight"][0, 0] += 1
    save_file(weights, tmp_path / "clip" / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="are not those that the run was trained with"):
        load_model(RunDirectory(tmp_path / "run"))


def test_a_run_is_a_start_with_its_heads(shapes: Path, clip: Path, tmp_path: Path) -> None:
    train(from_pair(clip, shapes), tmp_path / "first")
    recipe = from_pair(tmp_path / "first", shapes, "train.steps=0", "model.head={kind: none}")
    assert recipe.model.start == str(tmp_path / "first")
    train(recipe, tmp_path / "second")
    both = [embeddings(load_model(RunDirectory(tmp_path / name)), shapes) for name in ("first", "second")]
    assert torch.equal(both[0][0], both[1][0])
    assert torch.equal(both[0][1], both[1][1])


def test_lora_goes_on_from_a_run_with_lora(shapes: Path, clip: Path, tmp_path: Path) -> None:
    lora = ["model.image.train=lora", "model.text.train=lora", "train.learning_rate=.01"]
    train(from_pair(clip, shapes, *lora), tmp_path / "first")
    train(from_pair(tmp_path / "first", shapes, *lora, "train.steps=0", "model.head={kind: none}"), tmp_path / "second")
    first, second = (load_model(RunDirectory(tmp_path / name)) for name in ("first", "second"))
    assert not any("base_layer.base_layer" in name for name in second.state_dict())
    for ours, theirs in zip(embeddings(second, shapes), embeddings(first, shapes), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_towers_have_learning_rates_of_their_own(shapes: Path, clip: Path, tmp_path: Path) -> None:
    still = from_pair(clip, shapes, "model.image.train=all", "model.image.learning_rate=1e-30", "train.weight_decay=0")
    train(still, tmp_path / "run")
    model, pair = load_model(RunDirectory(tmp_path / "run")), open_pair(str(clip))
    moved = dict(model.named_parameters())
    for name, value in pair.media_tower.named_parameters(prefix="media_tower"):
        assert torch.allclose(moved[name], value, rtol=0, atol=1e-20)
    assert moved["media_head.4.weight"].abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["model.head.kind=two-layer"], "would throw away what model.start has learned; use residual or none"),
        (["model.width=64"], "brings both towers and their width: leave width out"),
        (["model.image.tower=small-vit"], "brings both towers and their width: leave image.tower out"),
        (["model.image.train=last-9"], "has 2 blocks; train cannot be last-9"),
        (["model.image.train=last"], "unknown form 'last'"),
        (["model.text.train=lora", "model.text.lora.targets=[q_prj]"], "fits none of its linear layers: .*q_proj"),
        (["model.text.lora.rank=4"], "lora is for train: lora, and train is head"),
        (["model.text.learning_rate=.1"], "with train: head the tower does not train"),
    ],
)
def test_what_cannot_start_is_named(settings: list[str], says: str, shapes: Path, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        train(from_pair(clip, shapes, *settings), tmp_path / "run")


def test_what_is_no_pair_is_named(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.bin").touch()
    vit = tiny_backbone(tmp_path / "vit", "vit")
    cases: list[tuple[Any, str]] = [
        (vit, "is a vit model, not a CLIP or SigLIP"),
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "file.bin", "is a file; a pretrained pair is a folder or a name"),
        (tmp_path / "nothing", "does not exist|there is no"),
        (scaled_clip(tmp_path / "nan", math.nan), r"nan is damaged: its logit scale is exp\(nan\)"),
        (tmp_path / "run", "^model.start: .*run is a run that starts from itself"),
        ("runs/of/mine", r"runs/of/mine does not exist"),
        (tmp_path / "rows.npz", "holds embeddings, not a model"),
    ]
    for start, says in cases:
        with pytest.raises((RecipeError, InputError, MmtsError), match=says):
            train(from_pair(start, shapes), tmp_path / "run")


def test_lora_needs_linear_layers(shapes: Path, tmp_path: Path) -> None:
    recipe = load_recipe("catalogue", ["model.image.train=lora", "concepts.encoder=tfidf", "model.image.size=32"])
    with pytest.raises(RecipeError, match=r"no linear layers for LoRA|fits none"):
        train(recipe.with_data(shapes), tmp_path / "run")


LEARNED = "objective.temperature={rule: learned, start: pretrained, low: 0.005}"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_learned_temperature_starts_at_the_pairs_own(kind: str, shapes: Path, tmp_path: Path) -> None:
    pair = open_pair(str(scaled_clip(tmp_path / "pair", 25.0, kind)))
    settings = [LEARNED, "train.steps=0"]
    if kind == "siglip":
        settings[0] = "objective={loss: siglip, bias: pretrained, temperature: {rule: learned, start: pretrained}}"
    train(from_pair(tmp_path / "pair", shapes, *settings), tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["objective"]
    assert pair.temperature == pytest.approx(1 / 25)
    assert state["temperature.log_value"].exp().item() == pytest.approx(1 / 25)
    assert (pair.logit_bias, "bias" in state) == ((None, False) if kind == "clip" else (-5.0, True))
    assert state.get("bias", torch.tensor(-5.0)) == -5.0


def test_a_run_hands_on_the_temperature_that_it_ended_with(shapes: Path, clip: Path, tmp_path: Path) -> None:
    for name, rule in [("learned", "{rule: learned, start: 0.2}"), ("fixed", "0.11"), ("swinging", "{rule: shifted}")]:
        settings = [f"objective.temperature={rule}", "train.learning_rate=0.1"]
        train(from_pair(clip, shapes, *settings), tmp_path / name)
    state = torch.load(tmp_path / "learned" / "checkpoints" / "best.pt", weights_only=True)["objective"]
    trained = state["temperature.log_value"].exp().item()
    assert abs(trained - 0.2) > 1e-3
    assert open_pair(str(tmp_path / "learned")).temperature == pytest.approx(trained)
    assert open_pair(str(tmp_path / "fixed")).temperature == pytest.approx(0.11)
    assert open_pair(str(tmp_path / "swinging")).temperature == open_pair(str(clip)).temperature


def test_a_temperature_that_no_pair_gives_is_refused(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "readable_splits", None)  # nothing is decoded before
    with pytest.raises(RecipeError, match=r"objective.temperature: start is pretrained, but .* set model.start to one"):
        load_recipe("catalogue", [LEARNED])
    with pytest.raises(RecipeError, match=r"objective: bias is pretrained, but .* no pretrained pair .* logit bias"):
        load_recipe("catalogue", ["objective={loss: siglip, bias: pretrained}"])
    clip = scaled_clip(tmp_path / "clip", 100.01)
    with pytest.raises(RecipeError, match=r"temperature is 0.00999\d* \(a logit scale of 100.01\), outside low 0.01"):
        train(from_pair(clip, shapes, LEARNED.replace("0.005", "0.01")), tmp_path / "run")
    with pytest.raises(RecipeError, match="bias is pretrained"):  # a CLIP has none
        train(from_pair(clip, shapes, "objective={loss: siglip, bias: pretrained}"), tmp_path / "run")


@pytest.mark.parametrize("form", ["head", "last-1", "lora", "all"])
def test_a_tuned_run_keeps_the_scores_of_the_pair(form: str, shapes: Path, clip: Path, tmp_path: Path) -> None:
    forms = [f"model.image.train={form}", f"model.text.train={form}"]
    untouched = train(from_pair(clip, shapes, "train.steps=0", *forms), tmp_path / "untouched")
    tuned = train(from_pair(clip, shapes, "train.learning_rate=.01", *forms), tmp_path / "tuned")
    shared = ("text_to_image", "image_to_text", "groups", "intervals", "num_media")
    assert {key: tuned["before"][key] for key in shared} == {key: untouched[key] for key in shared}
    assert "before" not in untouched
    assert evaluate(tmp_path / "tuned") == tuned


@pytest.mark.parametrize("form", ["head", "last-1", "lora"])
def test_an_interrupted_run_goes_on_as_if_nothing_happened(
    form: str, shapes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = [f"model.image.train={form}", f"model.text.train={form}", "train.learning_rate=.01", "train.ema=.9"]
    micro = ["train.micro_batch=5", "train.gradient_checkpointing=true"] if form == "lora" else []
    recipe = from_pair(clip, shapes, "train.steps=6", *forms, *micro)
    whole = train(recipe, tmp_path / "whole")
    step = Trainer._train_step

    def interrupted(trainer: Trainer, batch: Any) -> dict[str, Any]:
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "stopped")
    monkeypatch.setattr(Trainer, "_train_step", step)
    curve = [tmp_path / "stopped" / name for name in ("interpolation.json", "checkpoints/interpolated.pt")]
    for file in curve:
        file.touch()  # as if somebody had interpolated the unfinished run
    assert train(recipe, tmp_path / "stopped", resume=True) == whole
    assert not any(file.exists() for file in curve)
    files = [tmp_path / name / "checkpoints" / "last.pt" for name in ("whole", "stopped")]
    states = [torch.load(file, weights_only=True)["model"] for file in files]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
