"""mmts's own towers as modules of sentence-transformers, for those that it has no module for.

A folder that uses them loads with `SentenceTransformer(folder, trust_remote_code=True)` where mmts is installed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import InputModule
from sentence_transformers.util import load_dir_path
from torch import Tensor

from mmts.data.media.image import fit_square, load_image, to_pixels, upright_rgb
from mmts.errors import RunError
from mmts.export.hugging_face import save_image_model, save_text_model
from mmts.files import read_json, write_json
from mmts.models.base import MediaTower, TextTower, Tower
from mmts.models.clip_text import ClipText, ClipTokenizer
from mmts.models.image_towers import HuggingFaceImage, load_image_tower
from mmts.models.text_towers import HuggingFaceText, Vocabulary, load_text_tower


class TowerModule(InputModule):  # type: ignore[misc]
    """A tower as the first module of sentence-transformers; `recipe` is its section of the run's recipe."""

    def __init__(self, tower: Tower, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.tower = tower
        self.recipe = dict(recipe)

    def get_embedding_dimension(self) -> int:
        """Return the width of the tower's features."""
        return self.tower.width

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the section of the recipe and the weights, those of a Hugging Face tower as a folder of its own."""
        folder = Path(output_path)
        write_json(folder / "tower.json", self.recipe)
        if isinstance(self.tower, HuggingFaceImage):
            save_image_model(self.tower, folder / "model")
        elif isinstance(self.tower, HuggingFaceText):
            save_text_model(self.tower, folder / "model")
        else:
            # The format does not support the channels-last layout of convolutions.
            state = {name: value.contiguous() for name, value in self.tower.state_dict().items()}
            save_file(state, folder / "model.safetensors")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> "TowerModule":
        """Build the tower again from the module's folder."""
        source = {name: options.get(name) for name in ("token", "cache_folder", "revision", "local_files_only")}
        folder = Path(load_dir_path(model_name_or_path=model_name_or_path, subfolder=subfolder, **source))
        recipe = read_json(folder / "tower.json")
        model = folder / "model"
        tower = cls.build(str(model) if model.exists() else recipe["tower"], recipe, folder)
        if (folder / "model.safetensors").exists():
            tower.load_state_dict(load_file(folder / "model.safetensors"))
        return cls(tower, recipe)

    @classmethod
    def build(cls, name: str, recipe: Mapping[str, Any], folder: Path) -> Tower:
        """Return the tower of a recipe's section, with the files of a folder."""
        raise NotImplementedError

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Add the tower's features (B, width) as the present embedding."""
        return features | {"sentence_embedding": self.tower(self._inputs(features))}

    def _inputs(self, features: dict[str, Tensor]) -> Any:
        return features


class ImageModule(TowerModule):
    """An image tower: takes pictures or their paths, with mmts's own decoding and resizing."""

    tower: MediaTower

    @property
    def modalities(self) -> list[str]:
        """Images."""
        return ["image"]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Return the pixels (B, 3, size, size) of images or their files."""
        size, resize = self.tower.size, self.tower.resize
        images = [_open(image, size) for image in inputs]
        return {"pixel_values": torch.stack([to_pixels(fit_square(image, size, resize)) for image in images])}

    def _inputs(self, features: dict[str, Tensor]) -> Any:
        return features["pixel_values"]

    @classmethod
    def build(cls, name: str, recipe: Mapping[str, Any], folder: Path) -> Tower:
        """Return the image tower, frozen if the run's was."""
        tower = load_image_tower(name, size=recipe["size"], **recipe["options"])
        if recipe["frozen"]:
            tower.freeze()
        return tower


class TextModule(TowerModule):
    """A text tower with its own tokenizer."""

    tower: TextTower

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Return the tokens of texts."""
        return self.tower.tokenize([(prompt or "") + text for text in inputs])

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the words or the tokenizer too."""
        super().save(output_path)
        if vocabulary := getattr(self.tower, "vocabulary", None):
            write_json(Path(output_path) / "vocabulary.json", vocabulary.to_json())
        elif isinstance(self.tower, ClipText) and isinstance(self.tower.tokenizer, ClipTokenizer):
            self.tower.tokenizer.tokenizer.save_pretrained(str(Path(output_path) / "tokenizer"))

    @classmethod
    def build(cls, name: str, recipe: Mapping[str, Any], folder: Path) -> Tower:
        """Return the text tower."""
        options, vocabulary = dict(recipe["options"]), None
        if (folder / "vocabulary.json").exists():
            vocabulary = Vocabulary.from_json(read_json(folder / "vocabulary.json"))
        if (folder / "tokenizer").exists():
            options["tokenizer"] = str(folder / "tokenizer")
        return load_text_tower(name, vocabulary=vocabulary, **options)


def _open(image: Any, size: int) -> Image.Image:
    if isinstance(image, str | Path):
        return load_image(image, size)
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    raise RunError(f"give an image (PIL) or the path of one, not {type(image).__name__}")
