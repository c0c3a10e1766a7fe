"""The site of docs/ as it is built: every link and formula is right, and a browser needs nothing from elsewhere."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
for package in ("sphinx", "myst_parser", "furo", "latex2mathml", "ziamath"):
    pytest.importorskip(package, reason="needs what builds the site (pip install mmts[docs])")


def build(docs: Path, out: Path) -> str:
    """Build as `make docs` does, and return what Sphinx had to say."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-d", f"{out}-doctrees", docs, out]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    assert build(ROOT / "docs", out) == ""
    return out


def test_every_page_is_built_and_listed(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        address = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / address).is_file()
        assert f'href="{address}"' in start or address == "index.html"


def test_every_formula_of_the_method_is_mathml(site: Path) -> None:
    text = re.sub(r"`[^`]*`", "", (ROOT / "docs" / "method.md").read_text(encoding="utf-8"))
    page = (site / "method.html").read_text(encoding="utf-8")
    assert page.count("<math") == len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, flags=re.DOTALL)) > 300
    assert not re.search(r"\\[a-zA-Z]", re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL))  # no TeX is left


def test_a_broken_link_and_a_broken_anchor_are_errors(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("conf.py", "site.css"):
        shutil.copy(ROOT / "docs" / name, docs)
    (docs / "index.md").write_text("# A\n\n[one](gone.md) [two](#gone)\n", encoding="utf-8")
    said = build(docs, tmp_path / "site")
    assert "gone.md" in said
    assert "'gone'" in said


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_a_browser_opens_it_from_disk_and_asks_nobody_else(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        said, asked = listen(page)
        for name in ("index", "start", "method", "leaderboard", "reference/recipe", "reference/commands", "notebook"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.goto((site / "method.html").as_uri())
        page.evaluate("document.fonts.ready")
        assert page.evaluate("document.fonts.check('16px \"STIX Two Math\"')")
        page.goto((site / "search.html").as_uri() + "?q=temperature")
        page.wait_for_selector("#search-results li a")
        browser.close()
    assert said == []
    assert [each for each in asked if not each.startswith(("file:", "data:"))] == []


def listen(page: Any) -> tuple[list[str], list[str]]:
    """Return two lists that fill up with what the page says on its console and with what it asks for."""
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    return said, asked
