"""The one frozen text encoder: from the name of a pretrained model and captions to feature rows, kept on disk."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmts.errors import InputError, RecipeError, first_line
from mmts.files import content_hash
from mmts.models import huggingface as hf
from mmts.models.base import TextTower
from mmts.models.features import Rows, text_features
from mmts.models.text_towers import load_text_tower, minilm_folder

_NAMES = ("minilm", "tfidf")  # for messages
_MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")


@dataclass(frozen=True)
class TextEncoder:
    """A pretrained text tower that encodes captions; `fingerprint` hashes its files, or is its commit on the hub."""

    name: str
    fingerprint: str
    tower: TextTower

    def __call__(self, captions: Sequence[str]) -> Rows:
        """Return rows (N, W) float32 of captions (N,), of any norm; runs with the same frozen text tower share them."""
        return text_features(self.tower, captions)


def text_encoder(name: str) -> TextEncoder:
    """Return the encoder of that name; raises InputError for a model that is missing or cannot be loaded.

    name: "minilm", or the folder or Hugging Face name of a sentence-transformers model or of a text tower.
    """
    try:
        return _load(name, *_find(name))
    except RecipeError as error:
        raise InputError(f"encoder: {error}") from None


@lru_cache(maxsize=1)
def _load(name: str, place: str, is_pipeline: bool, fingerprint: str) -> TextEncoder:
    tower = _SentenceTower(name, place, fingerprint) if is_pipeline and name != "minilm" else load_text_tower(name)
    tower.freeze()
    # A build of torch for GPUs names one even on machines that have none.
    if torch.accelerator.is_available():
        tower.to(torch.accelerator.current_accelerator())
    return TextEncoder(name, fingerprint, tower)


class _SentenceTower(TextTower):
    """A sentence-transformers model with its own prompt, pooling and further modules."""

    def __init__(self, name: str, place: str, fingerprint: str) -> None:
        from sentence_transformers import SentenceTransformer

        super().__init__()
        self.name, self._files = name, fingerprint
        try:
            with hf.quiet():
                self.model: Any = SentenceTransformer(place, device="cpu").float()
        except Exception as error:  # whatever the library raises for a broken folder
            reason = first_line(error)
            raise RecipeError(f"{name}: sentence-transformers cannot load the model: {reason}") from None
        self.prompt = self.model.prompts.get(self.model.default_prompt_name or "", "")
        with torch.inference_mode():
            self.width = int(self(self.tokenize(["a"])).shape[1])

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        tokenize = getattr(self.model, "preprocess", None) or self.model.tokenize  # renamed in version 6
        tokens = tokenize([self.prompt + caption for caption in captions])
        return {key: value for key, value in tokens.items() if isinstance(value, Tensor)}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        return self.model(dict(tokens))["sentence_embedding"]  # type: ignore[no-any-return]

    def _settings(self) -> tuple[str, ...]:
        return (self._files,)


def _find(name: str) -> tuple[str, bool, str]:
    """Return where a model lies, whether it is one of sentence-transformers, and its fingerprint."""
    from transformers.utils import cached_file

    folder = Path(minilm_folder() if name == "minilm" else name).expanduser()
    is_pipeline = (folder / "modules.json").is_file()
    source = None if is_pipeline or name == "minilm" else hf.find_source(name, "text encoder", _NAMES)
    if source is None or source.local:
        files = sorted(path for path in folder.rglob("*") if path.suffix in _MODEL_FILES and path.is_file())
        parts = [f"{path.relative_to(folder).as_posix()} {content_hash(path.read_bytes())}" for path in files]
        return str(folder), is_pipeline, f"files {content_hash(*parts)}"
    hf.check_at_hand(source.tower, name, source.hint, ("modules.json", "config.json"))
    for file in ("modules.json", "config.json"):
        with suppress(OSError), hf.quiet():
            return name, file == "modules.json", f"{name}@{Path(cached_file(name, file)).parent.name}"
    raise RecipeError(f"{source.tower}: Hugging Face gave no such model{source.hint}")
