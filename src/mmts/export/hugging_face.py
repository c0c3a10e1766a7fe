"""Hugging Face towers as folders that transformers loads: whole models, tokenizer and preprocessing."""

from pathlib import Path
from typing import Any

from mmts.files import write_json
from mmts.models import huggingface as hf
from mmts.models.base import MediaTower
from mmts.models.image_towers import HuggingFaceImage
from mmts.models.text_towers import HuggingFaceText

# The model types with a known image processor: its prefix, and the ways in which it makes a rectangle square.
_PROCESSORS = {"clip": ("CLIP", ("crop", "stretch")), "siglip": ("Siglip", ("stretch",))}


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


def save_image_model(tower: HuggingFaceImage, folder: Path) -> None:
    """Write a folder that AutoModel and `load_image_tower` load."""
    model = _whole_model(tower) if tower.clip else tower.model
    model.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _image_processor(tower))


def save_text_model(tower: HuggingFaceText, folder: Path) -> None:
    """Write a folder that AutoModel, AutoTokenizer and `load_text_tower` load."""
    _whole_model(tower).save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)


def is_one_model(image: object, text: object) -> bool:
    """Return whether two towers are the sides of one CLIP or SigLIP whose own files can describe the preprocessing."""
    if not isinstance(image, HuggingFaceImage) or not isinstance(text, HuggingFaceText):
        return False
    _, resizes = _PROCESSORS.get(str(image.model.config.model_type), ("", ()))
    same = image.clip and text.clip and image.source.place == text.source.place
    return same and image.resize in resizes and not image.interpolate


def save_both_sides(image: HuggingFaceImage, text: HuggingFaceText, folder: Path) -> None:
    """Write a CLIP or SigLIP (see `is_one_model`) with its processor, for AutoModel and AutoProcessor."""
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
