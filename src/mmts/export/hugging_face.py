"""Towers that come from Hugging Face as folders that transformers loads: whole models, tokenizer, preprocessing."""

from pathlib import Path
from typing import Any

from mmts.files import write_json
from mmts.models import huggingface as hf
from mmts.models.base import MediaTower
from mmts.models.image_towers import HuggingFaceImage
from mmts.models.text_towers import HuggingFaceText

# The two whose image processors are known, and how each makes a rectangle square.
_PROCESSORS = {"clip": ("CLIP", ("crop", "stretch")), "siglip": ("Siglip", ("stretch",))}


def whole_model(*towers: HuggingFaceImage | HuggingFaceText) -> Any:
    """Return the model that the towers came from, with their weights of today; what they left out is as it was.

    Half a CLIP is no model that transformers knows, so the other half comes from where the tower came from; two towers
    of one CLIP fill both.
    """
    model: Any
    model, _ = hf.load_model(towers[0].source)
    for tower in towers:
        is_encoder = not tower.clip and getattr(model.config, "is_encoder_decoder", False)
        (model.get_encoder() if is_encoder else model).load_state_dict(tower.model.state_dict(), strict=False)
    return model


def save_image_model(tower: HuggingFaceImage, folder: Path) -> None:
    """Write a folder that AutoModel and `load_image_tower` load."""
    model = whole_model(tower) if tower.clip else tower.model
    model.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _image_processor(tower))


def save_text_model(tower: HuggingFaceText, folder: Path) -> None:
    """Write a folder that AutoModel, AutoTokenizer and `load_text_tower` load."""
    whole_model(tower).save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)


def is_one_model(image: object, text: object) -> bool:
    """Return whether two towers are the sides of one CLIP or SigLIP whose preprocessing its own files can describe."""
    if not isinstance(image, HuggingFaceImage) or not isinstance(text, HuggingFaceText):
        return False
    _, resizes = _PROCESSORS.get(str(image.model.config.model_type), ("", ()))
    same = image.clip and text.clip and image.source.place == text.source.place
    return same and image.resize in resizes and not image.interpolate


def save_both_sides(image: HuggingFaceImage, text: HuggingFaceText, folder: Path) -> None:
    """Write a CLIP or SigLIP with its processor, as `is_one_model` has it; AutoModel and AutoProcessor load it."""
    import transformers

    model = whole_model(image, text)
    model.save_pretrained(folder)
    prefix, _ = _PROCESSORS[model.config.model_type]
    processor = getattr(transformers, f"{prefix}ImageProcessor")(**_image_processor(image))
    getattr(transformers, f"{prefix}Processor")(image_processor=processor, tokenizer=text.tokenizer).save_pretrained(
        folder
    )


def _image_processor(tower: MediaTower) -> dict[str, Any]:
    """Return what an image processor of transformers is told, as near to what the tower does as it can be."""
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
