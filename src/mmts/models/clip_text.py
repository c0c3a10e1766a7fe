"""CLIP's text transformer, as AVION uses it: causal, pooled at the highest token id."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmts.errors import InputError, RecipeError
from mmts.files import content_hash
from mmts.models import huggingface as hf
from mmts.models.base import TextTower
from mmts.models.blocks import ACTIVATIONS, ClipBlock, check_heads, default_heads
from mmts.models.clip_weights import ClipWeights, text_weights
from mmts.models.options import agreed, check_choice

NAME = "clip-text"
OPENAI_TOKENIZER = "openai/clip-vit-base-patch16"


class Tokenizer(Protocol):
    """Captions to token ids; `end`, the id that closes a caption, is the highest of all."""

    end: int

    def __call__(self, captions: Sequence[str], length: int) -> list[list[int]]:
        """Return the ids of each caption, start and end included, `length` at most."""

    def describe(self) -> str:
        """Return what decides about the ids."""


class ByteTokenizer:
    """The bytes of a caption between start (256) and end (257): no files, for models trained from scratch.

    >>> ByteTokenizer()(["ab", "abcdef"], length=5)
    [[256, 97, 98, 257], [256, 97, 98, 99, 257]]
    """

    end = 257

    def __call__(self, captions: Sequence[str], length: int) -> list[list[int]]:
        """Return the ids of each caption, start and end included, `length` at most."""
        return [[256, *caption.encode("utf-8", "replace")[: length - 2], 257] for caption in captions]

    def describe(self) -> str:
        """Return its name."""
        return "bytes"


class ClipTokenizer:
    """The tokenizer of a Hugging Face CLIP name or folder. Raises RecipeError where it cannot be had."""

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        try:
            source = hf.find_source(name, "text", ("bytes",))
            self.tokenizer: Any = hf.call(source, "tokenizer", ("bytes",), AutoTokenizer.from_pretrained)
        except RecipeError:
            local = Path(name).expanduser().is_dir()
            why = "cannot be loaded from this folder" if local else "is no folder, and Hugging Face gives none so named"
            raise RecipeError(
                f"tower {NAME!r}: its tokenizer {name!r} {why} (without a network it must be a folder); set the "
                "tower's option tokenizer to one with CLIP's tokenizer, or to bytes for a model trained from scratch"
            ) from None
        self.end = max(self.tokenizer.get_vocab().values())
        if self(["a"], 8)[0][-1] != self.end:
            raise RecipeError(
                f"tower {NAME!r}: tokenizer {name!r} does not close a caption with its highest id, as CLIP's does"
            )

    def __call__(self, captions: Sequence[str], length: int) -> list[list[int]]:
        """Return the ids of each caption, start and end included, `length` at most."""
        # Lone surrogates cannot be encoded, and tokenizers refuse them.
        clean = [caption.encode("utf-8", "replace").decode("utf-8") for caption in captions]
        if not clean:
            return []
        rows: list[list[int]] = self.tokenizer(clean, truncation=True, max_length=length)["input_ids"]
        return rows

    def describe(self) -> str:
        """Return all that is in its files."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))


class ClipText(TextTower):
    """CLIP's text transformer: every token sees those before it, and a caption's features are its end token's.

    features = ln_final(states)[position of the highest id] @ text_projection

    Args:
        tokenizer: a Hugging Face CLIP name or folder, or "bytes"; read when first used. None is that of `weights`
            where these are a CLIP model's, else OpenAI's.
        weights: a Hugging Face CLIP name or folder, or a checkpoint file of AVION, which then decides about all sizes;
            None starts at random.
        width: of the states; 512 unless weights say otherwise.
        depth: number of blocks; 12.
        heads: of the attention; one per 64 features.
        output_width: of the features; 512.
        context_length: tokens at most; 77. Longer captions are cut and still end with the end token.
        vocabulary_size: number of token ids; 49,408, or 258 for "bytes".
        activation: "gelu" or "quick_gelu" (OpenAI's models); that of the weights, else "gelu".

    Source: Radford et al., CLIP, arXiv 2103.00020.

    >>> tower = ClipText("bytes", width=8, depth=1, heads=2, output_width=4)
    >>> tower(tower.tokenize(["a red shoe", ""])).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        tokenizer: str | None = None,
        weights: str | Path | ClipWeights | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        output_width: int | None = None,
        context_length: int | None = None,
        vocabulary_size: int | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__(NAME)
        self.from_scratch = weights is None
        self.tokenizer_name = tokenizer or _own_tokenizer(weights) or OPENAI_TOKENIZER
        self._tokenizer: Tokenizer | None = None
        if isinstance(weights, str | Path):
            weights = text_weights(weights)
        if weights is None:
            sizes = {
                "width": 512,
                "depth": 12,
                "output_width": 512,
                "context_length": 77,
                "vocabulary_size": 258 if self.tokenizer_name == "bytes" else 49408,
            }
        else:
            sizes = {
                "width": weights.matrix("text_projection")[0],
                "depth": weights.depth,
                "output_width": weights.matrix("text_projection")[1],
                "context_length": weights.matrix("positional_embedding")[0],
                "vocabulary_size": weights.matrix("token_embedding.weight")[0],
            }
        source = weights.source if weights else None
        width = agreed(NAME, "width", width, sizes["width"], source)
        depth = agreed(NAME, "depth", depth, sizes["depth"], source)
        self.width = agreed(NAME, "output_width", output_width, sizes["output_width"], source)
        self.max_length = agreed(NAME, "context_length", context_length, sizes["context_length"], source, low=2)
        self.vocabulary_size = agreed(NAME, "vocabulary_size", vocabulary_size, sizes["vocabulary_size"], source)
        if heads is None:
            heads = weights.heads_for(width) if weights else default_heads(width)
        check_heads(NAME, width, heads)
        self.heads = heads
        self.activation = check_choice(
            NAME, "activation", activation or (weights.activation if weights else "gelu"), ACTIVATIONS
        )
        self.eps = weights.eps if weights else 1e-5
        self.token_embedding = nn.Embedding(self.vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(self.max_length, width))
        inner = weights.inner if weights else 4 * width
        self.blocks = nn.ModuleList(
            ClipBlock(width, heads=heads, inner=inner, activation=self.activation, eps=self.eps, causal=True)
            for _ in range(depth)
        )
        self.ln_final = nn.LayerNorm(width, self.eps)
        self.text_projection = nn.Parameter(torch.empty(width, self.width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        if weights is not None:
            weights.fill(self)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read on first use. Raises RecipeError where it cannot be had or has ids the model lacks."""
        if self._tokenizer is None:
            made: Tokenizer = ByteTokenizer() if self.tokenizer_name == "bytes" else ClipTokenizer(self.tokenizer_name)
            if made.end >= self.vocabulary_size:
                raise RecipeError(
                    f"tower {NAME!r}: its tokenizer {self.tokenizer_name!r} has ids up to {made.end}, and its "
                    f"vocabulary {self.vocabulary_size} words; they do not belong together"
                )
            self._tokenizer = made
        return self._tokenizer

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids (B, L), L at most the context length; shorter rows are filled up with 0."""
        rows = self.tokenizer(captions, self.max_length)
        ids = torch.zeros(len(rows), max((len(row) for row in rows), default=1), dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
        return {"input_ids": ids}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the text features (B, output_width). Raises InputError for what `tokenize` does not give."""
        ids = tokens.get("input_ids")
        if ids is None or ids.dim() != 2 or not 1 <= ids.shape[1] <= self.max_length:
            shape = "nothing" if ids is None else f"shape {tuple(ids.shape)}"
            raise InputError(f"tower {NAME!r} takes input_ids (B, L), L from 1 to {self.max_length}, not {shape}")
        states = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        for block in self.blocks:
            states = block(states)
        # What comes after the end token fills the row up; as attention is causal, it changes nothing before it.
        last = states[torch.arange(ids.shape[0], device=ids.device), ids.argmax(1)]
        features: Tensor = self.ln_final(last) @ self.text_projection
        return features

    def settings(self) -> tuple[str, ...]:
        """Tokenizer, length limit, and what the weights' shapes do not tell."""
        tokenizer = content_hash(self.tokenizer.describe())
        return (tokenizer, str(self.max_length), str(self.heads), self.activation, str(self.eps))


def _own_tokenizer(weights: str | Path | ClipWeights | None) -> str | None:
    """Return where the tokenizer of a CLIP model is: with its weights. A checkpoint file has none."""
    if not isinstance(weights, str | Path) or Path(weights).expanduser().suffix in (".pt", ".pth", ".ckpt", ".bin"):
        return None
    return None if Path(weights).expanduser().is_file() else str(weights)
