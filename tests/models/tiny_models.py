"""Tiny Hugging Face models with random weights, saved as local folders; no network, a few kilobytes each."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

logging.disable_progress_bar()

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "shoe", "hat", "dog", "."]


def save_tokenizer(folder: Path, max_length: int = 16) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        bos_token="[CLS]",
        model_max_length=max_length,
    ).save_pretrained(folder)


def save_preprocessor(folder: Path, **config: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def tiny_clip(folder: Path, kind: str = "clip") -> Path:
    """A CLIP or SigLIP model for 32 px images, features 12 (CLIP) or 16 (SigLIP) wide."""
    import transformers

    torch.manual_seed(0)
    prefix = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shared, "vocab_size": len(WORDS), "max_position_embeddings": 16, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    options = {"projection_dim": 12} if kind == "clip" else {}
    config = getattr(transformers, f"{prefix}Config")(text_config=text, vision_config=vision, **options)
    getattr(transformers, f"{prefix}Model")(config).save_pretrained(folder)
    save_tokenizer(folder)
    save_preprocessor(
        folder,
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        do_center_crop=True,
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.3, 0.4],
    )
    return folder


def tiny_backbone(folder: Path, kind: str, patch: int = 8) -> Path:
    """A ResNet, ViT or DINOv2 without a preprocessor_config.json."""
    import transformers

    torch.manual_seed(0)
    if kind == "resnet":
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        transformers.ResNetModel(config).save_pretrained(folder)
        return folder
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    name = {"vit": "ViT", "dinov2": "Dinov2"}[kind]
    config = getattr(transformers, f"{name}Config")(image_size=32, patch_size=patch, **shared)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return folder


def tiny_encoder(folder: Path, kind: str) -> Path:
    """A BERT, DistilBERT or RoBERTa, features 16 wide, at most 16 tokens."""
    import transformers

    torch.manual_seed(0)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=len(WORDS), dim=16, hidden_dim=32, n_layers=2, n_heads=2, max_position_embeddings=16
        )
        transformers.DistilBertModel(config).save_pretrained(folder)
    else:
        name = {"bert": "Bert", "roberta": "Roberta"}[kind]
        config = getattr(transformers, f"{name}Config")(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            pad_token_id=0,
        )
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    save_tokenizer(folder, max_length=10**30)
    return folder


def clip_of_bytes(folder: Path) -> Path:
    """A CLIP for 16 px images whose token ids are those of bytes, start 256 and end 257, with a tokenizer of words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257}
    config = transformers.CLIPConfig(
        text_config={**shared, **special, "vocab_size": 258, "max_position_embeddings": 16},
        vision_config={**shared, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    model = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():  # far from the start, where every layer is nearly the identity
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    vocabulary = {"a": 0, "red": 1, "blue": 2, "shoe": 3, "[UNK]": 4, "[CLS]": 256, "[SEP]": 257}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 256), ("[SEP]", 257)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]", pad_token="[SEP]"
    ).save_pretrained(folder)
    save_preprocessor(folder, size={"shortest_edge": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    return folder


def whole_pair(folder: Path, kind: str) -> Path:
    """A CLIP or SigLIP folder with everything that a published one has: its image processor and its kind of tokenizer.

    CLIP's is a byte-level BPE with the end of a word, SigLIP's a unigram model on pieces, as sentencepiece makes them.
    The weights are far from their start, so that the embeddings of different inputs differ.
    """
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.manual_seed(0)
    tokenizer: Any
    if kind == "clip":
        letters = [*bytes_to_unicode().values()]
        merges = [("r", "e"), ("re", "d</w>"), ("b", "a"), ("ba", "r</w>"), ("i", "n</w>")]
        words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
        words += ["<|startoftext|>", "<|endoftext|>"]
        tokenizer = transformers.CLIPTokenizer(vocab={word: at for at, word in enumerate(words)}, merges=merges)
        special = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
        processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    else:
        pieces = [
            "<unk>",
            "</s>",
            *(f"\u2581{word}" for word in WORDS[4:]),
            *"\u2581abcdefghijklmnopqrstuvwxyz0123456789",
        ]
        unigram = Tokenizer(models.Unigram([(piece, -float(at)) for at, piece in enumerate(pieces)], unk_id=0))
        unigram.normalizer = normalizers.Lowercase()
        unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        unigram.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        marks = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=unigram, **marks)
        words, special = pieces, {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1}
        processor = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    tokenizer.model_max_length = 16
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shared, **special, "vocab_size": len(words), "max_position_embeddings": 16}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    prefix = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    config = getattr(transformers, f"{prefix}Config")(text_config=text, vision_config=vision)
    model = getattr(transformers, f"{prefix}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder
