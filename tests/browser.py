"""Headless Chromium for the tests of pages, which are skipped if Chromium or playwright is missing."""

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
    """A page in a browser, with the messages of its console (`said`) and the addresses that it requested."""

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
    """Yield a browser, and close it at the end of the block."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


# Elements that stick out of the page or whose text has too little contrast (WCAG), by their tag and first words.
_FAULTS = """() => {
    const numbers = (color) => color.match(/[0-9.]+/g).map(Number);
    const luminance = (color) => {
        const linear = (value) => value <= .04 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
        const [red, green, blue] = numbers(color).map((value) => linear(value / 255));
        return .2126 * red + .7152 * green + .0722 * blue + .05;
    };
    const background = (element) => {
        const color = element ? getComputedStyle(element).backgroundColor : "rgb(255, 255, 255)";
        return numbers(color)[3] === 0 ? background(element.parentElement) : color;
    };
    const faults = new Set();
    for (const element of document.querySelectorAll("body *")) {
        const { left, right, width } = element.getBoundingClientRect(), style = getComputedStyle(element);
        if (!width || style.visibility === "hidden" || element.closest(".hidden, title")) continue;
        const words = `${element.tagName} ${element.textContent.trim().slice(0, 30)}`;
        if ((left < -1 || right > document.documentElement.clientWidth + 1) && !element.closest(".scroll, pre"))
            faults.add(`sticks out: ${words}`);
        if (![...element.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
        const color = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
        const pair = [luminance(color), luminance(background(element))];
        if (Math.max(...pair) / Math.min(...pair) < 4.5) faults.add(`contrast: ${words}`);
    }
    return [...faults];
}"""


def faults(page: Any) -> list[str]:
    """Return the elements that stick out of a page sideways and those whose text is hard to read for its color."""
    elements: list[str] = page.evaluate(_FAULTS)
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return elements + [f"the page scrolls sideways by {width}"] * (width > 0)
