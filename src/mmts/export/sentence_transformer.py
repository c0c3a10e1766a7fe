"""A run's two sides as a folder that sentence-transformers loads.

Towers that it has no module for become modules of ours; such a folder loads where mmts is installed, with
`SentenceTransformer(folder, trust_remote_code=True)`.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Module
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling, Router, Transformer
from sentence_transformers.util import load_dir_path
from torch import Tensor, nn

from mmts.console import console
from mmts.data.media.image import load_image, upright_rgb
from mmts.errors import RunError
from mmts.export import huggingface_pair as pair
from mmts.export.onnx_files import difference, pictures, to_inputs
from mmts.files import read_json, write_json
from mmts.models import TwoTower, build_head
from mmts.models.base import GIVEN_BY_RUN, ImageTower, MediaTower, TextTower, Tower, misfit
from mmts.models.clip_text import ClipText, ClipTokenizer
from mmts.models.image_towers import HuggingFaceImage, load_image_tower
from mmts.models.open_clip import OpenClipImage, OpenClipText
from mmts.models.text_towers import HuggingFaceText, Vocabulary, load_text_tower
from mmts.models.two_tower import Residual


@torch.no_grad()
def write_sentence_transformer(model: TwoTower, folder: Path) -> dict[str, Any]:
    """Write the run's sides as modules of sentence-transformers, load them again, and return the differences.

    model: in evaluation mode, with its frozen towers, and with LoRA merged. docs/export.md says which towers and heads
    become modules of sentence-transformers, which those of mmts, and which none. Raises RunError for the last, and for
    differences.
    """
    image, text = model.media_tower, model.text_tower
    assert text is not None
    for tower in (image, text):
        if tower is not None and not type(tower).__module__.startswith("mmts."):
            raise RunError(f"sentence-transformers cannot load a tower from outside mmts, {tower.name}: give --to onnx")
        if isinstance(tower, OpenClipImage | OpenClipText):
            raise RunError(f"sentence-transformers has no module for {tower.name}; without heads, --to open_clip")
    if not isinstance(image, ImageTower):
        what = "features" if image is None else "videos"
        console.print(f"note: sentence-transformers takes no {what}: only the text side is exported (--to onnx: both)")
        image = None
    is_one = pair.why_not_one_model(image, text) is None
    with tempfile.TemporaryDirectory() as scratch:
        if is_one:
            pair.save_pair(model, Path(scratch))
        modules = text_side = [*_text_modules(is_one, text, Path(scratch)), *_head(model.text_head)]
        if image is not None:
            image_side = [text_side[0] if is_one else ImageModule(image), *_head(model.media_head)]
            if text_side != image_side:
                routes = {(None, "text"): "text", (None, "image"): "image"}
                modules = [Router({"text": text_side, "image": image_side}, route_mappings=routes)]
        saved = SentenceTransformer(modules=[*modules, Normalize()], device="cpu")
        saved.save(str(folder), create_model_card=False)
    needs_mmts = any(type(module).__module__ == __name__ for module in saved.modules())
    loaded = SentenceTransformer(str(folder), device="cpu", trust_remote_code=needs_mmts, local_files_only=True)

    def embed(inputs: list[Any]) -> Any:
        return loaded.encode(inputs, convert_to_tensor=True, show_progress_bar=False)

    content = pair.compared("sentence-transformers", model, embed, None if image is None else embed)
    if image is not None:
        others = pictures((3 * image.size, 2 * image.size), (image.size, 2 * image.size + 1), (50, 70))
        other_sizes = difference("pictures", model.encode_media(to_inputs(others, image)), embed(others), math.inf)
        content["media"] |= {"kind": "image", "other_sizes": other_sizes}
        if other_sizes > pair.TOLERANCE:
            console.print(
                "note: transformers resizes pictures in its own way, so embeddings differ by up to "
                f"{other_sizes:.1e} for pictures that are not squares of the model's size (docs/export.md)"
            )
    return {"needs_mmts": needs_mmts, **content}


def _text_modules(is_one: bool, text: Any, scratch: Path) -> list[nn.Module]:
    """Return the modules from texts to features. is_one: whether both towers are one model, which is in `scratch`."""
    if is_one:
        # SigLIP attends to its padding, up to the full length.
        full = {"text": {"padding": "max_length", "return_attention_mask": False}} if text.pad_full else None
        return [Transformer(str(scratch), max_seq_length=text.max_length, processing_kwargs=full)]
    if isinstance(text, HuggingFaceText) and not text.clip:
        _save_text_model(text, scratch)
        return [Transformer(str(scratch), max_seq_length=text.max_length), Pooling(text.width, text.pooling)]
    if isinstance(text, ClipText) and (text.arguments.get("weights") or text.arguments.get("pretrained")):
        what = f"the text tower {text.name!r} with weights from a checkpoint"
        raise RunError(f"sentence-transformers has no module for {what}; --to onnx exports it")
    return [TextModule(text)]


def _head(head: nn.Module) -> list[nn.Module]:
    """Return a head of `mmts.models.build_head`, or several in a row, as modules of sentence-transformers."""
    layers = pair.layers_of(head)
    modules: list[Any] = []
    for layer, after in zip_longest(layers, layers[1:]):
        if isinstance(layer, nn.LayerNorm):
            modules.append(LayerNorm(layer.normalized_shape[0]))
            modules[-1].norm.load_state_dict(layer.state_dict())
        elif isinstance(layer, nn.Linear):
            activation = nn.GELU() if isinstance(after, nn.GELU) else nn.Identity()
            modules.append(Dense(layer.in_features, layer.out_features, activation_function=activation))
            modules[-1].linear.load_state_dict(layer.state_dict())
        elif isinstance(layer, Residual):
            modules.append(ResidualModule(layer))
    return modules


# --- towers of mmts as modules ---------------------------------------------------------------------------------------


class ResidualModule(Module):  # type: ignore[misc]
    """A residual head as a module of sentence-transformers."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Replace the present embedding (B, D) by that of the head."""
        return features | {"sentence_embedding": self.head(features["sentence_embedding"])}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the weights."""
        save_file(self.head.state_dict(), Path(output_path) / "model.safetensors")

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> "ResidualModule":
        """Build the head again; its sizes are those of its weights."""
        state = load_file(_folder(model_name_or_path, subfolder, options) / "model.safetensors")
        hidden, width = next(value.shape for value in state.values() if value.dim() == 2)
        head = build_head("residual", width, width, hidden=hidden, layer_norm=len(state) == 6)  # a norm, two layers
        head.load_state_dict(state)
        return cls(head.eval())


def _folder(name: str, subfolder: str, options: Mapping[str, Any]) -> Path:
    """Return the folder of a module, fetched if the model is on the hub."""
    source = {key: options.get(key) for key in ("token", "cache_folder", "revision", "local_files_only")}
    return Path(load_dir_path(name, subfolder=subfolder, **source))


class TowerModule(InputModule):  # type: ignore[misc]
    """A tower as the first module of sentence-transformers."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def get_embedding_dimension(self) -> int:
        """Return the width of the tower's features."""
        return self.tower.width

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Add the tower's features (B, width) as the present embedding."""
        return features | {"sentence_embedding": self.tower(features.get("pixel_values", features))}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the tower's options, the weights or the Hugging Face model, and the words or the tokenizer."""
        folder, tower = Path(output_path), self.tower
        options = {name: value for name, value in tower.arguments.items() if name not in GIVEN_BY_RUN}
        about = {"tower": tower.name, "size": getattr(tower, "size", None), "options": options}
        write_json(folder / "tower.json", about)
        if isinstance(tower, HuggingFaceImage):
            model = pair.whole_model(tower) if tower.clip else tower.model
            model.save_pretrained(folder / "model")
            write_json(folder / "model" / "preprocessor_config.json", pair.image_processor(tower))
        elif isinstance(tower, HuggingFaceText):
            _save_text_model(tower, folder / "model")
        else:
            # The format does not support the channels-last layout of convolutions.
            state = {name: value.contiguous() for name, value in tower.state_dict().items()}
            save_file(state, folder / "model.safetensors")
        if vocabulary := getattr(tower, "vocabulary", None):
            write_json(folder / "vocabulary.json", vocabulary.to_json())
        elif isinstance(tower, ClipText) and isinstance(tower.tokenizer, ClipTokenizer):
            tower.tokenizer.tokenizer.save_pretrained(str(folder / "tokenizer"))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> "TowerModule":
        """Build the tower again from the module's folder."""
        folder = _folder(model_name_or_path, subfolder, options)
        recipe = read_json(folder / "tower.json")
        name, settings = recipe["tower"], dict(recipe["options"])
        if (folder / "model").exists():
            name = str(folder / "model")
        tower: Tower
        if issubclass(cls, ImageModule):
            tower = load_image_tower(name, size=recipe["size"], **settings)
        else:
            if (folder / "vocabulary.json").exists():
                settings["vocabulary"] = Vocabulary.from_json(read_json(folder / "vocabulary.json"))
            if (folder / "tokenizer").exists():
                settings["tokenizer"] = str(folder / "tokenizer")
            tower = load_text_tower(name, **settings)
        if (folder / "model.safetensors").exists():
            state = load_file(folder / "model.safetensors")
            if misfit(state, tower.state_dict()):
                tower.freeze()  # as it was once in the run: an EfficientNet folds its norms into its convolutions then
            tower.load_state_dict(state)
        return cls(tower)


class ImageModule(TowerModule):
    """An image tower: takes pictures or their paths, with mmts's own decoding and resizing."""

    tower: MediaTower
    modalities: Sequence[str] = ("image",)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Return the pixels (B, 3, size, size) of images or their files. Raises RunError naming another input type."""
        images = []
        for image in inputs:
            if isinstance(image, str | Path):
                images.append(load_image(image, self.tower.size))
            elif isinstance(image, Image.Image):
                images.append(upright_rgb(image))
            else:
                raise RunError(f"give an image (PIL) or the path of one, not {type(image).__name__}")
        return {"pixel_values": to_inputs(images, self.tower)}


class TextModule(TowerModule):
    """A text tower with its own tokenizer."""

    tower: TextTower

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Return the tokens of texts."""
        return self.tower.tokenize([(prompt or "") + text for text in inputs])


def _save_text_model(tower: HuggingFaceText, folder: Path) -> None:
    pair.whole_model(tower).save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)
