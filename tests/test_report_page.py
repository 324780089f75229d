"""The report in a real, headless Chromium, opened from disk: it loads, filters, sorts, and executes no name.

Skipped where playwright or a Chromium is missing; LOST_REG_CHROMIUM names one that is not on the PATH.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_cases import (
    HOSTILE,
    OUTCOMES,
    RIGHT,
    WRONG,
    hostile_runs,
    make_dataset,
    report,
    some_maps,
    two_runs,
    write_run,
)

from lost_reg.errors import one_line

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("LOST_REG_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH, nor in LOST_REG_CHROMIUM")

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a page file; at the end no error may have been logged, and nothing fetched."""
    troubles, contexts = [], []

    def open_it(path: Path, viewport=DESKTOP, color_scheme="light"):
        contexts.append(browser.new_context(viewport=viewport, color_scheme=color_scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(60000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
        page.on("request", lambda request: request.url.startswith("file://") or troubles.append(request.url))
        page.goto(path.resolve().as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def two(tmp_path, make_coco) -> Path:
    """The page of two runs, without and with registers, with maps."""
    return report(two_runs(make_coco, tmp_path, maps=list(OUTCOMES)), tmp_path / "out").page


def shown(page) -> list[str]:
    return page.locator(".card h3").all_text_contents()


def chosen(page, select: str) -> str:
    return page.locator(f"#{select} option:checked").text_content()


def until(page, condition: str) -> None:
    """Wait for a condition; the page's own waiting would need eval, which its policy forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def test_it_loads_and_shows_all_images_with_all_their_parts(two, open_page):
    page = open_page(two)
    assert page.title() == "Object discovery report"
    assert shown(page) == list(OUTCOMES) and page.locator("#count").text_content() == "4 of 4 images"
    assert (chosen(page, "a"), chosen(page, "b")) == ("dinov2_vits14", "dinov2_vits14_reg")
    card = page.locator(".card").first
    captions = [text.split(",")[0] for text in card.locator("figcaption").all_text_contents()]
    of_one_run = ["Token norm", "Degree", "Affinity to the seed", "Expansion mask", "Boxes"]
    assert captions == ["Input", *of_one_run, *of_one_run]
    assert card.locator(".badge").all_text_contents() == ["found, IoU 0.83", "found, IoU 1.00"]
    assert card.locator(".difference").text_content() == "IoU B \N{MINUS SIGN} A +0.17"
    assert page.locator("#dataset-field").is_hidden()  # there is one alone
    assert page.get_by_text("What the maps show").is_visible()
    until(page, "[...document.images].slice(0, 9).every((one) => one.complete && one.naturalWidth)")


def test_filters_show_what_they_say(two, open_page):
    page = open_page(two)
    for value, expected in {
        "both": ["both.jpg"],
        "neither": ["neither.jpg"],
        "a": ["only_a.jpg"],
        "b": ["only_b.jpg"],
        "one": ["only_a.jpg", "only_b.jpg"],
        "all": list(OUTCOMES),
    }.items():
        page.select_option("#show", value)
        assert shown(page) == expected, value
        assert page.locator("#count").text_content() == f"{len(expected)} of 4 images"


def test_sorts_order_as_they_say(two, open_page):
    """IoU of B less that of A: both +1/6, only_a -1, only_b +1/8, neither +3/8."""
    page = open_page(two)
    for value, expected in {
        "gain": ["neither", "both", "only_b", "only_a"],
        "loss": ["only_a", "only_b", "both", "neither"],
        "apart": ["only_a", "neither", "both", "only_b"],
        "best": ["only_a", "both", "only_b", "neither"],
        "worst": ["neither", "only_b", "both", "only_a"],
        "best-b": ["both", "only_b", "neither", "only_a"],
        "worst-b": ["only_a", "neither", "only_b", "both"],
        "name": ["both", "neither", "only_a", "only_b"],
        "order": ["both", "only_a", "only_b", "neither"],
    }.items():
        page.select_option("#sort", value)
        assert shown(page) == [f"{name}.jpg" for name in expected], value


def test_sides_can_be_exchanged_and_left_out(two, open_page):
    page = open_page(two)
    page.select_option("#a", label="dinov2_vits14_reg")
    assert chosen(page, "b") == "dinov2_vits14"
    page.select_option("#show", "a")
    assert shown(page) == ["only_b.jpg"]
    page.select_option("#b", label="no other")
    assert chosen(page, "show") == "all images" and page.locator(".side").count() == 4
    page.select_option("#show", label="found")
    assert shown(page) == ["both.jpg", "only_b.jpg"]


def test_datasets_and_names_can_be_filtered(tmp_path, make_coco, open_page):
    first = make_dataset(make_coco, tmp_path / "one", ["cat.jpg", "dog.jpg"], {"dog.jpg": "Hund"})
    second = make_dataset(make_coco, tmp_path / "two", ["cow.jpg"])
    second = second.rename(second.with_name("farm.json"))
    write_run(tmp_path / "results" / "1", first, dict.fromkeys(["cat.jpg", "dog.jpg"], RIGHT))
    write_run(tmp_path / "results" / "2", second, {"cow.jpg": WRONG})
    write_run(tmp_path / "results" / "3", second, {"cow.jpg": RIGHT}, backbone="dino_vits16")
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    assert shown(page) == ["cat.jpg", "dog.jpg", "cow.jpg"]
    assert page.get_by_text("What the maps show").is_hidden()  # there are none
    assert page.locator(".reason").all_text_contents() == ["not in this run"] * 2
    page.select_option("#dataset", label="farm.json all")
    assert shown(page) == ["cow.jpg"] and page.locator("#a option").count() == 2
    page.select_option("#dataset", label="instances.json all")
    assert shown(page) == ["cat.jpg", "dog.jpg"] and page.locator("#a-field").is_hidden()
    page.fill("#search", "hUnd")
    playwright.expect(page.locator(".card")).to_have_count(1)
    assert shown(page) == ["dog.jpg"]


def test_names_from_outside_are_shown_and_not_executed(tmp_path, make_coco, open_page):
    page = open_page(report(hostile_runs(make_coco, tmp_path), tmp_path / "out").page)
    assert shown(page) == [one_line(name) for name in HOSTILE]
    about = page.locator(".card-head p:not(.difference)").all_text_contents()
    assert about == [one_line(label) for label in HOSTILE.values()]
    assert page.locator(".reason").first.text_content() == "cannot be decoded: <b>bad</b>"
    for value in ("gain", "name"):
        page.select_option("#sort", value)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main u, main i, main b, [onerror], [onclick], [onload]").count() == 0


def test_maps_lie_over_the_image_where_their_patches_are(tmp_path, make_coco, open_page):
    """One patch of high norm in a grid that is larger than the image: it must be bright, and nothing else."""
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    norms = np.zeros((6, 8), np.float32)
    norms[2, 5] = 1
    maps = some_maps(norms=norms, covered_hw=(0.9, 0.95))
    write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT}, maps={"a.jpg": maps})
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    pane = page.locator(".panels .pane").first
    until(page, "[...document.images].every((one) => one.complete)")
    pixels = np.asarray(Image.open(io.BytesIO(pane.screenshot())).convert("L")).astype(int)
    height, width = pixels.shape
    inside = np.pad(np.ones((height - 12, width - 12), bool), 6)  # its corners are round
    rows, columns = np.nonzero((pixels > 120) & inside)
    assert rows.min() / height == pytest.approx(2 / 6 / 0.9, abs=0.02)
    assert (rows.max() + 1) / height == pytest.approx(3 / 6 / 0.9, abs=0.02)
    assert columns.min() / width == pytest.approx(5 / 8 / 0.95, abs=0.02)
    assert (columns.max() + 1) / width == pytest.approx(6 / 8 / 0.95, abs=0.02)


def test_thousands_of_images_come_in_pieces(tmp_path, make_coco, open_page):
    images = [f"{index:04}.jpg" for index in range(2000)]
    dataset = make_dataset(make_coco, tmp_path / "data", images[:1])
    page_file = _many_copies(report(_one_run(tmp_path, dataset, images[0]), tmp_path / "out").page, images)
    page = open_page(page_file)
    assert page.locator("#count").text_content() == "2,000 of 2,000 images"
    assert page.locator(".card").count() < 100
    assert set(page.locator(".card img").evaluate_all("all => all.map((one) => one.loading)")) == {"lazy"}
    before = page.locator(".card").count()
    page.locator("#more").scroll_into_view_if_needed()
    until(page, f"document.querySelectorAll('.card').length > {before}")
    milliseconds = page.evaluate(
        "() => { const start = performance.now(); const sort = document.getElementById('sort');"
        "sort.value = 'worst'; sort.dispatchEvent(new Event('change')); return performance.now() - start; }"
    )
    assert milliseconds < 1000 and page.locator(".card").count() < 100
    page.fill("#search", "1999")
    playwright.expect(page.locator(".card")).to_have_count(1)
    assert shown(page) == ["1999.jpg"] and page.locator("#more").is_hidden()


def _one_run(folder: Path, dataset: Path, image: str) -> Path:
    return write_run(folder / "run", dataset, {image: RIGHT}, maps=[image])


def _many_copies(page_file: Path, names: list[str]) -> Path:
    """The page of one image as one of many."""
    text = page_file.read_text("utf-8")
    items = text[text.index('"items":[') + 9 : text.index('],"without_picture"')]
    many = ",".join(items.replace('"name":"0000.jpg"', f'"name":"{name}"') for name in names)
    assert many.count('"thumbnail"') == len(names)
    page_file.write_text(text.replace(items, many), "utf-8")
    return page_file


def test_both_themes_and_the_choice_between_them(two, open_page):
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(two, color_scheme=scheme).evaluate(background) for scheme in ("light", "dark"))
    assert _brightness(light) > 200 and _brightness(dark) < 60
    page = open_page(two, color_scheme="light")
    page.select_option("#theme", "dark")
    assert page.evaluate(background) == dark
    page.reload()
    assert page.evaluate(background) == dark and chosen(page, "theme") == "dark"  # remembered
    page.select_option("#theme", "auto")
    assert page.evaluate(background) == light


def _brightness(colour: str) -> float:
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_a_phone_shows_both_sides_beside_each_other_and_nothing_sticks_out(two, open_page):
    page = open_page(two, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    a, b = (page.locator(".card .side").nth(index).bounding_box() for index in (0, 1))
    assert a["y"] == b["y"] and a["x"] + a["width"] <= b["x"] and b["x"] + b["width"] <= PHONE["width"]
    assert min(a["width"], b["width"]) > 130


def test_the_keyboard_reaches_and_works_the_controls(two, open_page):
    page = open_page(two)
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = ["theme", "scroll", "scroll", "a", "b", "show", "sort", "search"]
    assert [one for one in reached if one in wanted][: len(wanted)] == wanted
    page.focus("#show")
    page.keyboard.press("ArrowDown")
    assert shown(page) == ["both.jpg"]
