import json
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_backbone, tiny_clip, tiny_encoder

from mmts.errors import DataError, RecipeError
from mmts.models import TextTower, Vocabulary, build_vocabulary, load_text_tower
from mmts.models.text_towers import mean_over_mask, split_words

ODD = ["", " ", "\x00", "👟🏽", "שלום עולם", "\ud800 lone", "…", "a" * 5000, "red shoe " * 10_000, "\u200b", "नमस्ते"]


def small(**options: object) -> TextTower:
    vocabulary = build_vocabulary(["a red shoe", "a red hat", "a blue hat"])
    torch.manual_seed(0)
    return load_text_tower(
        "small-transformer", vocabulary=vocabulary, **{"width": 16, "heads": 2, "depth": 2, **options}
    )


def assert_takes_anything(tower: TextTower) -> None:
    tower.eval()
    with torch.no_grad():
        rows = tower(tower.tokenize(ODD))
        alone = torch.cat([tower(tower.tokenize([caption])) for caption in ODD])
    assert rows.shape == (len(ODD), tower.width)
    assert rows.isfinite().all()
    torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-5)  # padding changes nothing


def assert_trains(tower: TextTower) -> None:
    tower.train()
    tower(tower.tokenize(["a red shoe", "blue hat"])).square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_small_transformer() -> None:
    assert_takes_anything(small())
    assert_trains(small())


def test_small_transformer_tokens() -> None:
    tower = small(max_length=4)
    tokens = tower.tokenize(["Red HAT zebra", "", "a a a a a a a"])
    vocabulary = build_vocabulary(["a red shoe", "a red hat", "a blue hat"])
    assert vocabulary.words == ("a", "hat", "red")
    assert tokens["input_ids"].tolist() == [[1, 5, 4, 2], [1, 0, 0, 0], [1, 3, 3, 3]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_vocabulary_counts_captions_and_breaks_ties_by_spelling() -> None:
    captions = ["b b b a", "a c", "c b"]
    assert build_vocabulary(captions, min_count=1).words == ("a", "b", "c")
    assert build_vocabulary(captions, min_count=3).words == ()
    assert build_vocabulary(captions, max_words=1).words == ("a",)


def test_vocabulary_survives_json() -> None:
    vocabulary = build_vocabulary(["👟 שלום red", "👟 שלום red"])
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"words": ["a"]},
        {"format": "mmts-vocabulary-1", "words": "abc"},
        {"format": "mmts-vocabulary-1", "words": ["a", 3]},
        {"format": "mmts-vocabulary-1", "words": ["a", "b", "a"]},
    ],
)
def test_broken_vocabulary(value: object) -> None:
    with pytest.raises(DataError, match="must hold the format 'mmts-vocabulary-1' and a list of different words"):
        Vocabulary.from_json(value)


def test_split_words() -> None:
    assert split_words("ＡＢＣ x-y\x00z") == ["abc", "x", "-", "y", "\x00", "z"]
    assert split_words(" \n\t") == []


def test_mean_over_an_empty_mask_is_zero() -> None:
    assert mean_over_mask(torch.ones(1, 2, 3), torch.zeros(1, 2)).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_encoders(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel

    folder = str(tiny_encoder(tmp_path, kind))
    tower = load_text_tower(folder)
    assert tower.width == 16
    assert_takes_anything(tower)
    assert tower.tokenize(["red " * 99])["input_ids"].shape == (1, 15 if kind == "roberta" else 16)

    tokens = tower.tokenize(["a red shoe", "hat"])
    model = AutoModel.from_pretrained(folder).eval()
    states = model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    torch.testing.assert_close(tower(tokens)[0], states[0].mean(0))
    torch.testing.assert_close(tower(tokens)[1], states[1, :3].mean(0))  # [CLS] hat [SEP]
    torch.testing.assert_close(load_text_tower(folder, pooling="cls")(tokens), states[:, 0])
    assert_trains(tower)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_clip_and_siglip(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel

    folder = str(tiny_clip(tmp_path, kind))
    tower = load_text_tower(folder)
    assert not any("vision" in name or "visual" in name or "logit" in name for name, _ in tower.named_parameters())
    tokens = tower.tokenize(["a red shoe", "hat"])
    assert tokens["input_ids"].shape == (2, 16 if kind == "siglip" else 5)
    model = AutoModel.from_pretrained(folder).eval()
    mask = tokens["attention_mask"] if kind == "clip" else None
    expected = model.get_text_features(tokens["input_ids"], attention_mask=mask).pooler_output
    torch.testing.assert_close(tower(tokens), expected)
    assert_takes_anything(tower)
    assert_trains(tower)
    with pytest.raises(RecipeError, match="own pooling"):
        load_text_tower(folder, pooling="cls")


def test_captions_without_a_single_token(tmp_path: Path) -> None:
    """A tokenizer that adds no special tokens gives an empty caption no token at all."""
    folder = tiny_encoder(tmp_path, "bert")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tower = load_text_tower(str(folder))
    assert tower.tokenize([""])["input_ids"].tolist() == [[0]]
    with torch.no_grad():
        assert tower(tower.tokenize([""])).isfinite().all()
        assert tower(tower.tokenize(["", "red"])).isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mini-lm", {}, "did you mean 'minilm'"),
        ("minilm", {"pool": "cls"}, "no option 'pool'; did you mean 'pooling'"),
        ("minilm", {"pooling": "max"}, "pooling is 'max': input should be 'mean' or 'cls'"),
        ("minilm", {"max_length": 1000}, "max_length 1000 is more than the model's 512"),
        ("small-transformer", {}, "needs the vocabulary"),
        ("./nowhere", {}, "there is no such folder .the built-in text towers are minilm, small-transformer"),
        (
            "nobody/no-such-model",
            {},
            "text tower 'nobody/no-such-model' is not a folder and not in the local cache.*built-in",
        ),
    ],
)
def test_wrong_names_and_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_text_tower(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="takes no text"):
        load_text_tower(str(tiny_backbone(tmp_path / "vit", "vit")))
    folder = tiny_encoder(tmp_path / "bert", "bert")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(RecipeError, match="no tokenizer files"):
        load_text_tower(str(folder))


def test_a_tokenizer_of_another_model_is_an_error(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path, "bert")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["extra"] = 11
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(RecipeError, match="knows 12 words and its model 11"):
        load_text_tower(str(folder))


def test_fingerprint_follows_words_and_settings(tmp_path: Path) -> None:
    assert small().fingerprint == small().fingerprint
    assert small().fingerprint != small(max_length=8).fingerprint
    folder = str(tiny_encoder(tmp_path, "bert"))
    assert load_text_tower(folder).fingerprint != load_text_tower(folder, pooling="cls").fingerprint


def test_minilm() -> None:
    tower = load_text_tower("minilm")
    tower.freeze()
    captions = ["a photo of a dog", "a picture of a puppy", "quarterly tax report"]
    rows = torch.nn.functional.normalize(tower(tower.tokenize(captions)), dim=1)
    assert rows.shape == (3, 384)
    assert rows[0] @ rows[1] > 0.6 > 0.2 > rows[0] @ rows[2]
    assert tower.tokenize(["word " * 10_000])["input_ids"].shape == (1, 256)
