"""What a run takes of its data, and what it refuses before anything is decoded."""

import json
import re
from pathlib import Path

import pytest
from tests_support import draw_shapes

from mmts.data.read import read_dataset
from mmts.errors import DataError, MmtsError, RecipeError
from mmts.evaluation.run import evaluate
from mmts.examples import draw_example
from mmts.recipe.recipe import Recipe, load_recipe, parse_columns
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Columns, Data
from mmts.recipe.tiny import tiny
from mmts.training.run import train
from mmts.training.splits import open_data, take_splits


def small(name: str, *overrides: str) -> Recipe:
    return tiny(load_recipe(name, overrides), overrides)


def test_max_media_holds_when_a_run_is_evaluated_again(tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "data", 60)
    recipe = small("from-scratch", "data.max_media=4", "train.steps=1").with_data(data)
    first = train(recipe, tmp_path / "run")
    assert first["num_media"] == 4
    assert evaluate(tmp_path / "run")["num_media"] == 4


@pytest.mark.parametrize(
    ("name", "overrides", "error", "message"),
    [
        ("ek100-mmts", ["data.relevance=graded"], DataError, "is an image, and the recipe has model.video"),
        ("from-scratch", ["data.relevance=graded"], DataError, "no graded relevance"),
        ("from-scratch", ["data.captions=relevant"], RecipeError, "draws by graded relevance"),
        ("from-scratch", ["model.image.tower=features", "model.image.train=head"], DataError, "holds no features"),
    ],
)
def test_impossible_combinations_are_refused_before_anything_is_decoded(
    name: str, overrides: list[str], error: type[MmtsError], message: str, tmp_path: Path
) -> None:
    data = draw_shapes(tmp_path / "data")
    for image in (data / "images").iterdir():
        image.write_bytes(b"no image")  # to decode one would be another error
    recipe = small(name, *overrides)
    if name == "ek100-mmts":
        recipe = small(name, "data.relevance=text", "data.captions=own")
    with pytest.raises(error, match=message):
        train(recipe.with_data(data), tmp_path / "run")


def test_a_missing_checkpoint_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    data = draw_example("ek100", tmp_path / "data")
    for film in data.rglob("*.MP4"):
        if film.is_file():
            film.write_bytes(b"")
    with pytest.raises(MmtsError, match=r"avion_pretrain_lavila_vitb_best\.pt"):
        train(load_recipe("ek100-mmts").with_data(data), tmp_path / "run")


def test_images_that_an_index_left_out_count_too(tmp_path: Path) -> None:
    data = draw_example("cc3m", tmp_path / "data")
    images = sorted(path for path in (data / "training").rglob("*") if path.is_file())
    for image in images[:6]:
        image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"6 of .* images cannot be decoded, more than the 1 % allowed"):
        train(small("cc3m-clip").with_data(data), tmp_path / "run")
    assert len((tmp_path / "run" / "unreadable.txt").read_text().splitlines()) == 6
    metrics = train(small("cc3m-clip", "data.max_unreadable=0.5", "train.steps=2").with_data(data), tmp_path / "run")
    assert metrics["split"] == "val"


def test_the_val_split_of_other_data_chooses_the_checkpoint(tmp_path: Path) -> None:
    data, other = draw_example("cc3m", tmp_path / "cc3m"), draw_example("coco", tmp_path / "coco")
    recipe = small("cc3m-clip", f"data.val={other}", "train.steps=1").with_data(data)
    metrics = train(recipe, tmp_path / "run")
    assert metrics["data"] == str(data)
    assert metrics["split"] == "val"
    logged = next(line["val"] for line in RunDirectory(tmp_path / "run").log_lines() if "val" in line)
    there = evaluate(tmp_path / "run", other, "val")
    assert there["text_to_image"] == logged["text_to_image"]
    assert there["num_captions"] > there["num_media"] != metrics["num_media"]
    without = draw_shapes(tmp_path / "shapes")
    lines = [json.loads(line) for line in (without / "captions.jsonl").read_text().splitlines()]
    rows = (json.dumps({**line, "split": "train"}) for line in lines)
    (without / "captions.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match="nothing is in split 'val'; the splits are: train"):
        train(small("cc3m-clip", f"data.val={without}").with_data(data), tmp_path / "other")


def test_an_evaluated_split_without_any_media_is_an_error(tmp_path: Path) -> None:
    data = draw_example("youcook2", tmp_path / "data")
    database = json.loads((data / "youcookii_annotations_trainval.json").read_text())["database"]
    for film in data.rglob("*.mp4"):
        if database[film.stem]["subset"] == "validation":
            film.unlink()
    with pytest.raises(DataError, match=r"none of the 12 annotated media of val has a file"):
        take_splits(read_dataset(data), load_recipe("youcook2-mmts"))


def test_a_recipe_for_another_data_set_prints_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = read_dataset(draw_example("coco", tmp_path))
    take_splits(dataset, load_recipe("flickr30k-mmts"))
    assert "the recipe was made for flickr30k, and this is coco" in capsys.readouterr().out


def test_the_width_of_features_does_not_depend_on_the_first_file(tmp_path: Path) -> None:
    data = draw_example("ek100", tmp_path / "data", features=True)
    first = read_dataset(data).split("train").media[0].path
    first.unlink()
    recipe = small("ek100-features", "train.steps=1", "data.max_unreadable=0.2").with_data(data)
    assert train(recipe, tmp_path / "run")["num_media"] == 8


def renamed_shapes(folder: Path, **names: str) -> Path:
    """Draw shapes whose splits have other names."""
    file = draw_shapes(folder) / "captions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps({**line, "split": names.get(line["split"], line["split"])}) + "\n" for line in lines)
    )
    return folder


NAMES = {"train": "train2014", "val": "val2014", "test": "[/x]"}


def test_splits_of_other_names_are_listed_and_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = renamed_shapes(tmp_path / "data", **NAMES)
    with pytest.raises(DataError, match=r"split 'train'; the splits are: .*--set data\.splits\.train=train2014"):
        train(small("from-scratch").with_data(data), tmp_path / "run")
    chosen = ["data.splits.train=train2014", "data.splits.val=val2014", "train.steps=1"]
    recipe = small("from-scratch", *chosen).with_data(data)
    assert train(recipe, tmp_path / "run")["split"] == "val"
    assert "note: not used: [/x] (5 media); data.splits says " in capsys.readouterr().out
    assert evaluate(tmp_path / "run", split_name="[/x]")["split"] == "[/x]"
    (written,) = (tmp_path / "run" / "evaluations").glob("*.json")
    assert written.is_file()
    assert evaluate(tmp_path / "run", split_name="val2014")["split"] == "val"  # the data's own name
    with pytest.raises(DataError, match=r"data\.splits\.test: .* has no split 'val2041'; did you mean 'val2014'\?"):
        train(small("from-scratch", *chosen, "data.splits.test=val2041").with_data(data), tmp_path / "other")


def test_other_data_are_evaluated_by_their_own_split_names(tmp_path: Path) -> None:
    recipe = small("from-scratch", "data.splits.test=val", "train.steps=1").with_data(draw_shapes(tmp_path / "data"))
    assert train(recipe, tmp_path / "run")["num_media"] == len(read_dataset(tmp_path / "data").split("val").media)
    other = renamed_shapes(tmp_path / "other", **NAMES)
    with pytest.raises(DataError, match=r"split 'test'; the splits are: val2014 .*also take --split val2014"):
        evaluate(tmp_path / "run", other)
    assert evaluate(tmp_path / "run", other, "VAL2014")["split"] == "val2014"


@pytest.mark.parametrize(("name", "number"), [("0", "0"), ("2014", "2014"), ("a b", "a b")])
def test_any_name_can_be_given(name: str, number: str, tmp_path: Path) -> None:
    recipe = load_recipe("catalogue", [f"data.splits.train={number}"])
    assert recipe.data.splits.train == name
    data = open_data(recipe.data, renamed_shapes(tmp_path / "data", train=name))
    assert "train" in data.split_names


def test_copies_between_splits_print_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw_shapes(tmp_path / "data")
    splits = {medium.split: medium.path for medium in read_dataset(data).media}
    (splits["test"]).write_bytes(splits["train"].read_bytes())
    train(small("from-scratch", "train.steps=1").with_data(data), tmp_path / "run")
    assert " media of test are in train too, byte by byte" in capsys.readouterr().out


def test_data_are_read_by_the_columns_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Bild;Text\na.jpg;ein Hut\n")
    settings = load_recipe("catalogue", ["data.columns.media=Bild"]).with_data(tmp_path / "a.csv").data
    assert open_data(settings).media[0].captions == ("ein Hut",)
    (tmp_path / "b.csv").write_text("Photo;Wort\nb.jpg;ein Rock\n")
    other = Data(columns=Columns(media="Photo", caption="Wort"))
    assert open_data(other, tmp_path / "b.csv").media[0].captions == ("ein Rock",)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("media=Bild,caption=Mein Text", Columns(media="Bild", caption="Mein Text")),
        ("media=Bild, klein , caption = a=b", Columns(media="Bild, klein", caption="a=b")),
        ("caption=x", Columns(caption="x")),
    ],
)
def test_columns_from_the_command_line(text: str, columns: Columns) -> None:
    assert parse_columns(text) == columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Bild", "--columns takes media=NAME,caption=NAME, or one of the two, not 'Bild'"),
        ("", "--columns takes media=NAME"),
        ("media=", "--columns takes media=NAME"),
        ("medium=Bild", "unknown key 'medium'; did you mean 'media'?"),
        ("media=a,media=b", "--columns names media twice"),
    ],
)
def test_wrong_columns_are_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_columns(text)


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos").symlink_to("/nowhere/photos")
    with pytest.raises(DataError, match=rf"{tmp_path}/photos is a link that leads nowhere, to /nowhere/photos"):
        open_data(Data(path=tmp_path / "photos"))
