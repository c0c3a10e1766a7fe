"""README and docs are right: their code runs, their links lead to files, their recipe keys exist."""

import doctest
import re
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tests_support import draw_shapes

from docs import write_reference
from mmts.apps.analysis import write_captions
from mmts.concepts.density import Scale
from mmts.concepts.encoders import open_encoder
from mmts.errors import RecipeError
from mmts.policies import POLICIES, Fixed
from mmts.recipe.recipe import load_recipe, shipped_recipes
from mmts.recipe.sections import Sampling
from mmts.training.run import train

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "reference" / "rules.md"]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_code_of_the_front_pages_runs_and_prints_what_it_says(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
        assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\)  # (.*)", block)


def test_the_readme_is_short_and_its_sentences_are_too() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page.count("\n") <= 150
    prose = re.sub(r"```.*?```|^\|.*?$|\]\(.*?\)", "", page, flags=re.DOTALL | re.MULTILINE)
    assert [each for each in re.split(r"(?<=[.:;?])\s+|\n\n|\n\*", prose) if len(each.split()) > 25] == []


def test_the_examples_of_adding_things_run() -> None:
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    page = ROOT / "docs" / "adding.md"
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=options, encoding="utf-8")
    assert tried
    assert not failed  # doctest prints the differences


def test_training_accepts_concepts_made_as_scaling_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw_shapes(tmp_path / "shapes")
    (data / "images" / "1.png").write_bytes(b"")  # unreadable, so training leaves its captions out
    monkeypatch.chdir(tmp_path)
    write_captions(data, Path("captions.txt"))
    np.save("text.npy", open_encoder("minilm")(Path("captions.txt").read_text().split("\n")[:-1]))
    settings = ["concepts={source: file, file: concepts.npz}", "train.epochs=0", "data.max_unreadable=0.1"]
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)):
        exec(block.replace("openai/clip-vit-base-patch32", "minilm").replace("1000", "4"), names)
        train(load_recipe("catalogue", settings).with_data(data), tmp_path / f"run-{number}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_docs_are_real_keys(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for key, value in re.findall(r"--set '?([a-z_.]+)=(\{(?:[^{}]|\{[^{}]*\})*\}|[\w.-]+)", text):
        assert any(accepts(name, f"{key}={value}") for name in shipped_recipes()), f"{key}={value}"


def accepts(recipe: str, setting: str) -> bool:
    try:
        load_recipe(recipe, [setting])
    except RecipeError:
        return False
    return True


needs_311 = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 writes the names of classes in types differently"
)


@needs_311
def test_the_reference_is_up_to_date() -> None:
    for name, text in write_reference.pages().items():
        assert (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8") == text, "run `make reference`"


def test_a_new_rule_needs_a_row_with_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "cooling", Fixed)
    with pytest.raises(SystemExit, match="needs one Place for each policy: cooling"):
        write_reference.rules_page()


def test_every_way_of_sampling_and_every_form_of_the_shift_has_a_row() -> None:
    page = (ROOT / "docs" / "reference" / "rules.md").read_text(encoding="utf-8")
    for key in Sampling.model_fields.keys() - {"by", "start", "end"}:
        assert re.search(rf"data\.sampling[.=]\{{?{key}\b", page), key
    for scale in set(get_args(Scale)) - {"linear"}:
        assert f"scale: {scale}" in page


@needs_311
def test_every_recipe_key_is_explained() -> None:
    page = write_reference.recipe_page()
    assert "| None |" not in page
    for key in ("min_relevance", "on_nan", "scale_by_temperature", "neighbours", "boundaries"):
        assert f"| `{key}` |" in page


def test_every_command_and_option_is_in_the_reference() -> None:
    page = write_reference.commands_page()
    assert "## mmts sweep" in page
    assert "| `-k K` | `10` | Number of items to find. |" in page
    assert "mmts train [RECIPE] [OPTIONS]" in page
    assert "mmts evaluate MODEL [OPTIONS]" in page


def test_every_shipped_recipe_begins_with_its_command() -> None:
    for name, text in shipped_recipes().items():
        assert text.startswith("# mmts "), name


def test_every_path_of_the_code_map_exists() -> None:
    page = (ROOT / "docs" / "code-map.md").read_text()
    paths = re.findall(r"`([\w/]+(?:/|\.\w+))`", page)
    assert len(paths) > 50
    folder = ""
    for path in paths:
        if path.endswith("/"):
            folder = path
        places = (ROOT, ROOT / "src" / "mmts", ROOT / "src" / "mmts" / folder)
        assert any((place / path).exists() for place in places), path
