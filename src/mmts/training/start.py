"""The pretrained pair that a model starts from, or that is evaluated as it is: both towers, their heads, and its scale.

A pair is a run, a Hugging Face CLIP or SigLIP, a sentence-transformers CLIP folder, or a model of open_clip.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mmts.data.records import Medium
from mmts.errors import InputError, RecipeError, RunError
from mmts.files import read_json, why_missing
from mmts.models import TwoTower, build_head, huggingface, open_clip
from mmts.models.base import make_tower
from mmts.models.image_towers import HuggingFaceImage
from mmts.models.text_towers import HuggingFaceText
from mmts.models.trainable import merge_lora
from mmts.models.two_tower import pretrained_pair
from mmts.recipe.model_section import Model
from mmts.recipe.run_directory import RunDirectory


def open_pair(start: str, media: Sequence[Medium] = (), size: int | None = None) -> TwoTower:
    """Return a pretrained pair: unit embeddings as its own library computes them, in float32, or as a run does.

    media: examples of the inputs, for a run on precomputed features. size: side of the input in pixels, if not the
    pair's own. Raises RecipeError if `start` names something else, and RunError for a run that cannot be rebuilt.
    """
    path = Path(start).expanduser()
    if start.startswith(open_clip.PREFIX):
        return open_clip.open_clip_pair(start.removeprefix(open_clip.PREFIX), size)
    if path.suffix == ".npz":
        raise RecipeError(f"{start} holds embeddings, not a model: `mmts evaluate` takes it, and nothing else does")
    if not (path / "recipe.yaml").is_file():
        return _hugging_face_pair(start, path, size)
    if size is not None:
        raise RecipeError(f"model.image.size: {start} is a run, whose size stays its own; leave size out")
    from mmts.training.experiment import load_model  # which builds models, also from pairs

    run = RunDirectory(path)
    if Path(str(run.recipe().model.start)).expanduser().absolute() == path.absolute():
        raise RunError(f"{start} is a run that starts from itself, by its recipe")
    model = load_model(run, media)
    for side in (model.media_tower, model.text_tower):
        if side is not None:
            merge_lora(side)
    return model


def _hugging_face_pair(start: str, path: Path, size: int | None) -> TwoTower:
    """Return the pair of a CLIP or SigLIP of transformers."""
    if path.exists() and not path.is_dir():
        raise RecipeError(f"{start} is a file; a pretrained pair is a folder or a name (docs/pretrained.md lists them)")
    is_path = path.is_absolute() or start.startswith(".") or start.count("/") > 1  # a name is NAME or OWNER/NAME
    if is_path and not path.exists():
        raise RecipeError(f"{start} {why_missing(path)}")
    name = str(_clip_in_sentence_transformers(path)) if (path / "modules.json").is_file() else start
    source = huggingface.find_source(name, "image tower")
    whole, _ = huggingface.load_model(source)
    if not (hasattr(whole, "get_image_features") and hasattr(whole, "get_text_features")):
        kind = whole.config.model_type
        raise RecipeError(f"{start} is a {kind} model, not a CLIP or SigLIP: it does not embed both images and text")
    parts = huggingface.shared_copy(whole), huggingface.shared_copy(whole)
    image = make_tower(HuggingFaceImage, name, size=size, pretrained=parts[0])
    text = make_tower(HuggingFaceText, name, pretrained=parts[1])
    if image.width != text.width:
        widths = f"{image.width} numbers per image and {text.width} per caption"
        raise RecipeError(f"{start} embeds images and text in two spaces, with {widths}; it is not a pretrained pair")
    return pretrained_pair(image, text, whole)


def _clip_in_sentence_transformers(folder: Path) -> Path:
    """Return the folder of the CLIP in a folder of sentence-transformers, which may only normalize after it."""
    modules = read_json(folder / "modules.json")
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        first = folder / str(modules[0]["path"])
        inside = first.resolve().is_relative_to(folder.resolve())
    except (TypeError, LookupError, ValueError):  # ValueError: no path can have such a name
        raise RecipeError(f"{folder / 'modules.json'} does not list the modules of sentence-transformers") from None
    if not inside:
        raise RecipeError(f"{folder / 'modules.json'} names a module outside its folder: {modules[0]['path']}")
    if kinds[0] not in ("CLIPModel", "Transformer") or set(kinds[1:]) - {"Normalize"}:
        raise RecipeError(f"{folder} holds the modules {', '.join(kinds)}; only those of a CLIP are a pretrained pair")
    nested: Path = first / "0_CLIPModel"
    return nested if (nested / "config.json").is_file() else first


def started(section: Model, media: Sequence[Medium]) -> TwoTower:
    """Return the model that starts from `model.start`: its embeddings are those of the pair until something trains."""
    assert section.start is not None
    try:
        model = open_pair(section.start, media, getattr(section.media, "size", None))
    except (RecipeError, RunError, InputError) as error:
        raise type(error)(f"model.start: {error}") from None
    if section.head.kind == "residual":
        width = model.width
        options: dict[str, Any] = section.head.model_dump()
        for side in ("media_head", "text_head"):
            own, added = getattr(model, side), build_head(in_width=width, out_width=width, **options)
            setattr(model, side, added if isinstance(own, nn.Identity) else nn.Sequential(own, added))
    return model
