"""The section on zero-shot classification: its figures, what it leaves out, foreign text, and the commands."""

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import FIXED, SHIFTED, draw_pictures, recipe, write_run
from test_report_page import EVIL, Tags, text_of

from mmts.evaluation.classification import PROMPTS
from mmts.recipe.run_directory import RunDirectory
from mmts.report import write_report

NAMES = ["cup", "lamp", "vase", "owl"]
TRUE = np.arange(30) % 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("classes") / "data"
    return folder, draw_pictures(folder, 30)


def classify(run: Path, answers: Any, **about: Any) -> Path:
    """Give a run a classification of its 30 media, ten each of cup, lamp and vase."""
    file = RunDirectory(run).judgement_file
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    known = {"label": "thing", "names": NAMES, "num_training": [500, 50, 5, 0], "templates": [*PROMPTS], **about}
    meta = json.loads(str(arrays["meta"])) | {"classes": known}
    arrays |= {"class_target": TRUE, "class_top": np.array(answers)[:, None], "meta": np.array(json.dumps(meta))}
    np.savez_compressed(file, **arrays)
    return run


def two_runs(folder: Path, data: tuple[Path, list[str]], **about: Any) -> list[Path]:
    """Write a rule that takes each vase for a lamp, and one that is right but for four vases that it takes for cups."""
    better = np.where((TRUE == 2) & (np.arange(30) < 12), 0, TRUE)
    return [
        classify(write_run(folder / "fixed", recipe("fixed", FIXED), *data), np.minimum(TRUE, 1), **about),
        classify(write_run(folder / "mm-ts", recipe("mm-ts", SHIFTED), *data), better, **about),
    ]


def page_of(*runs: Path) -> str:
    return write_report(runs, runs[0].parent / "report.html").read_text(encoding="utf-8")


def section_of(page: str) -> str:
    return re.findall(r'<section id="classes">.*?</section>', page, re.S)[0]


def test_runs_that_were_not_classified_have_no_section(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    page = page_of(write_run(tmp_path / "run", recipe(), *data))
    assert "Classification by" not in page
    assert "#classes" not in page


def test_figures_groups_and_confusions_are_shown(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = two_runs(tmp_path, data)
    page = page_of(*runs)
    Tags(page)
    section = section_of(page)
    text = text_of(section)
    assert "Each of 30 images is classified, without training for it, as the one of 4 classes" in text
    assert re.search(r"top-1 30 66\.7 \[\S+ \S+\] 86\.7 \[\S+ \S+\] difference \+20\.0 \(", text)
    assert re.search(r"few \(< 20\) 10 0\.0 \[0\.0, 0\.0\] 60\.0 \[\S+ \S+\] difference \+60\.0 \(", text)
    assert "lowest accuracy of fixed vase 5 10 0.0 60.0" in text
    assert "vase taken for lamp 10 of 10 images; training media: 5 and 50" in text
    assert "vase taken for cup 4 of 10 images; training media: 5 and 500" in text
    assert section.count('<img src="data:image/') == 5 + 4
    assert '<a href="#classes">Classes</a>' in page


def test_what_is_missing_is_said(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    other = write_run(tmp_path / "other", recipe("other", SHIFTED), *data)
    first = classify(write_run(tmp_path / "first", recipe(), *data), TRUE, num_training=[500, 50, 40, 0])
    text = text_of(section_of(page_of(first, other)))
    assert "Not classified, or with other classes: other" in text
    assert "Left out: no class that was judged has fewer than 20 training media." in text
    text = text_of(section_of(page_of(other, first)))  # the first rule has no figures, and nothing to compare with
    assert "lowest accuracy of first" in text
    assert "difference" not in text
    text = text_of(section_of(page_of(first, classify(other, TRUE, templates=["a {}"]))))
    assert "Classified with templates other than those below: other" in text


def test_a_rule_without_confusions_says_so(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    run = classify(write_run(tmp_path / "run", recipe(), *data), TRUE)
    assert "no wrong answer for a class with fewer than 20 training media." in text_of(section_of(page_of(run)))


def test_names_labels_and_templates_are_escaped(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    names = [f"{EVIL} {name}" for name in NAMES]
    about = {"names": names, "label": EVIL[:36], "templates": [f"{EVIL} {{}}"]}
    page = page_of(*two_runs(tmp_path, data, **about))
    assert EVIL[:36] not in page
    assert not [tag for tag, attributes in Tags(page).tags if tag == "script" and attributes]
    assert len(re.findall("<script>", page)) == 1


def test_the_commands_classify_again(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    page = html.unescape(page_of(*two_runs(tmp_path, data, templates=["it's {}", "a {}"])))
    command = next(line for line in page.splitlines() if "printf" in line).removeprefix("  <pre>")
    assert shlex.split(command) == ["printf", "%s\\n", "it's {}", "a {}", ">", "prompts-1.txt"]
    assert "mmts evaluate again/fixed --classify thing --prompts prompts-1.txt\n" in page
    own = recipe("own", FIXED, evaluation={"classify": "thing"})
    page = page_of(classify(write_run(tmp_path / "own", own, *data), TRUE))
    assert "--classify" not in page
