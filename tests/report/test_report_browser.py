"""The page in a real browser: opened from disk, wide and narrow, light and dark, read with mouse, keys and finger."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from browser import Visit, faults, needs_chromium, open_browser
from fake_runs import FIXED, SHIFTED, draw_pictures, recipe, write_run

from mmts.report import write_report

pytestmark = needs_chromium
EVIL = "<script>window.planted = 1</script><img src=x onerror='window.planted = 1'>"
BACKGROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose captions, concepts and rules hold scripts."""
    folder = tmp_path_factory.mktemp("browser")
    captions = [f"{EVIL} {caption}" for caption in draw_pictures(folder / "data", 80)]
    runs = [
        write_run(
            folder / f"{name}{seed}", recipe(name + EVIL.replace("/", ""), rule, seed), folder / "data", captions,
            skill=skill, concept_names=[f"{EVIL} {at}" for at in range(8)],
        )
        for name, rule, skill in (("fixed", FIXED, 0.0), ("mm-ts", SHIFTED, 0.3))
        for seed in (0, 1)
    ]  # fmt: skip
    return write_report(runs, folder / "report.html", title=EVIL)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any, file: Path) -> Iterator[Visit]:
    """The page on a phone; closed without a word from it, and with no request but for itself."""
    page = browser.new_page(viewport={"width": 390, "height": 800}, has_touch=True)
    visit = Visit(page, file.as_uri())
    yield visit
    page.close()
    assert not visit.said
    assert [address for address in visit.requests if not address.startswith("data:")] == [file.as_uri()]


def readings(file: Path, chart: str) -> list[tuple[str, list[str]]]:
    """Return the places of a chart's tooltips in the file, in order, each with the values of its points."""
    svg = next(svg for svg in re.findall(r"<svg.*?</svg>", file.read_text(encoding="utf-8"), re.S) if chart in svg)
    places: dict[str, list[str]] = {}
    for title in ElementTree.fromstring(svg).iter("title"):
        value, where = str(title.text).split("\n")
        places.setdefault(where, []).append(value)
    return list(places.items())


def shown(page: Any) -> tuple[str, list[str]] | None:
    """Return the place and the values that the page shows now."""
    if page.is_hidden(".tip"):
        return None
    return page.inner_text(".tip p"), [line.strip() for line in page.locator(".tip div").all_inner_texts()]


def middle(page: Any, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_visible_and_fits(visit: Visit, width: int, scheme: str) -> None:
    page = visit.page
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    figures = page.locator("svg.chart:visible")
    assert figures.count() == 1 + 2 + 3 + 2 + 2 + 2 + 1  # tail, values, training, recall, differences, sizes, concepts
    boxes = page.evaluate(
        """[...document.querySelectorAll("svg.chart, .queries img, :not(.scroll) > table, .shares")]
        .map((element) => element.getBoundingClientRect()).filter((box) => box.width || box.height)
        .map((box) => [box.left, box.right, box.width, box.height])"""
    )
    assert len(boxes) > 100
    for left, right, wide, high in boxes:
        assert wide > 10
        assert high > 10
        assert left >= 0
        assert right <= width
    assert not faults(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == BACKGROUNDS[scheme]
    assert all(page.evaluate("[...document.images].map((image) => image.naturalWidth > 0)"))


def test_the_mouse_reads_values(visit: Visit, file: Path) -> None:
    page = visit.page
    chart = page.locator("#values svg.chart").nth(1)
    chart.scroll_into_view_if_needed()
    assert shown(page) is None
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 5)  # beyond the last point
    where, values = readings(file, 'id="value1-')[-1]
    assert where == "at 100 % of training"
    assert [value.split(":")[0] for value in values] == ["head", "mid", "tail"]
    assert shown(page) == (where, values)
    page.mouse.move(box["x"] + 1, box["y"] + 5)
    assert shown(page) == readings(file, 'id="value1-')[0]
    page.mouse.move(box["x"] - 8, box["y"] + 5)
    assert shown(page) is None


def test_the_keyboard_reads_values(visit: Visit, file: Path) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    page.evaluate("document.querySelectorAll('nav a')[6].focus()")  # past the links
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    sizes = readings(file, 'id="tail-narrow-')
    assert shown(page) == sizes[0]
    assert sizes[0] == ("concept 1 of 8", [f"{EVIL} 0"[:59].rstrip() + "…: 400 samples"])
    for key, at in (("ArrowRight", 1), ("ArrowDown", 2), ("ArrowLeft", 1), ("End", 7), ("ArrowRight", 7), ("Home", 0)):
        page.keyboard.press(key)
        assert shown(page) == sizes[at]
    page.keyboard.press("Escape")
    assert shown(page) is None


def test_a_finger_reads_values(visit: Visit, file: Path) -> None:
    page = visit.page
    for chart in page.locator("svg.chart:visible").all():
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.touchscreen.tap(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
        assert shown(page) in readings(file, f'id="{chart.evaluate("chart => chart.querySelector(`[id]`).id")}"')
        tip = page.locator(".tip").bounding_box()
        assert tip["x"] >= 0
        assert tip["x"] + tip["width"] <= 390
    page.locator("h2").first.tap()
    assert shown(page) is None


def test_rows_of_one_part_share_a_tooltip(visit: Visit, file: Path) -> None:
    chart = visit.page.locator("#results .narrow svg.chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2)
    reading = shown(visit.page)
    assert reading in readings(file, 'id="recall0-narrow-')
    assert reading is not None
    assert reading[0] == "all"
    assert len(reading[1]) == 2


def test_a_script_in_a_caption_does_not_run(visit: Visit) -> None:
    page = visit.page
    assert page.evaluate("window.planted") is None
    assert page.locator("script").count() == 1
    assert page.title() == EVIL
    assert EVIL in page.locator("#gallery q").first.inner_text()


def test_the_policy_lets_no_other_script_run(visit: Visit) -> None:
    visit.page.evaluate(
        """document.body.append(Object.assign(document.createElement("script"), {textContent: "window.planted = 1"}))"""
    )
    assert visit.page.evaluate("window.planted") is None
    assert "Content Security Policy" in visit.said.pop()


LONG = {
    "word": "w" * 90,
    "hyphens": "a-very-long-name-" * 6,
    "right-to-left": "\u05d7\u05d5\u05dc\u05e6\u05d4 \u05d0\u05d3\u05d5\u05de\u05d4",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Reports that are hard to lay out: long names without spaces, five rules, no pictures, one query."""
    folder = tmp_path_factory.mktemp("odd")
    captions = draw_pictures(folder / "data", 40)
    captions[:3] = [f"{name} {at}" for at, name in enumerate(LONG.values())]
    rules = [*LONG.values(), *(f"rule {at}" for at in range(2))]
    runs = [
        write_run(
            folder / f"run{at}", recipe(name, {"rule": "fixed", "value": 0.05 + 0.01 * at}), folder / "data", captions,
            concept_names=[*LONG.values(), "thing"],
        )
        for at, name in enumerate(rules)
    ]  # fmt: skip
    lone = [
        write_run(folder / f"lone{at}", recipe(f"rule {at}"), folder / "data", captions[:1], num_concepts=1)
        for at in range(2)
    ]
    many = write_report(runs, folder / "many.html")
    (folder / "data" / "images").rename(folder / "gone")
    return [many, write_report(runs[:2], folder / "missing.html"), write_report(lone, folder / "lone.html")]


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_long_names_and_missing_pictures_fit(browser: Any, odd: list[Path], width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for file in odd:
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        assert not faults(page), file.name
        first = page.evaluate(
            "[...document.querySelectorAll('.answer li:first-child')].map((item) => item.getBoundingClientRect().width)"
        )
        assert min(first) >= 80
        names = page.locator(".results th bdi, .changes td bdi").all()
        lines = [name.evaluate("name => name.getClientRects().length") for name in names]
        assert max(lines) <= 5  # a name is not squeezed into a narrow column
    assert "1 caption as a query, with the first five images" in page.inner_text("#gallery")
    page.close()


@pytest.mark.parametrize("width", [320, 660, 1200])
def test_a_short_name_of_a_rule_stays_in_one_line_beside_long_ones(tmp_path: Path, browser: Any, width: int) -> None:
    captions, names = draw_pictures(tmp_path / "data", 80), ["before", "a-tuned-rule-with-a-long-name"]
    concepts = [f"{at} people standing sitting elephants motorcycles somewhere" for at in range(40)]
    runs = [
        write_run(tmp_path / name, recipe(name, rule), tmp_path / "data", captions, skill=skill, concept_names=concepts)
        for name, rule, skill in zip(names, (FIXED, SHIFTED), (0.0, 0.3), strict=True)
    ]
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(write_report(runs, tmp_path / "report.html").as_uri())
    short, long = (page.locator(".changes th bdi").nth(at).bounding_box() for at in (0, 1))
    page.close()
    assert short["height"] < 30 < long["height"]
    assert short["x"] + short["width"] <= long["x"]


def test_a_note_beside_a_rule_takes_no_room_from_the_answers(visit: Visit) -> None:
    notes = visit.page.evaluate(
        """[...document.querySelectorAll(".answer p > span:nth-child(2)")]
        .map((note) => [note, note.closest(".answer").querySelector("ol")].map((box) => box.getBoundingClientRect()))
        .map(([note, answers]) => [note.bottom, answers.top])"""
    )
    assert len(notes) > 5
    assert all(bottom <= top for bottom, top in notes)
