"""Text encoders: unit rows from the packaged model, tiny models of each kind, TF-IDF and functions."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mmts.concepts import ConceptDistribution, encoders
from mmts.concepts.encoders import TfidfEncoder, encode_captions
from mmts.concepts.names import words
from mmts.devices import has_bf16
from mmts.errors import InputError

CPU = torch.device("cpu")

CAPTIONS = ["a red shoe", "a red boot", "a sleeping dog", "a red shoe"]
WORDS = ["a", "red", "blue", "shoe", "boot", "dog", "sleeping"]


def is_unit(rows):
    return rows.dtype == np.float32 and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def bert_tokenizer(folder):
    from transformers import BertTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = BertTokenizerFast(vocab=vocabulary, model_max_length=16)
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "bert"
    size = bert_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sentence_folder(bert_folder, tmp_path_factory):
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("models") / "sentences"
    SentenceTransformer(str(bert_folder), device="cpu").save(str(folder))
    return folder


def clip_like_folder(folder, kind):
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    size = bert_tokenizer(folder)
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = part | {"vocab_size": size, "max_position_embeddings": 12, "projection_size": 16}
    text |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = part | {"image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    if kind == "clip":
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    else:
        SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return clip_like_folder(tmp_path_factory.mktemp("models") / "clip", "clip")


# --- the packaged model


def test_minilm_knows_what_is_alike(private_cache, monkeypatch):
    rows = encode_captions(CAPTIONS)
    assert rows.shape == (4, 384)
    assert is_unit(rows)
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.5 > similarity[0, 2]
    assert similarity[0, 3] == pytest.approx(1)
    # Padding does not change a row, nor does the order of the captions.
    with_long = encode_captions(["a sleeping dog " * 30, *reversed(CAPTIONS)])
    np.testing.assert_allclose(with_long[:0:-1], rows, atol=2e-6 if not has_bf16(CPU) else 2e-2)
    # Neither a second time with these captions nor in another order is the model needed.
    monkeypatch.setattr(encoders, "_load", lambda source: pytest.fail("the model was loaded"))
    np.testing.assert_array_equal(encode_captions(CAPTIONS[::-1]), rows[::-1])
    assert len(list((private_cache / "features").glob("*.npy"))) == 2


def test_minilm_takes_any_text_and_assigns_after_load(tmp_path):
    captions = ["a dog", "a puppy", "a red shoe", "a blue boot", "\0", "👩‍🚀", "كلب صغير", "long " * 10_000]
    d = ConceptDistribution.from_captions(captions, 3)
    assert torch.equal(d.assign(captions), d.labels)
    d.save(tmp_path / "c.npz")
    loaded = ConceptDistribution.load(tmp_path / "c.npz")
    assert torch.equal(loaded.assign(captions), d.labels)
    assert loaded.assign(["two dogs"]).tolist() == [int(d.labels[0])]
    loaded._encoder = None
    loaded.provenance["encoder_fingerprint"] = "files 123"
    with pytest.raises(InputError, match="not the one these concepts were made with"):
        loaded.assign(["two dogs"])


# --- models by folder


def test_sentence_transformers_folder_equals_that_library(sentence_folder):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(sentence_folder), device="cpu").encode(CAPTIONS, normalize_embeddings=True)
    rows = encode_captions(CAPTIONS, sentence_folder, cache=False)
    assert is_unit(rows)
    np.testing.assert_allclose(rows, expected, atol=1e-5 if not has_bf16(CPU) else 2e-2)


def test_plain_text_encoder_is_mean_pooled(bert_folder, sentence_folder):
    np.testing.assert_allclose(
        encode_captions(CAPTIONS, str(bert_folder)), encode_captions(CAPTIONS, sentence_folder), atol=1e-6
    )


@pytest.mark.parametrize(("kind", "width"), [("clip", 8), ("siglip", 16)])
def test_clip_and_siglip_text_features(tmp_path, kind, width):
    folder = clip_like_folder(tmp_path / kind, kind)
    rows = encode_captions([*CAPTIONS, "dog " * 100], folder)
    assert rows.shape == (5, width)
    assert is_unit(rows)
    alone = encode_captions(CAPTIONS[:1], folder)
    np.testing.assert_allclose(alone[0], rows[0], atol=1e-5 if not has_bf16(CPU) else 2e-2)
    assert np.abs(rows[0] - rows[2]).max() > 1e-3


def test_clip_rows_are_the_models_own(clip_folder):
    from transformers import AutoTokenizer, CLIPModel

    tokens = AutoTokenizer.from_pretrained(clip_folder)(CAPTIONS[:1], return_tensors="pt")
    with torch.no_grad():
        model = CLIPModel.from_pretrained(clip_folder).eval()
        pooled = model.text_model(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        expected = torch.nn.functional.normalize(model.text_projection(pooled)).numpy()
    rows = encode_captions(CAPTIONS[:1], clip_folder, cache=False)
    np.testing.assert_allclose(rows, expected, atol=1e-5 if not has_bf16(CPU) else 2e-2)


def test_a_moved_folder_can_be_given_at_load(bert_folder, clip_folder, tmp_path):
    folder = tmp_path / "first"
    folder.symlink_to(bert_folder)
    d = ConceptDistribution.from_captions(CAPTIONS, 2, encoder=folder)
    d.save(tmp_path / "c.npz")
    folder.unlink()
    with pytest.raises(InputError, match="no such folder"):
        ConceptDistribution.load(tmp_path / "c.npz").assign(CAPTIONS)
    moved = ConceptDistribution.load(tmp_path / "c.npz", encoder=bert_folder)
    assert torch.equal(moved.assign(CAPTIONS), d.labels)
    other = ConceptDistribution.load(tmp_path / "c.npz", encoder=clip_folder)
    with pytest.raises(InputError, match="not the one"):
        other.assign(CAPTIONS)


def test_changed_weights_are_not_taken_from_the_cache(bert_folder, tmp_path):
    from transformers import BertModel

    before = encode_captions(CAPTIONS, bert_folder)
    model = BertModel.from_pretrained(bert_folder)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    bert_tokenizer(tmp_path)
    model.save_pretrained(tmp_path)
    assert np.abs(encode_captions(CAPTIONS, tmp_path) - before).max() > 0.01


def test_no_captions_no_rows(bert_folder):
    for cache in (True, False):
        assert encode_captions([], bert_folder, cache=cache).shape == (0, 16)


def test_interrupted_encoding_goes_on(bert_folder, monkeypatch):
    captions = [f"red shoe {'dog ' * i}" for i in range(6)]
    expected = encode_captions(captions, bert_folder, cache=False)
    monkeypatch.setattr(encoders, "CACHE_CHUNK", 2)
    embed = encoders.PretrainedEncoder._embed
    seen = []

    def interrupted(self, batch):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(batch)
        return embed(self, batch)

    monkeypatch.setattr(encoders.PretrainedEncoder, "_embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_captions(captions, bert_folder)
    seen.insert(0, None)
    seen[:] = seen[:1]  # room for one more batch, which is all that is missing
    np.testing.assert_allclose(encode_captions(captions, bert_folder), expected, atol=1e-6)


# --- names that are wrong


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilmm", 'did you mean "minilm"'),
        ("tf-idf", 'did you mean "tfidf"'),
        ("./nowhere", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("nobody/no-such-model", "the hub cannot be reached|neither a folder nor"),
        ("not a name!", "encoder not a name!: "),
    ],
)
def test_wrong_names_are_one_clear_error(name, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as caught:
        encode_captions(CAPTIONS, name)
    assert "\n" not in str(caught.value)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        encode_captions(CAPTIONS, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        encode_captions(CAPTIONS, tmp_path)
    assert "\n" not in str(caught.value)


def test_loading_is_quiet(bert_folder, capsys):
    encoders._load.cache_clear()
    encode_captions(["a dog"], bert_folder)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


# --- functions


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([[1.0, 2.0]], r"shape \(1, 2\) for 4 captions"),
        ([1.0, 2.0, 3.0, 4.0], r"shape \(4,\)"),
        ([[1.0], [math.nan], [1.0], [1.0]], "row 1"),
        ([[1.0], [1.0], [1.0], [math.inf]], "row 3"),
    ],
)
def test_functions_are_checked(result, message):
    with pytest.raises(InputError, match=message):
        encode_captions(CAPTIONS, lambda captions: result)


def test_functions_may_return_tensors_of_any_precision():
    rows = encode_captions(CAPTIONS, lambda captions: torch.ones(4, 3, dtype=torch.bfloat16, requires_grad=True))
    assert is_unit(rows)


# --- TF-IDF


def test_tfidf_equals_the_formula_written_as_loops():
    captions = ["red red shoe", "red boot", "sleeping dog", "dog in a red boot"]
    encoder = TfidfEncoder.fit(captions)
    holding = Counter(word for caption in captions for word in set(words(caption)))
    table = []
    for caption in captions:
        times = Counter(words(caption))
        row = [
            (1 + math.log(times[word])) * (1 + math.log((1 + 4) / (1 + holding[word]))) if times[word] else 0.0
            for word in sorted(holding)
        ]
        table.append(np.array(row) / np.linalg.norm(row))
    rows = encoder.encode(captions)
    # With all directions kept the projection is a rotation: inner products are those of the weighted words.
    assert rows.shape == (4, 4)
    np.testing.assert_allclose(rows @ rows.T, np.array(table) @ np.array(table).T, atol=1e-5)
    assert is_unit(rows)


def test_tfidf_of_unknown_words_is_a_zero_row():
    encoder = TfidfEncoder.fit(CAPTIONS)
    assert encoder.encode(["something entirely different"]).tolist() == [[0.0] * len(encoder.components)]


def test_tfidf_keeps_the_commonest_words_and_the_width():
    captions = [f"word{i % 7} common" for i in range(30)]
    encoder = TfidfEncoder.fit(captions, width=2, max_words=3)
    assert len(encoder.vocabulary) == 3
    assert "common" in encoder.vocabulary
    assert encoder.components.shape == (2, 3)


def test_tfidf_of_one_word_and_of_none():
    assert is_unit(TfidfEncoder.fit(["dog"]).encode(["dog"]))
    with pytest.raises(InputError, match="no word"):
        TfidfEncoder.fit(["...", "!"])


# --- precision


def test_bf16_rows_are_close(bert_folder, monkeypatch):
    monkeypatch.setattr(encoders, "_use_bf16", lambda: False)
    exact = encode_captions(CAPTIONS, bert_folder, cache=False)
    monkeypatch.setattr(encoders, "_use_bf16", lambda: True)
    rows = encode_captions(CAPTIONS, bert_folder, cache=False)
    assert is_unit(rows)
    assert 0 < np.abs(rows - exact).max() < 0.03


def test_packaged_model_is_there():
    assert (Path(encoders._packaged_minilm()) / "model.safetensors").is_file()


def test_a_build_for_gpus_on_a_machine_without_computes_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert encoders._device() == torch.device("cpu")
