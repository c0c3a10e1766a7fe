from pathlib import Path

import pytest
import torch
from tiny_models import clip_of_bytes, tiny_backbone, tiny_clip

from mmts.errors import RecipeError
from mmts.models import load_text_tower
from mmts.models.clip_text import ByteTokenizer, ClipText

SIZES = {"width": 16, "depth": 2, "heads": 2, "output_width": 6, "context_length": 12}
ODD = ["", " ", "\x00", "👟🏽", "שלום עולם", "\ud800 lone", "a" * 5000, "\u200b"]


def tower(**options: object) -> ClipText:
    torch.manual_seed(0)
    made = load_text_tower("clip-text", **{"tokenizer": "bytes", **SIZES, **options})
    assert isinstance(made, ClipText)
    return made


def test_bytes_between_start_and_end() -> None:
    assert ByteTokenizer()(["", "é", "abcdefgh"], 6) == [
        [256, 257],
        [256, 0xC3, 0xA9, 257],
        [256, 97, 98, 99, 100, 257],
    ]


def test_takes_anything_and_padding_changes_nothing() -> None:
    model = tower().eval()
    with torch.no_grad():
        rows = model(model.tokenize(ODD))
        alone = torch.cat([model(model.tokenize([caption])) for caption in ODD])
    assert rows.shape == (len(ODD), 6)
    assert rows.isfinite().all()
    torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-5)
    assert model.tokenize([])["input_ids"].shape == (0, 1)


def test_trains_and_checkpoints_its_gradients() -> None:
    plain, checkpointed = tower(), tower()
    checkpointed.enable_gradient_checkpointing()
    for model in (plain, checkpointed):
        model.train()(model.tokenize(["a red shoe", "hat"])).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(one.grad, other.grad)


def test_causal_and_pooled_at_the_highest_id() -> None:
    model = tower().eval()
    with torch.no_grad():
        ids = torch.tensor([[256, 97, 98, 257, 5, 6], [256, 97, 98, 257, 0, 0]])
        same = model({"input_ids": ids})
        torch.testing.assert_close(same[0], same[1])  # what follows the end is not seen
        assert not torch.allclose(model({"input_ids": torch.tensor([[256, 99, 98, 257]])})[0], same[0], atol=1e-4)


def test_weights_of_a_clip_folder(tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = clip_of_bytes(tmp_path / "clip")
    model = tower(
        weights=str(folder), context_length=None, width=None, depth=None, heads=None, output_width=None
    ).eval()
    assert (model.width, model.max_length, model.vocabulary_size, model.blocks.activation) == (
        12,
        16,
        258,
        "quick_gelu",
    )
    assert not model.from_scratch
    tokens = model.tokenize(["a red shoe", "", "x" * 40])
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder).eval().get_text_features(tokens["input_ids"]).pooler_output
        torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)
    with pytest.raises(RecipeError, match="has width 16, not 32; leave the option out"):
        tower(weights=str(folder), width=32)


def test_a_tokenizer_is_read_when_first_used(tmp_path: Path) -> None:
    model = ClipText(str(tmp_path), **SIZES)  # type: ignore[arg-type]
    assert model({"input_ids": torch.tensor([[1, 2]])}).shape == (1, 6)
    with pytest.raises(RecipeError, match=r"no config\.json|cannot be loaded from this folder"):
        model.tokenize(["a"])


@pytest.mark.parametrize("name", ["nobody/no-such-tokenizer", "/nowhere/tokenizer"])
def test_a_tokenizer_that_cannot_be_had(name: str) -> None:
    says = rf"clip-text tokenizer '{name}'(: there is no such| is not a) folder.*tokenizers are bytes"
    with pytest.raises(RecipeError, match=says) as why:
        tower(tokenizer=name)
    assert "\n" not in str(why.value)


def test_a_tokenizer_must_end_with_its_highest_id(tmp_path: Path) -> None:
    folder = str(tiny_clip(tmp_path))  # ends with 3 of 11 words
    with pytest.raises(RecipeError, match="does not close a caption with its highest id"):
        tower(tokenizer=folder)


def test_tokenizer_of_a_folder(tmp_path: Path) -> None:
    model = tower(tokenizer=str(clip_of_bytes(tmp_path)), vocabulary_size=300)
    assert model.tokenize(["red red shoe", "a", "red " * 50])["input_ids"].tolist() == [
        [256, 1, 1, 3, 257] + [0] * 7,
        [256, 0, 257] + [0] * 9,
        [256] + [1] * 10 + [257],
    ]
    assert model.fingerprint != tower(vocabulary_size=300).fingerprint


def test_wrong_options(tmp_path: Path) -> None:
    for options, message in [
        ({"vocabulary_size": 100}, "has ids up to 257, and its vocabulary 100 words"),
        ({"heads": 3}, "width 16 is not a multiple of heads 3"),
        ({"depth": 0}, "depth is 0: input should be greater than or equal to 1"),
        ({"context_length": 1}, "context_length is 1: input should be greater than or equal to 2"),
        ({"activation": "relu"}, "activation is 'relu': input should be 'gelu' or 'quick_gelu'"),
        ({"weigths": "x"}, "no option 'weigths'; did you mean 'weights'"),
        ({"weights": str(tmp_path / "gone.pt")}, "there is no file"),
        ({"weights": str(tiny_backbone(tmp_path / "vit", "vit"))}, "those of a vit model; only CLIP's fit here"),
    ]:
        with pytest.raises(RecipeError, match=message):
            tower(**options)
