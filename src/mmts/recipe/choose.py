"""Which shipped recipe fits data that are given without one, and why."""

from pathlib import Path

from mmts.data.read import read_dataset
from mmts.errors import RecipeError
from mmts.models import huggingface
from mmts.recipe.recipe import load_recipe, shipped_recipes
from mmts.recipe.sections import DATASETS, Columns


def public_recipe(dataset: str) -> str | None:
    """Return the name of the recipe with MM-TS for a public data set; None for other data."""
    names = (name for name in shipped_recipes() if dataset in DATASETS and name.endswith("-mmts"))
    return next((name for name in names if load_recipe(name).data.dataset == dataset), None)


def choose_recipe(data: Path, columns: Columns | None = None) -> tuple[str, str]:
    """Return the name of the shipped recipe for the data at a path, and the reason in words.

    A public data set gets its own recipe with MM-TS, other videos `clips`, and other images `clip` if its pretrained
    pair is in the local cache of Hugging Face, else `catalogue`; nothing is downloaded. columns: as in a recipe's
    `data`. Raises RecipeError if no shipped recipe fits, and DataError if nothing can be read there.
    """
    dataset = read_dataset(data, (columns or Columns()).model_dump(exclude_none=True))
    if (name := public_recipe(dataset.name)) is not None:
        return name, f"these are {dataset.name}'s files, and this is the recipe for them with MM-TS"
    see = "(see `mmts recipes`)"
    if any(medium.is_features for medium in dataset.media):
        raise RecipeError(f"{data} holds precomputed features; name a recipe whose tower takes them {see}")
    kinds = {medium.kind for medium in dataset.media}
    if len(kinds) > 1:
        raise RecipeError(f"{data} holds images and videos; a run takes only one of the two, so split them {see}")
    if kinds == {"video"}:
        return "clips", f"{len(dataset.media):,} videos with captions: small heads on frozen features of their frames"
    what, pair = f"{len(dataset.media):,} images with captions", str(load_recipe("clip").model.start)
    if huggingface.is_cached(pair):
        return "clip", f"{what}, and {pair} is in the local cache of Hugging Face: small heads on top of it"
    why = "small heads on frozen features, which needs minutes and few examples"
    return "catalogue", f"{what}: {why}. After {huggingface.download_command(pair)} this would be the recipe clip"
