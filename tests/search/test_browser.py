"""The local page in a real browser: with the keyboard only, with a picture, and nothing from elsewhere."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmts.search import Searcher
from mmts.search.serve import SearchServer

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Visit:
    """A page of the server in a browser, and what the browser said and asked for meanwhile."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.said: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)

    def alts(self) -> list[str]:
        """Return the alternative texts of the pictures found, once all are drawn."""
        self.page.wait_for_selector("li img")
        found = self.page.query_selector_all("li img")
        for each in found:
            each.scroll_into_view_if_needed()  # those out of sight are fetched then
            each.evaluate("each => each.decode()")
        return [str(each.get_attribute("alt")) for each in found]


@pytest.fixture
def visit(searcher: Searcher) -> Iterator[Visit]:
    with SearchServer(searcher, 0, 6) as server, playwright.sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        address = f"http://127.0.0.1:{server.server_port}/"
        visit = Visit(browser.new_page(), address)
        yield visit
        browser.close()
        server.shutdown()
    assert not visit.said
    assert all(each.startswith((address, "data:", "blob:")) for each in visit.requests)


def test_a_query_is_typed_and_answered_with_the_keyboard_only(visit: Visit, photos: Path) -> None:
    page, names = visit.page, {file.relative_to(photos).as_posix() for file in photos.rglob("*.png")}
    page.keyboard.type("a red square")  # the field has the focus
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


def test_a_picture_is_chosen_and_dropped(visit: Visit, photos: Path) -> None:
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


def test_a_file_that_is_no_picture_is_said(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    visit.page.set_input_files("#file", tmp_path / "no.png")
    visit.page.wait_for_selector(".problem")
    assert "is not an image" in visit.page.inner_text(".problem")
    visit.said = [each for each in visit.said if "422" not in each]  # Chromium notes every such answer


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_width_needs_scrolling_sideways(visit: Visit, scheme: str, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=scheme)
    visit.page.goto(f"{visit.address}?q=a+blue+bar")
    assert visit.alts()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")
