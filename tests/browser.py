"""Headless Chromium for the tests of pages, which skip where it or playwright is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Visit:
    """A page in a browser, and what the browser said and asked for meanwhile."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.said: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)


@contextmanager
def open_browser() -> Iterator[Any]:
    """Yield a browser that closes with the block."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


# What sticks out of the page, and text whose contrast (WCAG) is too low, each once: an element and its first words.
_FAULTS = """() => {
    const numbers = (color) => color.match(/[0-9.]+/g).map(Number);
    const light = (color) => {
        const linear = (each) => each <= .04 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4;
        const [red, green, blue] = numbers(color).map((each) => linear(each / 255));
        return .2126 * red + .7152 * green + .0722 * blue + .05;
    };
    const behind = (each) => {
        const color = each ? getComputedStyle(each).backgroundColor : "rgb(255, 255, 255)";
        return numbers(color)[3] === 0 ? behind(each.parentElement) : color;
    };
    const found = new Set();
    for (const each of document.querySelectorAll("body *")) {
        const { left, right, width } = each.getBoundingClientRect(), style = getComputedStyle(each);
        if (!width || style.visibility === "hidden" || each.closest(".hidden, title")) continue;
        const words = `${each.tagName} ${each.textContent.trim().slice(0, 30)}`;
        if ((left < -1 || right > document.documentElement.clientWidth + 1) && !each.closest(".scroll, pre"))
            found.add(`sticks out: ${words}`);
        if (![...each.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
        const pair = [light(each.namespaceURI.endsWith("svg") ? style.fill : style.color), light(behind(each))];
        if (Math.max(...pair) / Math.min(...pair) < 4.5) found.add(`contrast: ${words}`);
    }
    return [...found];
}"""


def faults(page: Any) -> list[str]:
    """Return what sticks out of a page sideways, and the text that is hard to read for its color."""
    found: list[str] = page.evaluate(_FAULTS)
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found + [f"the page scrolls sideways by {width}"] * (width > 0)
