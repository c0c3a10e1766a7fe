"""A text tower's tokenizer as a file of the library `tokenizers`, which gives the same ids without mmts."""

import copy
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.errors import RunError
from mmts.models.base import TextTower
from mmts.models.clip_text import ByteTokenizer, ClipText
from mmts.models.text_towers import HuggingFaceText, SmallTransformer


def build_tokenizer(tower: TextTower) -> Any:
    """Return a `tokenizers.Tokenizer` that cuts and pads like the tower. Raises RunError if there cannot be one."""
    if isinstance(tower, SmallTransformer):
        tokenizer = _of_words(tower)
    elif isinstance(tower, ClipText):
        inner: Any = tower.tokenizer
        tokenizer = _of_bytes(inner) if isinstance(inner, ByteTokenizer) else _backend(tower, inner.tokenizer)
        tokenizer.enable_padding(pad_id=0)
    elif isinstance(tower, HuggingFaceText):
        tokenizer = _backend(tower, tower.tokenizer)
        tokenizer.enable_padding(
            direction=tower.tokenizer.padding_side,
            pad_id=tower.tokenizer.pad_token_id,
            pad_token=tower.tokenizer.pad_token,
            length=tower.max_length if tower.pad_full else None,
        )
    else:
        raise RunError(f"the text tower {tower.name!r} has no tokenizer that can be written to a file")
    tokenizer.enable_truncation(tower.max_length)
    return tokenizer


def token_arrays(tokenizer: Any, captions: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the inputs of an exported text tower, each (B, L): ids, mask and type ids."""
    rows = tokenizer.encode_batch(list(captions))
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: np.array([getattr(row, own) for row in rows], np.int64) for name, own in names.items()}


def check_tokenizer(tokenizer: Any, tower: TextTower, captions: Sequence[str]) -> None:
    """Raise RunError if a written tokenizer does not give the tower's own ids."""
    written = token_arrays(tokenizer, captions)
    for name, values in tower.tokenize(captions).items():
        length = values.shape[1]
        padding = written["attention_mask"][:, length:]
        if not np.array_equal(written[name][:, :length], values.numpy()) or padding.any():
            raise RunError(f"the written tokenizer of the text tower {tower.name!r} gives other {name} than the tower")


def _of_words(tower: SmallTransformer) -> Any:
    """Return a tokenizer that does what `split_words` and the vocabulary do."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {"[PAD]": 0, "[START]": 1, "[UNK]": 2}
    numbers |= {word: at + 3 for at, word in enumerate(tower.vocabulary.words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    folded = [normalizers.Replace(letter, letter.casefold()) for letter in _folded_further()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *folded])
    # Python's \w and \s: those of `tokenizers` count accents as letters, and do not count four characters as spaces.
    words = Regex(r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="[START] $A", special_tokens=[("[START]", 1)])
    # Always the full length: the graph of torch's own attention keeps the length that it was traced with.
    tokenizer.enable_padding(pad_id=0, length=tower.max_length)
    return tokenizer


def _folded_further() -> list[str]:
    """Return the letters that str.casefold changes though they are lower case, such as the German sharp s."""
    letters = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    return [
        letter
        for letter in letters
        if letter == letter.lower() != letter.casefold() and unicodedata.is_normalized("NFKC", letter)
    ]


def _of_bytes(tokenizer: ByteTokenizer) -> Any:
    """Return a tokenizer of bytes: byte-pair encoding without any pair."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    result = Tokenizer(models.BPE(vocab=letters, merges=[]))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = [("[START]", 256), ("[END]", tokenizer.end)]
    result.post_processor = processors.TemplateProcessing(single="[START] $A [END]", special_tokens=special)
    return result


def _backend(tower: TextTower, tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RunError(
            f"the text tower {tower.name!r} has a tokenizer written in Python ({type(tokenizer).__name__}), which a "
            "file of the library tokenizers cannot express"
        )
    return copy.deepcopy(backend)
