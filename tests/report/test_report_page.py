"""The page as a whole: its contents, what it must never contain, and pages of runs that lack something."""

import base64
import hashlib
import html
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_runs import FIXED, LEARNED, SHIFTED, draw_pictures, make_graded, recipe, three_rules, write_run

from mmts.errors import DataError, RunError
from mmts.recipe.recipe import save_recipe
from mmts.report import write_report

EVIL = "<script>alert(1)</script> \"quoted\" 'single' & \u0645\u0631\u062d\u0628\u0627 $a_b$ {0}"


VOID = {"meta", "img", "link", "br", "hr", "input"}


class Tags(HTMLParser):
    """Collects every tag with its attributes, and checks that tags close in the order they opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return three_rules(tmp_path_factory.mktemp("many"), num_media=60)


@pytest.fixture(scope="module")
def page(many: list[Path]) -> str:
    return write_report(many, many[0].parent / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "data", draw_pictures(tmp_path / "data", 30)


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.S)


def text_of(page: str) -> str:
    body = re.sub(r"<(style|svg|script).*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).replace("\xa0", " ").split())


def test_loads_nothing_from_anywhere(page: str) -> None:
    tags = Tags(page).tags
    assert not [tag for tag, _ in tags if tag in ("link", "iframe", "object", "embed", "base", "form")]
    assert [attributes for tag, attributes in tags if tag == "script"] == [{}]
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
        if tag != "a":
            assert (attributes.get("href") or "#").startswith("#")
    style = re.findall(r"<style>(.*?)</style>", page, re.S)
    assert len(style) == 1
    assert "@import" not in style[0]
    assert "url(" not in style[0]
    script = re.findall(r"<script>(.*?)</script>", page, re.S)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}';" in page
    assert not re.search(r"fetch|XMLHttp|import|innerHTML|eval", script)


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    tags = Tags(page).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert used
    assert set(used) <= set(ids)


def test_charts_are_well_formed_named_and_colored_by_the_page(page: str) -> None:
    charts = [svg for svg in svgs(page) if 'class="chart"' in svg]
    # The tail, temperatures and training; recall, differences and sizes both ways, gains of two rules; wide and narrow.
    assert len(charts) == 2 + 3 + 3 + 4 + 4 + 4 + 2 * 2
    for svg in charts:
        root = ElementTree.fromstring(svg)
        assert len(root.attrib["aria-label"]) > 20
        assert list(root.iter("text"))  # text stays text
        assert list(root.iter("title"))  # something to point at
        assert not re.search(r"#[0-9a-f]{6}\b(?!-)", " ".join(e.get("style", "") for e in root.iter()))
        assert "var(--" in svg
        assert "<style" not in svg


def test_shows_the_numbers_of_metrics_json(page: str, many: list[Path]) -> None:
    text = text_of(page)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in many]
    for direction in ("text_to_image", "image_to_text"):
        for first in (0, 3, 6):
            for k in ("R@1", "R@5", "R@10"):
                values = [run[direction][k] for run in metrics[first : first + 3]]
                mean = sum(values) / 3
                spread = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
                assert f"{mean:.1f} ± {spread:.1f}" in text
                tail = [run["groups"]["tail"][direction][k] for run in metrics[first : first + 3]]
                assert f"{sum(tail) / 3:.1f} ±" in text
    assert "3 seeds of each rule" in text


def test_names_concepts_rules_commands_and_versions(page: str) -> None:
    text = text_of(page)
    assert "red, circle, thing 0 400" in text
    assert "Temperature 0.07 throughout" in text
    assert "Temperature of 0.05 to 0.2 by concept size (linear), plus a cosine swing of 0.08 over 5 cycles" in text
    assert "for seed in 0 1 2; do mmts train" in text
    assert "torch 2.13.0" in text
    assert "OpenMoji" not in text


def test_the_gallery_marks_right_results_by_more_than_color(page: str) -> None:
    gallery = page[page.index('id="gallery"') : page.index('id="making"')]
    assert gallery.count("<article") == 12 + 12
    assert gallery.count("<img ") == 12 * 2 * 5 + 12
    assert gallery.count('class="right"') == gallery.count('<span class="hidden">right</span>') > 24
    assert len(re.findall("<li[ >]", gallery)) - 2 * 2 == gallery.count('<span class="hidden">') == 2 * 12 * 2 * 5
    assert {"head", "mid", "tail"} <= set(re.findall(r"</span> (\w+): <bdi>", gallery))
    assert gallery.count("training samples</p>") + gallery.count("training sample</p>") == 12 + 12


def test_same_runs_give_the_same_bytes_and_a_small_file(many: list[Path], page: str, tmp_path: Path) -> None:
    again = write_report(many, tmp_path / "report.html")
    assert again.read_text(encoding="utf-8") == page
    assert again.stat().st_size < 2_000_000


def test_foreign_text_is_escaped_everywhere(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    folder, captions = data
    captions = [EVIL, EVIL + "\x00\ud800", "word " * 10_000, *captions[3:]]
    names = [f"{EVIL} {at}" if at % 2 else f"</title><b>{at}</b>\x07" for at in range(20)]
    runs = [
        write_run(tmp_path / name, recipe(EVIL.replace("/", "") + name, rule), folder, captions, concept_names=names)
        for name, rule in (("a", FIXED), ("b", SHIFTED))
    ]
    page = write_report(runs, tmp_path / "report.html", title=EVIL).read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x00" not in page
    assert "word " * 100 not in page
    Tags(page)
    for svg in svgs(page):
        ElementTree.fromstring(svg)


def test_one_run_shows_its_intervals(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    run = write_run(tmp_path / "run", recipe("alone", SHIFTED), *data)
    text = text_of(write_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    metrics = json.loads((run / "metrics.json").read_text())
    low, high = metrics["intervals"]["text_to_image"]["R@5"]
    assert f"[{low:.1f}, {high:.1f}]" in text
    assert f"The right image comes first for {metrics['text_to_image']['R@1']:.1f} % of the captions" in text
    assert "the spread over seeds is unknown" in text
    assert "Differences" not in text


def test_missing_pieces_are_left_out_with_a_sentence(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    whole = write_run(tmp_path / "whole", recipe("whole", FIXED), *data)
    bare = write_run(tmp_path / "bare", recipe("bare", LEARNED), *data)
    for name in ("concepts.npz", "log.jsonl"):
        (bare / name).unlink()
    text = text_of(write_report([bare], tmp_path / "one.html").read_text(encoding="utf-8"))
    assert "has no concepts.npz" in text
    assert "neither concepts.npz nor log.jsonl" in text
    assert "have no log.jsonl" in text
    (bare / "judgement.npz").unlink()
    with pytest.raises(DataError, match=r"bare/judgement\.npz; `mmts evaluate` on the run writes it"):
        write_report([whole, bare], tmp_path / "two.html")


def test_videos_and_margins_without_validation(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = [
        write_run(
            tmp_path / f"{name}{seed}",
            recipe(name, seed=seed, objective={"loss": "max_margin", "margin": {"rule": rule}}),
            *data,
            kind="video",
            with_val=False,
        )
        for name, rule in (("margin", "fixed"), ("mm-ts", "shifted"))
        for seed in (0, 1)
    ]
    text = text_of(write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Margin over training" in text
    assert "Text to video" in text
    assert "Results of video queries" in text
    assert "Each clip is shown by its middle frame." in text
    assert "of the videos could not be read" in text  # they are pictures
    assert "had no validation data" in text


def test_missing_images_are_replaced_by_their_captions(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    run = write_run(tmp_path / "run", recipe("gone", FIXED), *data)
    shutil.rmtree(data[0] / "images")
    page = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert 'class="missing"' in page
    assert "could not be read when this page was written" in page


def test_openmoji_is_credited(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    (data[0] / "README.md").write_text("Pictures by OpenMoji, CC BY-SA 4.0")
    run = write_run(tmp_path / "run", recipe("emoji", FIXED), *data)
    page = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in page


def test_the_commands_make_new_runs_and_report_on_those(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = [
        write_run(tmp_path / "it's [x]" / folder / f"seed-{seed}", recipe(folder, rule, seed), *data)
        for folder, rule, seeds in (("fixed", FIXED, (3, 5)), ("mm ts", SHIFTED, (0,)))
        for seed in seeds
    ]
    page = write_report(runs, tmp_path / "my report.html").read_text(encoding="utf-8")
    commands = html.unescape(page[page.index("To run it again") :].split("pre>")[1]).removesuffix("</").splitlines()
    assert len(commands) == 3
    loop = shlex.split(commands[0])
    assert loop[:4] == ["for", "seed", "in", "3"]
    assert loop[4:10] == ["5;", "do", "mmts", "train", str(runs[0] / "recipe.yaml"), "--set"]
    assert loop[-3:] == ["--out", "again/fixed-seed$seed;", "done"]
    assert shlex.split(commands[1]) == ["mmts", "train", str(runs[2] / "recipe.yaml"), "--out", "again/mm-ts"]
    assert shlex.split(commands[2]) == [
        "mmts", "report", "again/fixed-seed3", "again/fixed-seed5", "again/mm-ts",
        "--out", "again/my report.html", "--names", "fixed,mm ts",
    ]  # fmt: skip


def test_objects_given_to_train_are_named_instead_of_what_the_recipe_says(
    tmp_path: Path, data: tuple[Path, list[str]]
) -> None:
    own = {"model": "mine:Net", "objective": "mine.losses:<Loss>\nrm -r ."}
    made_by = recipe("fixed", SHIFTED)
    run = write_run(tmp_path / "own", made_by, *data)
    save_recipe(made_by, run / "recipe.yaml", {}, own)
    page = write_report([run], tmp_path / "page.html").read_text(encoding="utf-8")
    text = text_of(page)
    words = "n objective given as an object of the class mine.losses:<Loss> rm -r ., on a model given as an object of"
    assert text.count(words) == 2  # at the top, and under "How the runs were made"
    assert "cosine swing" not in text  # of the rule in the recipe
    assert "The values are read from the log" in text
    commands = html.unescape(page[page.index("To run it again") :].split("pre>")[1]).removesuffix("</").splitlines()
    assert commands[0] == "# again/own: call mmts.train again with mine:Net and mine.losses:<Loss> rm -r ."
    assert commands[1].startswith("mmts report again/own --out")
    assert len(commands) == 2


def test_an_objective_given_as_an_object_has_the_values_that_its_run_logged(
    tmp_path: Path, data: tuple[Path, list[str]]
) -> None:
    run = write_run(tmp_path / "own", recipe("margin", objective={"loss": "max_margin"}), *data)
    save_recipe(recipe("own"), run / "recipe.yaml", {}, {"objective": "mmts.objectives.max_margin:MaxMargin"})
    assert "Margin with own" in write_report([run], tmp_path / "page.html").read_text(encoding="utf-8")


def test_runs_with_different_contents_still_make_a_page(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    whole = write_run(tmp_path / "whole", recipe("whole", FIXED), *data)
    lacking = write_run(tmp_path / "lacking", recipe("lacking", SHIFTED), *data)
    metrics = json.loads((lacking / "metrics.json").read_text())
    metrics["groups"]["tail"] = None
    metrics["text_to_image"]["R@1"] = float("nan")
    del metrics["intervals"]
    (lacking / "metrics.json").write_text(json.dumps(metrics))
    (lacking / "log.jsonl").write_text(
        '{"step": 0}\n{"progress": 0.1, "loss": NaN}\n{"progress": 0.5, "loss": 1.0, "val": null}\n'
        '{"progress": 0.7, "loss": 1.0, "val": {"text_to_image": {}}}\n'
    )
    for runs in ([whole, lacking], [lacking, whole], [lacking]):
        text = text_of(write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8"))
        assert "nan" not in text.lower().split()
    graded = make_graded(whole)
    text = text_of(write_report([graded, lacking], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "some runs were evaluated without mAP" in text


def test_the_page_names_paths_that_were_passed_over(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    run = write_run(tmp_path / "run", recipe("run", FIXED), *data)
    twin = write_run(tmp_path / "twin", recipe("run", FIXED), *data)
    (tmp_path / "page.html").write_text("")
    page = write_report([run, twin, tmp_path / "page.html"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "page.html is a file, not a run directory" in text_of(page)
    assert "twin has the recipe and the seed of" in text_of(page)
    assert "one run of one recipe" in text_of(page)


def test_names_that_are_equal_after_the_cut_are_numbered(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = [write_run(tmp_path / name, recipe(name, rule), *data) for name, rule in (("a", FIXED), ("b", SHIFTED))]
    page = write_report(runs, tmp_path / "report.html", names=["x" * 100, "x" * 99 + "y"])
    text = text_of(page.read_text(encoding="utf-8"))
    assert "1: xxx" in text
    assert "2: xxx" in text


def test_labels_divide_the_tables_and_list_their_values(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    run = write_run(tmp_path / "run", recipe("run", FIXED), *data)
    with np.load(run / "judgement.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    values = ["<b>cup</b>"] * 20 + ["vase"] * 10
    label = {"values": values, "training": {"<b>cup</b>": 900, "vase": 10}}
    arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | {"labels": {"<i>type": label}}))
    np.savez_compressed(run / "judgement.npz", **arrays)
    page = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert "<i>type: head 20 queries" in text
    assert "Text queries by <i>type" in text
    assert "<b>cup</b> 900 20" in text
    assert "<b>" not in page
    assert "--label '<i>type'" in text


def test_paths_that_are_not_judged_runs_are_refused(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    with pytest.raises(RunError, match="at least one"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(RunError, match="does not exist"):
        write_report([tmp_path / "nothing"], tmp_path / "report.html")
    image = write_run(tmp_path / "image", recipe("image", FIXED), *data)
    video = write_run(tmp_path / "video", recipe("video", FIXED), *data, kind="video")
    with pytest.raises(RunError, match="videos, not images"):
        write_report([image, video], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
