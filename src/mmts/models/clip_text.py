"""CLIP's text transformer, as AVION uses it: causal, pooled at the highest token id."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmts.errors import RecipeError
from mmts.files import content_hash
from mmts.models import huggingface as hf
from mmts.models.base import TextTower
from mmts.models.clip import ClipBlocks, ClipWeights, agreed, is_checkpoint, read_weights
from mmts.options import AtLeastOne

OPENAI_TOKENIZER = "openai/clip-vit-base-patch16"


class ByteTokenizer:
    """The bytes of a caption between start (256) and end (257, the highest id, as in every tokenizer of CLIP)."""

    end = 257
    contents = "bytes"

    def __call__(self, captions: Sequence[str], length: int) -> list[list[int]]:
        """Return the ids of each caption, including start and end, at most `length`."""
        return [[256, *caption.encode("utf-8", "replace")[: length - 2], 257] for caption in captions]

    @staticmethod
    def backend() -> Any:
        """Return the same as a `tokenizers.Tokenizer`: byte-pair encoding without any pair."""
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        result = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in bytes_to_unicode().items()}, merges=[]))
        result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        special = [("[START]", 256), ("[END]", 257)]
        result.post_processor = processors.TemplateProcessing(single="[START] $A [END]", special_tokens=special)
        return result


class ClipTokenizer:
    """The tokenizer of a Hugging Face CLIP name or folder. Raises RecipeError if it cannot be loaded."""

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        source = hf.find_source(name, "clip-text tokenizer", ["bytes"])
        self.tokenizer: Any = hf.call(source, "tokenizer", AutoTokenizer.from_pretrained)
        self.end = max(self.tokenizer.get_vocab().values())
        self.contents = hf.tokenizer_contents(self.tokenizer)
        if self(["a"], 8)[0][-1] != self.end:
            raise RecipeError(f"{source.tower} does not close a caption with its highest id, as CLIP's does")

    def __call__(self, captions: Sequence[str], length: int) -> list[list[int]]:
        """Return the ids of each caption, including start and end, at most `length`."""
        ids: list[list[int]] = self.tokenizer(hf.encodable(captions), truncation=True, max_length=length)["input_ids"]
        return ids


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of ids as one tensor (B, L), L at least 1, padded with 0."""
    if not rows:
        return torch.zeros(0, 1, dtype=torch.long)
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


class ClipText(TextTower):
    """CLIP's text transformer: every token sees those before it, and a caption's features are its end token's.

    features = ln_final(states)[position of the highest id] @ text_projection

    tokenizer: a Hugging Face CLIP name or folder, read when first used, or `bytes` for a model trained from scratch; by
        default that of `weights` if they are a CLIP model's, else OpenAI's.
    weights: a Hugging Face CLIP name or folder, or a checkpoint file of AVION, which then determines all sizes; without
        it the weights start at random.
    width: width of the states; 512 unless the weights have another.
    depth: number of blocks; 12 unless the weights have another.
    heads: heads of the attention; by default one per 64 features.
    output_width: number of features; 512 unless the weights have another.
    context_length: most tokens of a caption, 77 unless the weights have another; longer captions are cut and still end
        with the end token.
    vocabulary_size: number of token ids; 49,408, or 258 for `bytes`, unless the weights have another.
    activation: that of the weights by default, else `gelu`; OpenAI's models have `quick_gelu`.

    Source: Radford et al., CLIP, arXiv 2103.00020.
    """

    from_scratch = True  # unless there are weights

    def __init__(
        self,
        tokenizer: str | None = None,
        weights: str | None = None,
        width: AtLeastOne | None = None,
        depth: AtLeastOne | None = None,
        heads: AtLeastOne | None = None,
        output_width: AtLeastOne | None = None,
        context_length: Annotated[int, Ge(2)] | None = None,
        vocabulary_size: AtLeastOne | None = None,
        activation: Literal["gelu", "quick_gelu"] | None = None,
        pretrained: ClipWeights | None = None,
    ) -> None:
        super().__init__()
        loaded = read_weights(weights, "text") if weights is not None else pretrained
        self.from_scratch = loaded is None
        if tokenizer is None and weights is not None and not is_checkpoint(weights):
            tokenizer = weights
        self.tokenizer_name = tokenizer or OPENAI_TOKENIZER
        words = 258 if self.tokenizer_name == "bytes" else 49408
        own = {"width": 512, "depth": 12, "output_width": 512, "context_length": 77, "vocabulary_size": words}
        sizes = agreed(loaded, own, width, depth, output_width, context_length, vocabulary_size)
        width, self.width = sizes["width"], sizes["output_width"]
        self.max_length, self.vocabulary_size = sizes["context_length"], sizes["vocabulary_size"]
        self.token_embedding = nn.Embedding(self.vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(self.max_length, width))
        self.blocks = ClipBlocks(width, sizes["depth"], heads, activation, loaded, eps=1e-5, causal=True)
        self.ln_final = nn.LayerNorm(width, self.blocks.eps)
        self.text_projection = nn.Parameter(torch.empty(width, self.width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        if loaded is not None:
            loaded.fill(self)

    @cached_property
    def tokenizer(self) -> ByteTokenizer | ClipTokenizer:
        """The tokenizer. Raises RecipeError if it cannot be loaded or has ids that the model lacks."""
        name = self.tokenizer_name
        tokenizer = ByteTokenizer() if name == "bytes" else ClipTokenizer(name)
        if tokenizer.end >= self.vocabulary_size:
            ids = f"has ids up to {tokenizer.end}, and its vocabulary {self.vocabulary_size} words"
            raise RecipeError(f"tower {self.name!r}: its tokenizer {name!r} {ids}; they do not belong together")
        return tokenizer

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids (B, L), L at most the context length; shorter rows are padded with 0."""
        return {"input_ids": pad_rows(self.tokenizer(captions, self.max_length) if captions else [])}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the features (B, width)."""
        ids = tokens["input_ids"]
        states = self.blocks(self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]])
        # Padding follows the end token; as attention is causal, it changes nothing before it.
        last = states[torch.arange(ids.shape[0], device=ids.device), ids.argmax(1)]
        return self.ln_final(last) @ self.text_projection  # type: ignore[no-any-return]

    def _settings(self) -> tuple[str, ...]:
        return (content_hash(self.tokenizer.contents), str(self.max_length), *self.blocks._settings())
