"""Checkpoints of AVION in every layout, against a plain implementation of the published architecture."""

import argparse
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmts.data.records import Medium, Split
from mmts.errors import RecipeError
from mmts.models import TwoTower, load_avion
from mmts.recipe.recipe import parse_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import build_model

WIDTH, HEADS, DEPTH, FRAMES, PATCH, SIZE, OUT, LENGTH, WORDS = 16, 2, 2, 3, 8, 16, 6, 12, 258
TINY = {"tokenizer": "bytes", "heads": HEADS}
CAPTIONS = ["cut the onion", "", "open " * 20]


# --- the published architecture, written down plainly; names are those of its checkpoints ---------------------------


class Block(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH, eps)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_2 = nn.LayerNorm(WIDTH, eps)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


def blocks(eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"resblocks": nn.ModuleList(Block(eps) for _ in range(DEPTH))})


class Visual(nn.Module):
    def __init__(self, frames: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(1 + (SIZE // PATCH) ** 2, WIDTH))
        if frames > 1:
            self.temporal_embedding = nn.Parameter(torch.randn(frames, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH, 1e-6)
        self.transformer = blocks(1e-6)
        self.ln_post = nn.LayerNorm(WIDTH, 1e-6)
        self.image_projection = nn.Parameter(torch.randn(WIDTH, OUT))

    def forward(self, clip: Tensor) -> Tensor:  # one normalised clip (F, 3, SIZE, SIZE)
        tokens = [self.class_embedding + self.positional_embedding[0]]
        for time, frame in enumerate(clip):
            for place, patch in enumerate(self.conv1(frame[None])[0].flatten(1).T):
                token = patch + self.positional_embedding[1 + place]
                tokens.append(token + self.temporal_embedding[time] if len(clip) > 1 else token)
        x = self.ln_pre(torch.stack(tokens)[None])
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.image_projection


class Textual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(WORDS, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.transformer = blocks(1e-5)
        self.ln_final = nn.LayerNorm(WIDTH, 1e-5)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, OUT))

    def forward(self, ids: Tensor) -> Tensor:  # (B, LENGTH), padded with 0
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
        for block in self.transformer["resblocks"]:
            x = block(x, mask)
        return self.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection


class Published(nn.Module):
    def __init__(self, frames: int = FRAMES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual = Visual(frames)
        self.textual = Textual()
        self.logit_scale = nn.Parameter(torch.tensor(2.6))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "ln" in name or "bias" in name:  # as random as the rest, so that none can be mixed up
                    parameter.add_(0.3 * torch.randn_like(parameter))

    def forward(self, clips: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        mean = torch.tensor([108.3272985, 116.7460125, 104.09373615])[:, None, None]
        std = torch.tensor([68.5005327, 66.6321579, 70.32316305])[:, None, None]
        video = torch.cat([self.visual((255 * clip - mean) / std) for clip in clips])
        return F.normalize(video, dim=-1), F.normalize(self.textual(ids), dim=-1)


FLASH = {
    "attn.in_proj_weight": "attn.Wqkv.weight",
    "attn.in_proj_bias": "attn.Wqkv.bias",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


def layout(model: nn.Module, *, prefix: bool, flash: bool, fast_conv: bool) -> dict[str, Tensor]:
    """The model's state as AVION would have saved it; flash attention is in its video side only."""
    state = {}
    for name, value in model.state_dict().items():
        if flash and name.startswith("visual"):
            for plain, other in FLASH.items():
                name = name.replace(plain, other)
        if fast_conv and name == "visual.conv1.weight":
            value = value.flatten(1)
        state[f"module.{name}" if prefix else name] = value
    return state


def inputs(frames: int = FRAMES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips = torch.rand(2, frames, 3, SIZE, SIZE, generator=generator)
    ids = torch.zeros(len(CAPTIONS), LENGTH, dtype=torch.long)
    for row, caption in enumerate(CAPTIONS):
        tokens = [256, *caption.encode()[: LENGTH - 2], 257]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return clips, ids


def embed(model: TwoTower, clips: Tensor) -> tuple[Tensor, Tensor]:
    assert model.text_tower is not None
    with torch.no_grad():
        return model.eval()(clips, model.text_tower.tokenize(CAPTIONS))


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("prefix", "flash", "fast_conv"), itertools.product([False, True], repeat=3))
def test_every_layout_gives_the_published_outputs(prefix: bool, flash: bool, fast_conv: bool) -> None:
    published = Published().eval()
    clips, ids = inputs()
    with torch.no_grad():
        expected = published(clips, ids)
    model = load_avion(layout(published, prefix=prefix, flash=flash, fast_conv=fast_conv), **TINY)
    assert_same(embed(model, clips), expected)


def test_an_image_model_has_one_frame() -> None:
    published = Published(frames=1).eval()
    clips, ids = inputs(frames=1)
    model = load_avion(published.state_dict(), **TINY)
    assert model.media_tower is not None
    assert model.media_tower.frames == 1
    with torch.no_grad():
        assert_same(embed(model, clips), published(clips, ids))
    inflated = load_avion(published.state_dict(), **TINY, frames=4)
    assert not inflated.media_tower.temporal_embedding.any()  # type: ignore[union-attr]
    assert embed(inflated, inputs(4)[0])[0].shape == (2, OUT)


def test_sizes_are_read_off_the_weights() -> None:
    model = load_avion(Published().state_dict(), **TINY)
    video, text = model.media_tower, model.text_tower
    assert (video.size, video.frames, video.width, video.resize) == (SIZE, FRAMES, OUT, "crop")  # type: ignore[union-attr]
    assert (text.max_length, text.width, text.vocabulary_size) == (LENGTH, OUT, WORDS)  # type: ignore[union-attr]
    assert not video.from_scratch  # type: ignore[union-attr]
    assert "logit_scale" not in model.state_dict()


def test_heads_are_one_per_64_features() -> None:
    model = load_avion(Published().state_dict(), tokenizer="bytes")
    assert [block.heads for block in model.media_tower.blocks] == [1, 1]  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="width 16 is not a multiple of heads 3"):
        load_avion(Published().state_dict(), tokenizer="bytes", heads=3)


def test_temporal_embedding_for_other_frames_is_interpolated_linearly() -> None:
    published = Published()
    given = published.visual.temporal_embedding.detach()
    longer = load_avion(published.state_dict(), **TINY, frames=6).media_tower.temporal_embedding  # type: ignore[union-attr]
    # Frame f of 6 stands at (f + 1/2) / 6 of the clip; of 3, in the middle of its third.
    expected = np.stack(
        [np.interp((np.arange(6) + 0.5) / 6, (np.arange(3) + 0.5) / 3, column) for column in given.T.numpy()], 1
    )
    np.testing.assert_allclose(longer.detach().numpy(), expected, atol=1e-6)


def save(folder: Path, **more: object) -> Path:
    """A file as AVION's training script writes it."""
    args = argparse.Namespace(model="CLIP_VITB16", lr=3e-5, betas=(0.9, 0.999), clip_length=FRAMES, gpu=0, resume="")
    optimizer = torch.optim.AdamW(Published().parameters()).state_dict()
    state = layout(Published(), prefix=True, flash=True, fast_conv=True)
    content = {"epoch": 5, "state_dict": state, "optimizer": optimizer, "best_acc1": np.float64(0.52), "args": args}
    torch.save({**content, **more}, folder / "checkpoint_best.pt")
    return folder / "checkpoint_best.pt"


def test_a_file_as_the_training_script_writes_it(tmp_path: Path) -> None:
    expected = embed(load_avion(Published().state_dict(), **TINY), inputs()[0])
    path = save(tmp_path)
    assert_same(embed(load_avion(path, **TINY), inputs()[0]), expected)
    torch.save(Published().state_dict(), tmp_path / "plain.pt")
    assert_same(embed(load_avion(str(tmp_path / "plain.pt"), **TINY), inputs()[0]), expected)
    torch.save(Published().half().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    half = load_avion(tmp_path / "old.pt", **TINY)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


def from_recipe(folder: Path, **settings: object) -> TwoTower:
    """The model of a recipe with `pretrained`."""
    content = {
        "video": {"tower": "space-time-vit", "train": "all", "options": {"heads": HEADS}},
        "text": {"tower": "clip-text", "train": "all", "options": TINY},
        "head": {"kind": "none"},
        "width": OUT,
        "pretrained": save(folder),
        **settings,
    }
    section = parse_recipe({"model": content, "train": {"epochs": 1}}).model
    split = Split("train", [Medium("clip", Path("clip.mp4"), ("a",), kind="video")])
    return build_model(section, split.media, RunDirectory(folder), split.captions)


def test_a_recipe_with_pretrained_is_load_avion(tmp_path: Path) -> None:
    model = from_recipe(tmp_path)
    assert_same(embed(model, inputs()[0]), embed(load_avion(save(tmp_path), **TINY), inputs()[0]))
    assert model.media_tower.frames == FRAMES  # type: ignore[union-attr]
    for settings, message in [
        ({"width": 256}, "head 'none' keeps the tower's width 6, but the model's width is 256"),
        (
            {"video": {"tower": "space-time-vit", "options": {"width": 32}}},
            "has width 16, not 32; leave the option out",
        ),
        ({"text": {"tower": "clip-text", "options": {"weights": "x"}}}, "text tower; leave its option weights out"),
        ({"video": {"tower": "frames"}}, "fills the video tower 'space-time-vit', not 'frames'"),
        ({"head": {"kind": "linear"}}, "pretrained needs head.kind none, not linear"),
        ({"pretrained": tmp_path / "gone.pt"}, r"model.pretrained: .*gone.pt"),
    ]:
        with pytest.raises(RecipeError, match=message):
            from_recipe(tmp_path, **settings)


def test_contents_that_run_code_are_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    with pytest.raises(RecipeError, match=r"holds an object of the kind \S*mkdir; mmts runs no code of a checkpoint"):
        load_avion(save(tmp_path, args=Harm()), **TINY)
    assert not (tmp_path / "harm").exists()


BLOCK = "visual.transformer.resblocks"
WRONG: list[tuple[str, Tensor | int | None, str]] = [  # key, its new value (None takes it out), message
    ("fc_cls.weight", torch.ones(2), "1 of its 64 keys are unknown, such as 'fc_cls.weight'"),
    ("visual.head.weight", torch.ones(2), "also has 1 weight, such as 'head.weight'"),
    (f"{BLOCK}.0.attn.gate", torch.ones(2), "also has 1 weight, such as 'blocks.0.attn.gate'"),
    ("textual.ln_pre.bias", torch.ones(2), "also has 1 weight, such as 'ln_pre.bias'"),
    ("visual.ln_post.bias", None, "lacks 1 weight, such as 'ln_post.bias'"),
    ("textual.text_projection", None, "has no matrix 'text_projection'"),
    ("visual.ln_pre.bias", torch.ones(3), r"has the weight 'ln_pre.bias' of shape \(3,\), not \(16,\)"),
    ("visual.positional_embedding", torch.ones(6, 16), r"'positional_embedding' of shape \(6, 16\), not \(5, 16\)"),
    ("visual.image_projection", torch.ones(6), "has no matrix 'image_projection'"),
    ("visual.conv1.weight", torch.ones(6), "has no matrix 'patches.weight'"),
    ("visual.temporal_embedding", torch.ones(1, 3, 16), r"shape \(1, 3, 16\)"),
    (f"{BLOCK}.2.ln_1.bias", torch.ones(16), "lacks 11 weights"),
    ("epoch", 3, "'epoch' is not a tensor but int"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_other_state_dicts_are_errors(key: str, value: Tensor | int | None, message: str) -> None:
    state: dict[str, object] = dict(Published().state_dict())
    if value is None:
        del state[key]
    else:
        state[key] = value
    with pytest.raises(RecipeError, match=message):
        load_avion(state, **TINY)  # type: ignore[arg-type]


def test_no_state_dict_at_all() -> None:
    with pytest.raises(RecipeError, match="holds no state_dict"):
        load_avion({})


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such file"):
        load_avion(tmp_path / "gone.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "cut.pt").write_bytes(save(tmp_path).read_bytes()[:2000])
    for name in ("text.pt", "cut.pt"):
        with pytest.raises(RecipeError, match=rf"{name}' cannot be read; it is damaged") as why:
            load_avion(tmp_path / name)
        assert "\n" not in str(why.value)
