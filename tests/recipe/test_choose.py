"""Data that come without a recipe: which one they get, and what is said where none fits."""

import json
from pathlib import Path

import pytest
from tests_support import draw_shapes

from mmts.errors import RecipeError
from mmts.examples import draw_example
from mmts.recipe.choose import choose_recipe
from mmts.recipe.sections import Columns


def rows(folder: Path, *media: dict[str, str]) -> Path:
    lines = [json.dumps({"id": str(i), "captions": ["a cat"], **each}) for i, each in enumerate(media)]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def test_other_images_and_videos(tmp_path: Path) -> None:
    name, why = choose_recipe(draw_shapes(tmp_path / "photos", 12))
    assert (name, why.split(":")[0]) == ("catalogue", "12 images with captions")
    name, why = choose_recipe(rows(tmp_path, {"video": "a.mp4"}, {"video": "b.mp4"}))
    assert (name, why.split(":")[0]) == ("clips", "2 videos with captions")


@pytest.mark.parametrize("name", ["flickr30k", "coco", "ek100", "youcook2"])
def test_a_public_data_set_gets_its_own_recipe(name: str, tmp_path: Path) -> None:
    assert choose_recipe(draw_example(name, tmp_path))[0] == f"{name}-mmts"


def test_data_that_fit_no_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds images and videos"):
        choose_recipe(rows(tmp_path, {"image": "a.jpg"}, {"video": "b.mp4"}))
    with pytest.raises(RecipeError, match="precomputed features"):
        choose_recipe(rows(tmp_path, {"video": "a.npy"}))


def test_columns_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Bild;Text\na.jpg;ein Hut\nb.jpg;ein Rock\n")
    assert choose_recipe(tmp_path / "a.csv", Columns(media="Bild", caption="Text"))[0] == "catalogue"
