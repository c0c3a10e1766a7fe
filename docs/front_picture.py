"""Draw the README's picture, in light and in dark: recall of head, mid and tail beside the page of a search.

    make demo
    .venv/bin/mmts index runs/demo/fixed-seed0 ~/.cache/mmts/openmoji/images
    .venv/bin/python docs/front_picture.py runs/demo

Needs Chromium and playwright.
"""

import io
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

OUT = Path(__file__).parent / "pictures"
WIDTHS, HEIGHT, PORT = (640, 940), 540, 8791
QUERY = "a cat with a smile"


def main(demo: Path) -> None:
    command = [sys.executable, "-m", "mmts.cli", "search", demo / "fixed-seed0", "--serve", "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{PORT}/?q={QUERY.replace(' ', '+')}"
        wait_for(address)
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                options: dict[str, Any] = {"color_scheme": scheme, "device_scale_factor": 2}
                screens = []
                places = ((demo / "index.html").resolve().as_uri(), "#results h2"), (address, "form")
                for width, (place, start) in zip(WIDTHS, places, strict=True):
                    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, **options)
                    page.goto(place)
                    page.wait_for_load_state("networkidle")
                    page.evaluate(
                        "start => scrollTo(0, document.querySelector(start).getBoundingClientRect().y - 24)", start
                    )
                    screens.append(page.screenshot())
                side_by_side(*screens).save(OUT / f"front-{scheme}.png", optimize=True)
            browser.close()
    finally:
        server.terminate()


def wait_for(address: str) -> None:
    """Wait until the server answers."""
    for _ in range(120):
        try:
            urllib.request.urlopen(address).close()
        except urllib.error.URLError:
            time.sleep(1)
        else:
            return
    raise SystemExit(f"{address} does not answer")


def side_by_side(*screens: bytes) -> Image.Image:
    """Return two pictures beside each other, in few colors, so that the file is small."""
    left, right = (Image.open(io.BytesIO(screen)).convert("RGB") for screen in screens)
    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both.quantize(128)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
