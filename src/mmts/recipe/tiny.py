"""Any recipe on a laptop in under a minute: the same path through the code, small random towers, few samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mmts.console import console
from mmts.files import cache_root
from mmts.recipe.model_section import FEATURES
from mmts.recipe.recipe import Recipe, override, parse_recipe

_SIZE, _FRAMES, _WIDTH = 32, 4, 64
_SMALL = {"width": _WIDTH, "depth": 2, "heads": 2}


def tiny(recipe: Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe made small: every part of it runs, but what the model learns means nothing.

    Towers become small random ones of the same family, and train; a pretrained pair of images and captions becomes a
    small random CLIP or SigLIP, of which trains what the recipe says. Data, objective, rule and evaluation stay.
    Captions are clustered by TF-IDF. `train.micro_batch`, if set, becomes 4. What `overrides` set, as in `load_recipe`,
    stays.

    >>> from mmts.recipe.recipe import load_recipe
    >>> small = tiny(load_recipe("catalogue"))
    >>> small.model.image.tower, small.train.steps
    ('small-resnet', 12)
    """
    content = recipe.model_dump(mode="json")
    model, train = content["model"], content["train"]
    if recipe.model.start is not None and recipe.model.image is not None:
        model |= {"start": str(_pair(recipe.model.start)), "image": model["image"] | {"size": None}}
    else:
        if recipe.model.media.tower != FEATURES:
            model[recipe.model.kind] = _media_tower(model[recipe.model.kind])
        model |= {"text": _text_tower(model["text"]["tower"]), "width": _WIDTH, "pretrained": None, "start": None}
        model["head"] = {"kind": "linear"}
    train |= {
        "epochs": None,
        "steps": 12,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "final_learning_rate": 0.0,
        "warmup_learning_rate": 0.0,
        "micro_batch": 4 if train["micro_batch"] else None,
        "log_every": 1,
        "precision": "fp32",
    }
    if content["concepts"]["source"] != "label":
        names = {"file": None, "column": "concept", "key": "id"}
        content["concepts"] |= {"source": "captions", "num_concepts": "auto", "encoder": "tfidf", **names}
    content["data"] |= {"max_media": 128, "workers": 0}
    content |= {"name": f"{recipe.name}-tiny", "published": None}
    return parse_recipe(override(content, overrides), f"recipe {recipe.name}, made tiny")


def _pair(start: str) -> Path:
    """Return a small random pair in place of `start`, and say so."""
    from mmts.examples.pair import made_pair

    kind: Literal["clip", "siglip"] = "siglip" if "siglip" in start.lower() else "clip"
    console.print(f"--tiny: a small random {kind} stands in for {start}")
    return made_pair(cache_root() / "tiny" / kind, kind)


def _media_tower(section: dict[str, Any]) -> dict[str, Any]:
    small = section | {"train": "all", "size": _SIZE, "lora": None}
    if "frames" not in section:  # an image tower
        return small | dict(zip(("tower", "options"), _small_image(section["tower"]), strict=True))
    small |= {"tower": section["tower"] or "frames", "frames": min(_FRAMES, section["frames"] or _FRAMES)}
    if section["tower"] == "space-time-vit":
        return small | {"options": {"patch": 8, "output_width": _WIDTH, **_SMALL}}
    image, options = _small_image(str(section["options"].get("image", "")))
    kept = {name: value for name, value in section["options"].items() if name in ("pooling", "depth", "heads")}
    return small | {"options": kept | {"image": image, "image_options": options}}


def _small_image(name: str) -> tuple[str, dict[str, Any]]:
    """Return the small tower of the same family (a ResNet for a convolutional network, else a ViT) and its options."""
    if any(part in name.lower() for part in ("resnet", "efficientnet", "convnext")):
        return "small-resnet", {"channels": 8, "depth": 1}
    return "small-vit", {"patch": 8, **_SMALL}


def _text_tower(name: str | None) -> dict[str, Any]:
    """Return CLIP's text transformer over bytes for the CLIP family, and a small transformer over words for others."""
    if "clip" in (name or "").lower():
        options = {**_SMALL, "output_width": _WIDTH, "tokenizer": "bytes"}
        return {"tower": "clip-text", "train": "all", "options": options}
    return {"tower": "small-transformer", "train": "all", "options": _SMALL}


def example_data(recipe: Recipe, folder: Path) -> Path:
    """Draw a small data set into `folder`, in the layout of the recipe's own (otherwise Flickr30K's or YouCook2's)."""
    from mmts.examples import draw_example

    dataset = recipe.data.dataset or ("flickr30k" if recipe.model.kind == "image" else "youcook2")
    console.print(f"no data given: drawing a small example in the layout of {dataset} into {folder}")
    return draw_example(dataset, folder, features=recipe.model.media.tower == FEATURES)
