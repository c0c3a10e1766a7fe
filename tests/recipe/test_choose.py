"""Data that come without a recipe: which one they get, and what is said where none fits."""

import json
from pathlib import Path

import pytest
from models.tiny_models import tiny_clip
from tests_support import draw_shapes

from mmts.errors import RecipeError
from mmts.examples import draw_example
from mmts.models.huggingface import is_cached
from mmts.recipe.choose import choose_recipe
from mmts.recipe.recipe import load_recipe
from mmts.recipe.sections import Columns
from mmts.training.start import open_pair


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


def put_into_cache(cache: Path, name: str) -> Path:
    """Put a tiny CLIP where the hub's library keeps the newest version of a model, and return its folder."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    return tiny_clip(folder / "snapshots" / ("a" * 40))


def test_photos_get_clip_where_it_was_downloaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = draw_shapes(tmp_path / "photos", 12)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    name, why = choose_recipe(photos)
    assert name == "catalogue"
    assert "After `hf download openai/clip-vit-base-patch32 " in why
    files = put_into_cache(tmp_path / "hub", "openai/clip-vit-base-patch32")
    name, why = choose_recipe(photos)
    assert (name, why.split(":")[0]) == (
        "clip",
        "12 images with captions, and openai/clip-vit-base-patch32 is in the local cache of Hugging Face",
    )
    assert open_pair(str(load_recipe("clip").model.start)).width == 12
    (files / "model.safetensors").unlink()
    assert choose_recipe(photos)[0] == "catalogue"


def test_what_can_be_loaded_from_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fetch = r"call `hf download --local-dir FOLDER openai/clip-vit-base-patch32 .*` where there is a network"
    with pytest.raises(RecipeError, match=f"'openai/clip-vit-base-patch32' is not a folder and not in .*: {fetch}"):
        open_pair("openai/clip-vit-base-patch32")
    for name in ("nobody/clip", "a name", "a..b/c"):
        with pytest.raises(RecipeError, match="is not a folder and not in the local cache of Hugging Face"):
            open_pair(name)
    assert not is_cached("a..b/c")
