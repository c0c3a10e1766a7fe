"""Text encoders: unit rows from the packaged model, tiny models of each kind, TF-IDF and functions."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch

from mmts.concepts import ConceptDistribution
from mmts.concepts.encoders import TfidfEncoder, open_encoder
from mmts.concepts.kmeans import unit_rows
from mmts.concepts.names import words
from mmts.devices import has_bf16
from mmts.errors import InputError
from mmts.models import features, load_text_tower, text_encoder, text_features

CPU = torch.device("cpu")

CAPTIONS = ["a red shoe", "a red boot", "a sleeping dog", "a red shoe"]
WORDS = ["a", "red", "blue", "shoe", "boot", "dog", "sleeping"]


def encode(captions, encoder="minilm"):
    return unit_rows(open_encoder(encoder, captions)(captions))


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


def test_minilm_knows_what_is_alike(private_cache):
    rows = encode(CAPTIONS)
    assert rows.shape == (4, 384)
    assert rows.dtype == np.float32
    similarity = rows @ rows.T
    assert similarity[0, 1] > 0.5 > similarity[0, 2]
    assert similarity[0, 3] == pytest.approx(1)
    # Padding does not change a row, nor does the order of the captions.
    with_long = encode(["a sleeping dog " * 30, *reversed(CAPTIONS)])
    np.testing.assert_allclose(with_long[:0:-1], rows, atol=2e-6 if not has_bf16(CPU) else 2e-2)
    np.testing.assert_array_equal(encode(CAPTIONS[::-1]), rows[::-1])
    assert len(list((private_cache / "features").glob("*.npy"))) == 2


def test_concepts_and_the_frozen_text_tower_share_their_rows(private_cache, monkeypatch):
    ConceptDistribution.from_captions(CAPTIONS, 2)
    [file] = (private_cache / "features").glob("*.npy")
    tower = load_text_tower("minilm")
    monkeypatch.setattr(tower, "forward", lambda tokens: pytest.fail("the captions were encoded again"))
    np.testing.assert_array_equal(unit_rows(text_features(tower, CAPTIONS)), encode(CAPTIONS))
    assert list((private_cache / "features").glob("*.npy")) == [file]


def test_minilm_takes_any_text_and_assigns_after_load(tmp_path):
    captions = ["a dog", "a puppy", "a red shoe", "a blue boot", "\0", "👩‍🚀", "كلب صغير", "\ud800", "long " * 10_000]
    d = ConceptDistribution.from_captions(captions, 3)
    assert torch.equal(d.assign(captions), d.labels)
    d.save(tmp_path / "c.npz")
    loaded = ConceptDistribution.load(tmp_path / "c.npz")
    assert torch.equal(loaded.assign(captions), d.labels)
    assert loaded.assign(["two dogs"]).tolist() == [int(d.labels[0])]
    loaded.encoder = None
    loaded.provenance["encoder_fingerprint"] = "files 123"
    with pytest.raises(InputError, match="not the one these concepts were made with"):
        loaded.assign(["two dogs"])


def test_minilm_is_named_by_its_files_as_in_distributions_saved_before():
    assert open_encoder("minilm").fingerprint == "files 03fcc965920368af4ee94043c9770ddd"


# --- models by folder


def test_sentence_transformers_folder_equals_that_library(sentence_folder):
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(sentence_folder), device="cpu").encode(CAPTIONS, normalize_embeddings=True)
    rows = encode(CAPTIONS, sentence_folder)
    np.testing.assert_allclose(rows, expected, atol=1e-5 if not has_bf16(CPU) else 2e-2)


def test_sentence_transformers_keep_their_own_pooling_and_prompt(bert_folder, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(bert_folder), device="cpu")
    model.prompts["query"], model.default_prompt_name = "dog ", "query"
    model.save(str(tmp_path))
    config = tmp_path / "1_Pooling" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pooling_mode": "cls"}))
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(CAPTIONS, normalize_embeddings=True)
    np.testing.assert_allclose(encode(CAPTIONS, tmp_path), expected, atol=1e-5 if not has_bf16(CPU) else 2e-2)
    assert np.abs(encode(CAPTIONS, bert_folder) - expected).max() > 0.1


def test_plain_text_encoder_is_mean_pooled(bert_folder, sentence_folder):
    np.testing.assert_allclose(encode(CAPTIONS, str(bert_folder)), encode(CAPTIONS, sentence_folder), atol=1e-6)


@pytest.mark.parametrize(("kind", "width"), [("clip", 8), ("siglip", 16)])
def test_clip_and_siglip_text_features(tmp_path, kind, width):
    folder = clip_like_folder(tmp_path / kind, kind)
    rows = encode([*CAPTIONS, "dog " * 100], folder)
    assert rows.shape == (5, width)
    alone = encode(CAPTIONS[:1], folder)
    np.testing.assert_allclose(alone[0], rows[0], atol=1e-5 if not has_bf16(CPU) else 2e-2)
    assert np.abs(rows[0] - rows[2]).max() > 1e-3


def test_clip_rows_are_the_models_own(clip_folder):
    from transformers import AutoTokenizer, CLIPModel

    tokens = AutoTokenizer.from_pretrained(clip_folder)(CAPTIONS[:1], return_tensors="pt")
    with torch.no_grad():
        model = CLIPModel.from_pretrained(clip_folder).eval()
        pooled = model.text_model(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        expected = torch.nn.functional.normalize(model.text_projection(pooled)).numpy()
    rows = encode(CAPTIONS[:1], clip_folder)
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

    before = encode(CAPTIONS, bert_folder)
    model = BertModel.from_pretrained(bert_folder)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    bert_tokenizer(tmp_path)
    model.save_pretrained(tmp_path)
    assert np.abs(encode(CAPTIONS, tmp_path) - before).max() > 0.01


def test_no_captions_give_no_rows(bert_folder):
    assert encode([], bert_folder).shape == (0, 16)


# --- names that are wrong


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilmm", "did you mean 'minilm'"),
        ("tf-idf", "did you mean 'tfidf'"),
        ("./nowhere", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("nobody/no-such-model", "is not a folder and not in the local cache.*text encoders are minilm, tfidf"),
        ("not a name!", "encoder: text encoder 'not a name!' is not a folder"),
        ("small-transformer", "encoder: text encoder 'small-transformer' is not a folder"),
    ],
)
def test_wrong_names_are_one_clear_error(name, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=message) as caught:
        encode(CAPTIONS, name)
    assert "\n" not in str(caught.value)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        encode(CAPTIONS, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="cannot load the model") as caught:
        encode(CAPTIONS, tmp_path)
    assert "\n" not in str(caught.value)


def test_loading_is_quiet(bert_folder, capsys):
    text_encoder._load.cache_clear()
    encode(["a dog"], bert_folder)
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
        encode(CAPTIONS, lambda captions: result)


def test_functions_may_return_tensors_of_any_precision():
    rows = encode(CAPTIONS, lambda captions: torch.ones(4, 3, dtype=torch.bfloat16, requires_grad=True))
    np.testing.assert_allclose(rows, 3**-0.5, atol=1e-6)


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
    rows = unit_rows(encoder(captions))
    # With all directions kept the projection is a rotation: inner products are those of the weighted words.
    assert rows.shape == (4, 4)
    np.testing.assert_allclose(rows @ rows.T, np.array(table) @ np.array(table).T, atol=1e-5)


def test_tfidf_of_unknown_words_is_a_zero_row():
    encoder = TfidfEncoder.fit(CAPTIONS)
    assert encoder(["something entirely different"]).tolist() == [[0.0] * len(encoder.components)]


def test_tfidf_keeps_the_commonest_words_and_the_width():
    captions = [f"word{i % 7} common" for i in range(30)]
    encoder = TfidfEncoder.fit(captions, width=2, max_words=3)
    assert len(encoder.vocabulary) == 3
    assert "common" in encoder.vocabulary
    assert encoder.components.shape == (2, 3)


def test_tfidf_of_one_word_and_of_none():
    assert np.abs(TfidfEncoder.fit(["dog"])(["dog"])).tolist() == [[1.0]]
    with pytest.raises(InputError, match="no word"):
        TfidfEncoder.fit(["...", "!"])


# --- devices


def test_bf16_rows_are_close(bert_folder, monkeypatch, private_cache):
    rows = []
    for precise in (True, False):
        monkeypatch.setattr(features, "has_bf16", lambda device, precise=precise: not precise)
        rows.append(encode(CAPTIONS, bert_folder))
    assert len(list((private_cache / "features").glob("*.npy"))) == 2
    assert 0 < np.abs(rows[0] - rows[1]).max() < 0.03


def test_a_build_for_gpus_on_a_machine_without_computes_on_the_cpu(bert_folder, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    text_encoder._load.cache_clear()
    assert encode(CAPTIONS, bert_folder).shape == (4, 16)
