"""A text tower's tokenizer as one file that the library `tokenizers` reads: the same ids, nothing of ours needed."""

import copy
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.errors import RunError
from mmts.models.base import TextTower
from mmts.models.clip_text import ByteTokenizer, ClipText, ClipTokenizer
from mmts.models.text_towers import HuggingFaceText, SmallTransformer

Ids = dict[str, npt.NDArray[np.int64]]


def build_tokenizer(tower: TextTower) -> Any:
    """Return a `tokenizers.Tokenizer` that cuts and pads as the tower does. Raises RunError where there is none."""
    if isinstance(tower, SmallTransformer):
        made = _of_words(tower)
    elif isinstance(tower, ClipText):
        inner = tower.tokenizer
        made = _of_bytes(inner) if isinstance(inner, ByteTokenizer) else _backend(tower, _hugging_face(inner))
        made.enable_padding(pad_id=0)
    elif isinstance(tower, HuggingFaceText):
        tokenizer = tower.tokenizer
        made = _backend(tower, tokenizer)
        made.enable_padding(
            direction=tokenizer.padding_side,
            pad_id=tokenizer.pad_token_id,
            pad_token=tokenizer.pad_token,
            length=tower.max_length if tower.pad_full else None,
        )
    else:
        raise RunError(f"the text tower {tower.name!r} has no tokenizer that could be written to a file")
    made.enable_truncation(tower.max_length)
    return made


def token_arrays(tokenizer: Any, captions: Sequence[str]) -> Ids:
    """Return what an exported text tower takes, each (B, L): ids, mask and type ids."""
    rows = tokenizer.encode_batch(list(captions))
    return {
        "input_ids": np.array([row.ids for row in rows], np.int64),
        "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
    }


def check_tokenizer(tokenizer: Any, tower: TextTower, captions: Sequence[str]) -> None:
    """Raise RunError where a written tokenizer does not give the tower's own ids."""
    ours, written = tower.tokenize(captions), token_arrays(tokenizer, captions)
    for name, values in ours.items():
        own, length = values.numpy(), values.shape[1]
        if not np.array_equal(written[name][:, :length], own) or written["attention_mask"][:, length:].any():
            raise RunError(f"the tokenizer of the text tower {tower.name!r} gives other {name} once it is written")


def _of_words(tower: SmallTransformer) -> Any:
    """Return what `split_words` and the vocabulary do, in the library's own terms."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {"[PAD]": 0, "[START]": 1, "[UNK]": 2}
    numbers |= {word: at + 3 for at, word in enumerate(tower.vocabulary.words)}
    made = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    folded = [normalizers.Replace(sign, sign.casefold()) for sign in _folded_further()]
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *folded])
    # \w and \s as Python's re has them: those of `tokenizers` take accents for letters, and four signs for no space.
    words = Regex(r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]")
    made.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    made.post_processor = processors.TemplateProcessing(single="[START] $A", special_tokens=[("[START]", 1)])
    # Always the full length: the graph of torch's own attention keeps the length that it was traced with.
    made.enable_padding(pad_id=0, length=tower.max_length)
    return made


def _folded_further() -> list[str]:
    """Return the signs that str.casefold changes though they are lower case: the German sharp s and its kin."""
    signs = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    return [
        sign for sign in signs if sign == sign.lower() != sign.casefold() and unicodedata.is_normalized("NFKC", sign)
    ]


def _of_bytes(tokenizer: ByteTokenizer) -> Any:
    """Return a tokenizer of bytes: byte-pair encoding without a single pair."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    # The byte-level alphabet: bytes that are printable Latin-1 stand for themselves, the others for signs from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    signs = {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}
    made = Tokenizer(models.BPE(vocab=signs, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = [("[START]", 256), ("[END]", tokenizer.end)]
    made.post_processor = processors.TemplateProcessing(single="[START] $A [END]", special_tokens=special)
    return made


def _hugging_face(tokenizer: Any) -> Any:
    assert isinstance(tokenizer, ClipTokenizer)
    return tokenizer.tokenizer


def _backend(tower: TextTower, tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RunError(
            f"the text tower {tower.name!r} has a tokenizer written in Python ({type(tokenizer).__name__}), which no "
            "file of the library tokenizers can stand for"
        )
    return copy.deepcopy(backend)
