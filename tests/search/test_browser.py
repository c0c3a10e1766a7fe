"""The local page in a real browser: with the keyboard only, with a picture, and nothing from elsewhere."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Visit, needs_chromium, open_browser

from mmts.search import Searcher
from mmts.search.serve import SearchServer

pytestmark = needs_chromium


class SearchVisit(Visit):
    def alts(self) -> list[str]:
        """Return the alternative texts of the pictures found, once all are drawn."""
        self.page.wait_for_selector("li img")
        found = self.page.query_selector_all("li img")
        for each in found:
            each.scroll_into_view_if_needed()  # those out of sight are fetched then
            each.evaluate("each => each.decode()")
        return [str(each.get_attribute("alt")) for each in found]


@pytest.fixture
def visit(searcher: Searcher) -> Iterator[SearchVisit]:
    with SearchServer(searcher, 0, 6) as server, open_browser() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        visit = SearchVisit(browser.new_page(), address)
        yield visit
        server.shutdown()
    assert not visit.said
    assert all(each.startswith((address, "data:", "blob:")) for each in visit.requests)


def test_a_query_is_typed_and_answered_with_the_keyboard_only(visit: SearchVisit, photos: Path) -> None:
    page, names = visit.page, {file.relative_to(photos).as_posix() for file in photos.rglob("*.png")}
    page.wait_for_function("document.activeElement.id === 'q'")  # by itself, a moment after the page is there
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
    assert visit.alts()[0] == "7.png"
    drop = """content => {
        const file = new File([Uint8Array.from(content)], "dropped.png", {type: "image/png"});
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(file);
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(drop, [*(photos / "5.png").read_bytes()])
    page.wait_for_selector("li:first-child img[alt='5.png']")
    assert page.get_attribute(".asked", "alt") == "the picture that was asked for"


def test_a_file_that_is_no_picture_is_said(visit: SearchVisit, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    visit.page.set_input_files("#file", tmp_path / "no.png")
    visit.page.wait_for_selector(".problem")
    assert "is not an image" in visit.page.inner_text(".problem")
    visit.said = [each for each in visit.said if "422" not in each]  # Chromium notes every such answer


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_width_needs_scrolling_sideways(visit: SearchVisit, scheme: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=scheme)
    visit.page.goto(f"{visit.address}?q=a+blue+bar")
    assert visit.alts()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")
