"""A run's two sides as a folder that sentence-transformers loads.

Towers that it has no module for become modules of ours; such a folder loads where mmts is installed, with
`SentenceTransformer(folder, trust_remote_code=True)`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling, Router, Transformer
from sentence_transformers.util import load_dir_path
from torch import Tensor, nn

from mmts.console import console
from mmts.data.media.image import load_image, upright_rgb
from mmts.errors import RunError
from mmts.export.onnx_files import captions_for, largest_difference, pictures, to_inputs
from mmts.files import read_json, write_json
from mmts.models import TwoTower
from mmts.models import huggingface as hf
from mmts.models.base import ImageTower, MediaTower, TextTower, Tower
from mmts.models.clip_text import ClipText, ClipTokenizer
from mmts.models.image_towers import HuggingFaceImage, load_image_tower
from mmts.models.text_towers import HuggingFaceText, Vocabulary, load_text_tower
from mmts.recipe.model_section import Model

TOLERANCE = 1e-5
# The model types with a known image processor: its prefix, and the ways in which it makes a rectangle square.
_PROCESSORS = {"clip": ("CLIP", ("crop", "stretch")), "siglip": ("Siglip", ("stretch",))}


@torch.no_grad()
def write_sentence_transformer(model: TwoTower, section: Model, folder: Path) -> dict[str, Any]:
    """Write the run's sides as modules of sentence-transformers, load them again, and return the differences.

    model: in evaluation mode, with its frozen towers. section: the recipe's section on the model. A Hugging Face text
    encoder, both sides of one CLIP or SigLIP, and heads become modules of sentence-transformers; other towers become
    modules of mmts. Videos and features have no module: then only the text side is written, with a note. Raises
    RunError for a text tower with weights from a checkpoint file, and for differences above `TOLERANCE`.
    """
    image, text = model.media_tower, model.text_tower
    assert text is not None
    if not isinstance(image, ImageTower):
        what = "features" if image is None else "videos"
        console.print(f"note: sentence-transformers takes no {what}: only the text side is exported (--to onnx: both)")
        image = None
    is_one = _is_one_model(image, text)
    with tempfile.TemporaryDirectory() as scratch:
        text_side = [*_text_modules(image if is_one else None, text, section, Path(scratch)), *_head(model.text_head)]
        modules = text_side
        if image is not None:
            assert section.image is not None
            recipe = {"tower": section.image.tower, "size": image.size, "options": section.image.options}
            recipe["frozen"] = section.image.train != "all"
            first = text_side[0] if is_one else ImageModule(image, recipe)
            image_side = [first, *_head(model.media_head)]
            if text_side != image_side:
                routes = {(None, "text"): "text", (None, "image"): "image"}
                modules = [Router({"text": text_side, "image": image_side}, route_mappings=routes)]
        saved = SentenceTransformer(modules=[*modules, Normalize()], device="cpu")
        saved.save(str(folder), create_model_card=False)
    needs_mmts = any(type(module).__module__ == __name__ for module in saved.modules())
    loaded = SentenceTransformer(str(folder), device="cpu", trust_remote_code=needs_mmts, local_files_only=True)
    captions = captions_for(text)
    difference = _difference(loaded, captions, model.encode_text(text.tokenize(captions)))
    sides: dict[str, dict[str, Any]] = {"text": {"largest_difference": difference}}
    if image is not None:
        squares = pictures(*[(image.size, image.size)] * 3)
        others = pictures((3 * image.size, 2 * image.size), (image.size, 2 * image.size + 1), (50, 70))
        difference = _difference(loaded, squares, model.encode_media(to_inputs(squares, image)))
        other_sizes = _difference(loaded, others, model.encode_media(to_inputs(others, image)))
        sides["media"] = {"kind": "image", "largest_difference": difference, "other_sizes": other_sizes}
        if other_sizes > TOLERANCE:
            console.print(
                "note: transformers resizes pictures in its own way, so embeddings differ by up to "
                f"{other_sizes:.1e} for pictures that are not squares of the model's size (docs/export.md)"
            )
    for side, figures in sides.items():
        if not figures["largest_difference"] <= TOLERANCE:
            raise RunError(
                f"sentence-transformers: the {side} embeddings differ from the run's by up to "
                f"{figures['largest_difference']:.1e}, more than {TOLERANCE:g}; --to onnx is another way"
            )
    return {"needs_mmts": needs_mmts, **sides}


def _text_modules(image: Any, text: Any, section: Model, scratch: Path) -> list[nn.Module]:
    """Return the modules from texts to the text tower's features; with `image`, both towers are one model."""
    if image is not None:
        _save_both_sides(image, text, scratch)
        # SigLIP attends to its padding, up to the full length.
        full = {"text": {"padding": "max_length", "return_attention_mask": False}} if text.pad_full else None
        return [Transformer(str(scratch), max_seq_length=text.max_length, processing_kwargs=full)]
    if isinstance(text, HuggingFaceText) and not text.clip:
        _save_text_model(text, scratch)
        return [Transformer(str(scratch), max_seq_length=text.max_length), Pooling(text.width, text.pooling)]
    if section.pretrained is not None or section.text.options.get("weights") is not None:
        raise RunError(
            f"sentence-transformers has no module for the text tower {text.name!r} with weights from a checkpoint; "
            "--to onnx exports it"
        )
    return [TextModule(text, {"tower": section.text.tower, "options": section.text.options})]


def _head(head: nn.Module) -> list[nn.Module]:
    """Return a head of `mmts.models.build_head` as modules of sentence-transformers."""
    layers = [] if isinstance(head, nn.Identity) else list(head.children())
    modules: list[Any] = []
    for layer, after in zip(layers, [*layers[1:], None], strict=False):
        if isinstance(layer, nn.LayerNorm):
            modules.append(LayerNorm(layer.normalized_shape[0]))
            modules[-1].norm.load_state_dict(layer.state_dict())
        elif isinstance(layer, nn.Linear):
            activation = nn.GELU() if isinstance(after, nn.GELU) else nn.Identity()
            modules.append(Dense(layer.in_features, layer.out_features, activation_function=activation))
            modules[-1].linear.load_state_dict(layer.state_dict())
    return modules


def _difference(loaded: Any, inputs: list[Any], expected: Tensor) -> float:
    return largest_difference(expected, loaded.encode(inputs, convert_to_tensor=True, show_progress_bar=False))


# --- towers of mmts as modules ---------------------------------------------------------------------------------------


class TowerModule(InputModule):  # type: ignore[misc]
    """A tower as the first module of sentence-transformers; `recipe` is its section of the run's recipe."""

    def __init__(self, tower: Tower, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.tower = tower
        self.recipe = dict(recipe)

    def get_embedding_dimension(self) -> int:
        """Return the width of the tower's features."""
        return self.tower.width

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """Add the tower's features (B, width) as the present embedding."""
        return features | {"sentence_embedding": self.tower(features.get("pixel_values", features))}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the section of the recipe, the weights or the Hugging Face model, and the words or the tokenizer."""
        folder, tower = Path(output_path), self.tower
        write_json(folder / "tower.json", self.recipe)
        if isinstance(tower, HuggingFaceImage):
            model = _whole_model(tower) if tower.clip else tower.model
            model.save_pretrained(folder / "model")
            write_json(folder / "model" / "preprocessor_config.json", _image_processor(tower))
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
        source = {name: options.get(name) for name in ("token", "cache_folder", "revision", "local_files_only")}
        folder = Path(load_dir_path(model_name_or_path=model_name_or_path, subfolder=subfolder, **source))
        recipe = read_json(folder / "tower.json")
        name, settings = recipe["tower"], dict(recipe["options"])
        if (folder / "model").exists():
            name = str(folder / "model")
        tower: Tower
        if issubclass(cls, ImageModule):
            tower = load_image_tower(name, size=recipe["size"], **settings)
            if recipe["frozen"]:
                tower.freeze()
        else:
            if (folder / "vocabulary.json").exists():
                settings["vocabulary"] = Vocabulary.from_json(read_json(folder / "vocabulary.json"))
            if (folder / "tokenizer").exists():
                settings["tokenizer"] = str(folder / "tokenizer")
            tower = load_text_tower(name, **settings)
        if (folder / "model.safetensors").exists():
            tower.load_state_dict(load_file(folder / "model.safetensors"))
        return cls(tower, recipe)


class ImageModule(TowerModule):
    """An image tower: takes pictures or their paths, with mmts's own decoding and resizing."""

    tower: MediaTower
    modalities: Sequence[str] = ("image",)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Return the pixels (B, 3, size, size) of images or their files. Raises RunError naming another input type."""
        return {"pixel_values": to_inputs([self._opened(image) for image in inputs], self.tower)}

    def _opened(self, image: Any) -> Image.Image:
        if isinstance(image, str | Path):
            return load_image(image, self.tower.size)
        if isinstance(image, Image.Image):
            return upright_rgb(image)
        raise RunError(f"give an image (PIL) or the path of one, not {type(image).__name__}")


class TextModule(TowerModule):
    """A text tower with its own tokenizer."""

    tower: TextTower

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Return the tokens of texts."""
        return self.tower.tokenize([(prompt or "") + text for text in inputs])


# --- Hugging Face models as folders that transformers loads ----------------------------------------------------------


def _whole_model(*towers: HuggingFaceImage | HuggingFaceText) -> Any:
    """Return the model that the towers came from, with their present weights; its other parts are unchanged.

    transformers has no class for one side of a CLIP, so the other side comes from the original model.
    """
    model: Any
    model, _ = hf.load_model(towers[0].source)
    for tower in towers:
        is_encoder = not tower.clip and getattr(model.config, "is_encoder_decoder", False)
        (model.get_encoder() if is_encoder else model).load_state_dict(tower.model.state_dict(), strict=False)
    return model


def _save_text_model(tower: HuggingFaceText, folder: Path) -> None:
    _whole_model(tower).save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)


def _is_one_model(image: object, text: object) -> bool:
    """Whether two towers are the sides of one CLIP or SigLIP whose own files can describe the preprocessing."""
    if not isinstance(image, HuggingFaceImage) or not isinstance(text, HuggingFaceText):
        return False
    _, resizes = _PROCESSORS.get(str(image.model.config.model_type), ("", ()))
    same = image.clip and text.clip and image.source.place == text.source.place
    return same and image.resize in resizes and not image.interpolate


def _save_both_sides(image: HuggingFaceImage, text: HuggingFaceText, folder: Path) -> None:
    """Write a CLIP or SigLIP (see `_is_one_model`) with its processor, for AutoModel and AutoProcessor."""
    import transformers

    model = _whole_model(image, text)
    model.save_pretrained(folder)
    prefix, _ = _PROCESSORS[model.config.model_type]
    image_processor = getattr(transformers, f"{prefix}ImageProcessor")(**_image_processor(image))
    processor = getattr(transformers, f"{prefix}Processor")(image_processor=image_processor, tokenizer=text.tokenizer)
    processor.save_pretrained(folder)


def _image_processor(tower: MediaTower) -> dict[str, Any]:
    """Return the settings of an image processor of transformers that come closest to the tower's preprocessing."""
    side = {"height": tower.size, "width": tower.size}
    crops = tower.resize == "crop"
    return {
        "do_resize": True,
        "size": {"shortest_edge": tower.size} if crops else side,
        "resample": 3,  # bicubic
        "do_center_crop": crops,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": tower.mean.tolist(),
        "image_std": tower.std.tolist(),
    }
