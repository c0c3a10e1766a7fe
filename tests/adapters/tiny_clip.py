"""A CLIP of random weights with a tokenizer of ten words, made on the spot."""

from pathlib import Path
from typing import Any

import torch
from adapters.made import WORDS
from PIL import Image


def tiny_clip() -> Any:
    """A CLIPModel for pictures of 16 x 16 and at most 8 tokens; 8-dimensional embeddings."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 2 + len(WORDS), "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def save_tiny_clip(folder: Path) -> Path:
    """Save it with its processor as a folder that from_pretrained and SentenceTransformer load."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPImageProcessorPil, CLIPProcessor, PreTrainedTokenizerFast

    vocabulary = {"<start>": 0, "<end>": 1} | {word: 2 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<end>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing("<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)])
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<start>", eos_token="<end>", pad_token="<end>", model_max_length=8
    )
    size = {"height": 16, "width": 16}
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=size)
    tiny_clip().save_pretrained(folder)
    CLIPProcessor(images, tokens).save_pretrained(folder)
    return folder


def picture(number: int) -> Image.Image:
    """A plain square, another for each number."""
    return Image.new("RGB", (16, 16), (30 * number, 255 - 30 * number, (70 * number) % 255))
