"""The built site of docs/: links and formulas are right, and a browser needs nothing from other hosts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from browser import Visit, needs_chromium, open_browser

ROOT = Path(__file__).parent.parent
for package in ("sphinx", "myst_parser", "furo", "latex2mathml", "ziamath"):
    pytest.importorskip(package, reason="needs the packages that build the site (pip install mmts[docs])")


def build(docs: Path, out: Path) -> str:
    """Build as `make docs` does and return the warnings of Sphinx."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-d", f"{out}-doctrees", docs, out]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    assert build(ROOT / "docs", out) == ""
    return out


def test_every_page_is_built_and_listed(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        address = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / address).is_file()
        assert f'href="{address}"' in index or address == "index.html"


def test_every_formula_of_the_method_is_mathml(site: Path) -> None:
    text = re.sub(r"`[^`]*`", "", (ROOT / "docs" / "method.md").read_text(encoding="utf-8"))
    page = (site / "method.html").read_text(encoding="utf-8")
    assert page.count("<math") == len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", text, flags=re.DOTALL)) > 300
    assert not re.search(r"\\[a-zA-Z]", re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL))  # no TeX remains


def test_broken_links_and_anchors_are_errors(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("conf.py", "site.css"):
        shutil.copy(ROOT / "docs" / name, docs)
    (docs / "index.md").write_text("# A\n\n[one](gone.md) [two](#gone)\n", encoding="utf-8")
    warnings = build(docs, tmp_path / "site")
    assert "gone.md" in warnings
    assert "'gone'" in warnings


# What people search for, and the page that they want.
WANTED = {
    "LoRA": "pretrained",
    "zero-shot": "classification",
    "classification": "classification",
    "semicolon": "datasets",
    "Excel": "datasets",
    "learning rate": "questions",
    "OOM": "questions",
    "out of memory": "questions",
    "xlsx": "datasets",
    "umlaut": "datasets",
}


@needs_chromium
def test_the_search_finds_the_wanted_page_first(site: Path) -> None:
    with open_browser() as browser:
        page = browser.new_page()
        for words, wanted in WANTED.items():
            page.goto((site / "search.html").as_uri() + f"?q={quote_plus(words)}")
            first = page.wait_for_selector("#search-results li a")
            assert first.get_attribute("href").split(".html")[0] == wanted, words


@needs_chromium
def test_a_browser_opens_the_site_from_disk_and_requests_nothing_from_elsewhere(site: Path) -> None:
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        visit = Visit(page, (site / "method.html").as_uri())
        page.evaluate("document.fonts.ready")
        assert page.evaluate("document.fonts.check('16px \"STIX Two Math\"')")
        for name in ("index", "start", "method", "leaderboard", "reference/recipe", "reference/commands", "notebook"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        page.goto((site / "search.html").as_uri() + "?q=temperature")
        page.wait_for_selector("#search-results li a")
    assert visit.said == []
    assert [address for address in visit.requests if not address.startswith(("file:", "data:"))] == []
