"""A picture of the page of `lost-reg explore`: LOST with the bias `auto` beside the preset `best`.

Needs playwright and a Chromium on the PATH. docs/explore.jpg was made by

    python data/skimage_photos.py picture-photos
    lost-reg explore picture-photos/JPEGImages/chelsea.png --no-open --port 7861 \
        --backbone dinov2_vits14=data/dinov2_vits14.safetensors
    python evaluation/explore_picture.py http://127.0.0.1:7861/ docs/explore.jpg
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SCALE = 1.25  # of the window to the picture
NOSE_XY = (0.66, 0.61)  # beside it, as shares of the photo


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if len(sys.argv) != 3 or not chromium:
        sys.exit(__doc__)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1250, "height": 900}, color_scheme="light")
        page.set_default_timeout(120_000)
        page.goto(sys.argv[1])
        page.locator(".slot-map img").wait_for()
        arrange(page)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    size = (round(picture.width / SCALE), round(picture.height / SCALE))
    picture.resize(size, Image.Resampling.LANCZOS).save(Path(sys.argv[2]), quality=82, optimize=True)


def arrange(page: Page) -> None:
    """Two columns with their controls, LOST in the first, and a patch that is clicked."""
    columns = page.locator(".lost-reg-column")
    page.locator("#columns").get_by_text("2", exact=True).click()
    columns.nth(1).locator(".slot-map img").wait_for()
    page.locator("#method-1 input").click()
    page.get_by_role("option", name="LOST", exact=True).click()
    columns.first.get_by_text("LOST: k of layer -1").wait_for()
    page.locator("#more-1 button").first.click()
    page.locator("#more-2 button").first.click()
    page.get_by_label("bias: auto").first.check()
    columns.first.get_by_text("bias auto").wait_for()
    photo = columns.first.locator(".slot-objects img")
    box = photo.bounding_box()
    photo.click(position={"x": NOSE_XY[0] * box["width"], "y": NOSE_XY[1] * box["height"]})
    columns.nth(1).get_by_text("Your patch: row").wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(2000)  # until the last pictures have come


if __name__ == "__main__":
    main()
