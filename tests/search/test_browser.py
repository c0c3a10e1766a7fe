"""The local page in a real browser: with the keyboard only, with a picture, and without requests to other hosts."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Visit, faults, needs_chromium, open_browser
from PIL import Image
from tests_support import draw_shapes

from mmts.search import Searcher, build_index, open_searcher
from mmts.search.command import search
from mmts.search.serve import SearchServer

pytestmark = needs_chromium


class SearchVisit(Visit):
    def alts(self) -> list[str]:
        """Return the alternative texts of the results' pictures, once all are drawn."""
        self.page.wait_for_selector("li img")
        images = self.page.query_selector_all("li img")
        for image in images:
            image.scroll_into_view_if_needed()  # the browser fetches images when they come into view
            image.evaluate("image => image.decode()")
        return [str(image.get_attribute("alt")) for image in images]


@pytest.fixture
def visit(searcher: Searcher) -> Iterator[SearchVisit]:
    with SearchServer(searcher, 0, 6) as server, open_browser() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        visit = SearchVisit(browser.new_page(), address)
        yield visit
        server.shutdown()
    assert not visit.said
    assert all(request.startswith((address, "data:", "blob:")) for request in visit.requests)


def test_a_search_needs_only_the_keyboard(visit: SearchVisit, photos: Path) -> None:
    page, names = visit.page, {file.relative_to(photos).as_posix() for file in photos.rglob("*.png")}
    page.wait_for_selector("#q:focus")  # by itself, a moment after the page is there
    page.keyboard.type("a red square")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=a+red+square")
    assert len(visit.alts()) == 6
    assert set(visit.alts()) <= names
    seen = []
    page.focus("#q")
    for _ in range(4):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert seen[:2] == ["Search", "file"]
    assert seen[3].startswith("More like this")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?like=*")
    assert len(visit.alts()) == 6


def test_a_picture_is_chosen_and_dropped(visit: SearchVisit, photos: Path) -> None:
    page = visit.page
    page.set_input_files("#file", photos / "7.png")
    page.wait_for_selector(".query")  # until then the page shows its first items
    assert visit.alts()[0] == "7.png"
    drop = """content => {
        const file = new File([Uint8Array.from(content)], "dropped.png", {type: "image/png"});
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(file);
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    }"""
    found, other = page.url, io.BytesIO()
    Image.new("RGB", (20, 24), "orange").save(other, "PNG")
    assert "?like=" in found
    page.evaluate(drop, [*(photos / "5.png").read_bytes()])
    page.wait_for_selector("li:first-child img[alt='5.png']")
    page.go_back()
    page.wait_for_selector("li:first-child img[alt='7.png']")
    assert page.url == found
    page.evaluate(drop, [*other.getvalue()])
    page.wait_for_selector(".query[alt='your picture']")
    first, address = visit.alts(), page.url
    page.goto(visit.address)
    page.goto(address)
    assert visit.alts() == first


def test_a_file_that_is_not_a_picture_gets_an_error(visit: SearchVisit, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    visit.page.set_input_files("#file", tmp_path / "no.png")
    visit.page.wait_for_selector(".problem")
    assert "is not an image" in visit.page.inner_text(".problem")
    visit.said = [line for line in visit.said if "422" not in line]  # Chromium logs every such answer


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_width_needs_scrolling_sideways(visit: SearchVisit, scheme: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=scheme)
    for query in ("", "?q=a+blue+bar", "?like=gone"):
        visit.page.goto(visit.address + query)
        assert query == "?like=gone" or visit.alts()
        assert not faults(visit.page)
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")


def test_show_more_appends_items_below(visit: SearchVisit) -> None:
    page = visit.page
    page.set_viewport_size({"width": 390, "height": 500})
    first = visit.alts()
    assert len(first) == 6
    assert page.inner_text(".summary") == "6 of 12 images, chosen at random"
    page.locator(".more").scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    assert before > 300
    page.locator(".more").press("Enter")
    page.wait_for_selector("li:nth-child(12)")
    assert page.evaluate("scrollY") == before
    assert page.url == f"{visit.address}?k=12"
    assert page.evaluate("document.activeElement === document.querySelector('li:nth-child(7) a')")
    assert visit.alts()[:6] == first
    assert len({*visit.alts()}) == 12
    assert page.locator(".more").count() == 0
    page.click("li:nth-child(9) a[href*=like]")
    page.wait_for_url("**/?like=*")
    page.go_back()
    page.wait_for_selector("li:nth-child(12)")


def test_a_picture_that_is_gone_is_replaced_by_a_note(visit: SearchVisit, photos: Path) -> None:
    (photos / "7.png").unlink()
    visit.page.goto(f"{visit.address}?k=12")
    visit.page.locator("li .none").scroll_into_view_if_needed()
    visit.page.wait_for_selector("li .none:has-text('can no longer be read')")
    assert visit.page.locator("li img").count() == 11
    visit.said = [line for line in visit.said if "404" not in line]  # Chromium logs every such answer


def test_a_filter_is_chosen_typed_and_removed(run: Path, tmp_path: Path) -> None:
    build_index(run, run.parent / "shapes", tmp_path / "index")
    with SearchServer(open_searcher(run, tmp_path / "index"), 0, 6) as server, open_browser() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        visit = SearchVisit(browser.new_page(), f"http://127.0.0.1:{server.server_port}/?q=a+shape")
        page = visit.page
        page.click(".filter summary")
        assert not faults(page)
        page.click(".filter a:has-text('bar')")
        page.wait_for_url("**/?q=a+shape&where=shape%3Dbar")
        page.click(".filter summary")
        page.fill(".filter input", "split=test")
        page.press(".filter input", "Enter")
        page.wait_for_url("**/?q=a+shape&where=shape%3Dbar&where=split%3Dtest")
        page.click(".conditions a:has-text('shape=bar')")
        page.wait_for_url("**/?q=a+shape&where=split%3Dtest")
        page.click("li:first-child summary")
        assert "test" in page.inner_text("li:first-child dl")
        server.shutdown()
    assert not visit.said


def test_labels_and_long_captions_fit_and_are_escaped(run: Path, tmp_path: Path) -> None:
    draw_shapes(tmp_path / "data", 4)
    lines = [json.loads(line) for line in (tmp_path / "data" / "captions.jsonl").read_text().splitlines()]
    for line, caption in zip(
        lines, ("w" * 2000, "<b>bold</b>", "\u05d7\u05d5\u05dc\u05e6\u05d4 1", "a shoe"), strict=True
    ):
        line |= {"captions": [caption], "labels": {"price": "<i>9</i>", "w" * 200: "v" * 500}}
    (tmp_path / "data" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build_index(run, tmp_path / "data", tmp_path / "index")
    page_file = tmp_path / "found.html"
    search(run, "a shoe", None, k=100, page=page_file, folder=tmp_path / "index")
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(page_file.as_uri())
        assert not faults(page)
        assert page.locator("li").count() == 4
        assert page.locator("li b, li i").count() == 0
        assert "price: <i>9</i>" in page.inner_text("li:first-child .labels")
        page.click("li:first-child summary")
        assert not faults(page)
        assert "v" * 500 in page.inner_text("li:first-child dl")  # whole, where the line above is cut
        assert page.locator("li b, li i").count() == 0
        page.close()
