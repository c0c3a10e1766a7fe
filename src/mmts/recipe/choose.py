"""Which shipped recipe fits data that come without one, and why."""

from pathlib import Path

from mmts.data.read import read_dataset
from mmts.data.records import Dataset
from mmts.errors import RecipeError
from mmts.recipe.recipe import DATASETS, Columns, Recipe, load_recipe, shipped_recipes


def choose_recipe(data: Path, columns: Columns | None = None) -> tuple[str, str]:
    """Return the name of the shipped recipe for the data at a path, and the reason in words.

    A public data set gets its own recipe with MM-TS, images of one's own `catalogue`, videos `clips`. columns: as in a
    recipe's `data`. Raises RecipeError if no shipped recipe fits, and DataError if there are no data.

    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "captions.csv"
    >>> _ = table.write_text("filepath,caption\\na.jpg,a cat\\nb.jpg,a dog\\n")
    >>> choose_recipe(table)
    ('catalogue', '2 images with captions: small heads on frozen features, which needs minutes and few examples')
    """
    dataset = read_dataset(data, (columns or Columns()).model_dump(exclude_none=True))
    if dataset.name in DATASETS:
        return _of_public_set(dataset.name), f"these are {dataset.name}'s files, and it is their recipe with MM-TS"
    kinds = {medium.kind for medium in dataset.media}
    if any(medium.is_features for medium in dataset.media):
        raise RecipeError(f"{data} holds features computed beforehand; name a recipe whose tower takes them{_SEE}")
    if len(kinds) > 1:
        raise RecipeError(f"{data} holds images and videos; a run has one of both, so split them{_SEE}")
    return _of_own_data(dataset)


_SEE = " (see `mmts recipes`)"


def _of_public_set(name: str) -> str:
    def fits(recipe: Recipe) -> bool:
        return recipe.data.dataset == name and recipe.name.endswith("-mmts")

    return next(each for each in shipped_recipes() if fits(load_recipe(each)))


def _of_own_data(dataset: Dataset) -> tuple[str, str]:
    kind = dataset.media[0].kind
    why = f"{len(dataset.media):,} {kind}s with captions"
    if kind == "video":
        return "clips", f"{why}: small heads on frozen features of their frames"
    return "catalogue", f"{why}: small heads on frozen features, which needs minutes and few examples"
