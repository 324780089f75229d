"""A picture of a report: in light on a desktop, and its gallery in dark on a phone.

Needs playwright and a Chromium on the PATH. evaluation/results/report.jpg was made by

    lost-reg run --backbone tiny --dataset samples --save-maps --out picture-results/tiny
    lost-reg run --backbone tiny --weights random --dataset samples --save-maps --out picture-results/random
    lost-reg report picture-results --out picture-report
    python evaluation/report_picture.py picture-report evaluation/results/report.jpg
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HEIGHT = 1400
GAP = 24


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if len(sys.argv) != 3 or not chromium:
        sys.exit(__doc__)
    page, target = Path(sys.argv[1]).resolve() / "index.html", Path(sys.argv[2])
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        light = screenshot(browser, page, 1160, "light", "#corloc")
        dark = screenshot(browser, page, 390, "dark", ".card")
    width = light.width + dark.width + 3 * GAP
    picture = Image.new("RGB", (width, HEIGHT + 2 * GAP), (128, 132, 138))
    picture.paste(light, (GAP, GAP))
    picture.paste(dark, (light.width + 2 * GAP, GAP))
    picture.save(target, quality=82, optimize=True)


def screenshot(browser: Browser, page_file: Path, width: int, scheme: str, top: str) -> Image.Image:
    """The page from an element on, with the images of the gallery where the difference is largest first."""
    page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
    page.goto(page_file.as_uri())
    page.select_option("#sort", "gain")
    page.evaluate("selector => document.querySelector(selector).scrollIntoView()", top)
    page.wait_for_timeout(1000)  # for the lazy images
    picture = Image.open(io.BytesIO(page.screenshot()))
    return picture.convert("RGB")


if __name__ == "__main__":
    main()
