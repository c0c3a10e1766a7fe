"""Any recipe on a laptop in under a minute: the same path through the code, small random towers, few samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmts.console import console
from mmts.recipe.model_section import FEATURES
from mmts.recipe.recipe import Recipe, override, parse_recipe

SIZE = 32
WIDTH = 64
FRAMES = 4
STEPS = 12
BATCH_SIZE = 16
PIECE = 4
MAX_MEDIA = 128


def tiny(recipe: Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe made small: what it learns means nothing, but everything it does is done.

    Towers become small random ones of their family, trained; data, objective, rule and judging stay. Clusters of
    captions come from TF-IDF, as many as the captions allow; pieces and checkpointed gradients stay where they were.
    What `overrides` set, as in `load_recipe`, stays as they set it.

    >>> from mmts.recipe.recipe import load_recipe
    >>> small = tiny(load_recipe("catalogue"))
    >>> small.model.image.tower, small.train.steps
    ('small-resnet', 12)
    """
    content = recipe.model_dump(mode="json")
    model, train = content["model"], content["train"]
    for side in ("image", "video"):
        if model[side] is not None:
            model[side] = _media_tower(side, model[side])
    model["text"] = _text_tower(model["text"])
    model |= {"width": WIDTH, "pretrained": None, "head": {"kind": "linear"}}
    train |= {
        "epochs": None,
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "learning_rate": 1e-3,
        "final_learning_rate": 0.0,
        "micro_batch": PIECE if train["micro_batch"] else None,
        "log_every": 1,
        "precision": "fp32",
    }
    if content["concepts"]["source"] != "label":
        content["concepts"] |= {"source": "captions", "file": None, "num_concepts": "auto", "encoder": "tfidf"}
    content["data"] |= {"max_media": MAX_MEDIA, "workers": 0}
    content |= {"name": f"{recipe.name}-tiny", "published": None}
    return parse_recipe(override(content, overrides), f"recipe {recipe.name}, made tiny")


def _media_tower(side: str, section: dict[str, Any]) -> dict[str, Any]:
    if section["tower"] == FEATURES:
        return section
    if side == "image":
        return {"tower": _image_family(section["tower"]), "frozen": False, "size": SIZE} | _image_options(
            section["tower"], "options"
        )
    small = section | {"frozen": False, "size": SIZE, "frames": min(FRAMES, section["frames"] or FRAMES)}
    if section["tower"] == "space-time-vit":
        return small | {"options": {"patch": 8, "width": WIDTH, "depth": 2, "heads": 2, "output_width": WIDTH}}
    image = str(section["options"].get("image", ""))
    kept = {name: value for name, value in section["options"].items() if name in ("pooling", "depth", "heads")}
    return small | {"options": kept | {"image": _image_family(image)} | _image_options(image, "image_options")}


def _image_family(name: str) -> str:
    """Return the small tower of the same family: a ResNet for convolutional networks, else a ViT."""
    return (
        "small-resnet" if any(part in name.lower() for part in ("resnet", "efficientnet", "convnext")) else "small-vit"
    )


def _image_options(name: str, key: str) -> dict[str, Any]:
    if _image_family(name) == "small-resnet":
        return {key: {"channels": 8, "depth": 1}}
    return {key: {"patch": 8, "width": WIDTH, "depth": 2, "heads": 2}}


def _text_tower(section: dict[str, Any]) -> dict[str, Any]:
    """Return CLIP's text transformer over bytes for CLIP and its kin, a small transformer over words for the others."""
    small = {"width": WIDTH, "depth": 2, "heads": 2}
    if "clip" in section["tower"].lower():
        return {"tower": "clip-text", "frozen": False, "options": small | {"output_width": WIDTH, "tokenizer": "bytes"}}
    return {"tower": "small-transformer", "frozen": False, "options": small}


def example_data(recipe: Recipe, folder: Path) -> Path:
    """Draw a small data set into `folder`, in the layout of the recipe's own (else Flickr30K's or YouCook2's)."""
    from mmts.examples import draw_example

    dataset = recipe.data.dataset or ("flickr30k" if recipe.model.kind == "image" else "youcook2")
    console.print(f"no data given: drawing a small example in the layout of {dataset} into {folder}")
    features = recipe.model.media.tower == FEATURES
    return draw_example(dataset, folder, features=features)
