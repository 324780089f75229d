"""The report in a real, headless Chromium, opened from disk: it loads, filters, sorts, and executes no name.

Skipped where playwright or a Chromium is missing; LOST_REG_CHROMIUM names one that is not on the PATH.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from artifact_cases import write_artifacts_file
from helpers import found_object, prediction, write_predictions
from PIL import Image
from report_cases import (
    HOSTILE,
    NEARLY,
    OUTCOMES,
    RIGHT,
    WRONG,
    hostile_runs,
    make_dataset,
    report,
    some_attention,
    some_maps,
    two_runs,
    write_run,
    write_sweep,
)

from lost_reg.charts import WIDTH
from lost_reg.discovery.maps import Maps
from lost_reg.errors import one_line
from lost_reg.masks.grids import stored

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
playwright.expect.set_options(timeout=120_000)  # milliseconds, for a busy machine

PHONE = {"width": 360, "height": 740}


def shown(page) -> list[str]:
    return page.locator(".card h3").all_text_contents()


def chosen(page, select: str) -> str:
    return page.locator(f"#{select} option:checked").text_content()


def boxes_in(pane) -> list[tuple[str, list[float]]]:
    """The boxes in a pane: what each is, and its left, top, width and height as shares of the pane's."""
    return pane.evaluate(
        "(pane) => { const all = pane.getBoundingClientRect();"
        "return [...pane.querySelectorAll('.box')].map((one) => { const at = one.getBoundingClientRect();"
        "return [one.getAttribute('class').replace('box ', ''), [(at.x - all.x) / all.width,"
        "(at.y - all.y) / all.height, at.width / all.width, at.height / all.height]]; }); }"
    )


def until(page, condition: str) -> None:
    """Wait for a condition; the page's own waiting would need eval, which its policy forbids."""
    for _ in range(2400):  # two minutes, for a busy machine
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {condition}")


def test_it_loads_and_shows_all_images_with_all_their_parts(two, open_page):
    page = open_page(two)
    assert page.title() == "Object discovery report"
    assert shown(page) == list(OUTCOMES) and page.locator("#count").text_content() == "4 of 4 images"
    assert (chosen(page, "a"), chosen(page, "b")) == ("a", "b")
    card = page.locator(".card").first
    captions = [text.split(",")[0] for text in card.locator("figcaption").all_text_contents()]
    of_one_run = ["Token norm", "Degree", "Affinity to the seed", "Mask", "Boxes"]
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


def test_nothing_that_needs_scores_is_offered_for_runs_without(tmp_path, save_scene, open_page):
    save_scene(tmp_path / "photos" / "a.jpg")
    for name in "ab":
        write_run(tmp_path / "results" / name, None, {"a.jpg": RIGHT}, root=tmp_path / "photos")
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    assert page.locator("#sort option").all_text_contents() == ["order of the images", "file name"]
    assert page.locator("#show-field").is_hidden() and shown(page) == ["a.jpg"]
    assert page.locator(".badge").count() == 0
    assert page.get_by_role("searchbox", name="File name", exact=True).is_visible()


def test_scores_can_be_chosen_by_if_a_chosen_run_has_them(tmp_path, make_coco, save_scene, open_page):
    save_scene(tmp_path / "photos" / "mine.jpg")
    write_run(tmp_path / "results" / "mine", None, {"mine.jpg": RIGHT}, root=tmp_path / "photos")
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    write_run(tmp_path / "results" / "scored", dataset, {"a.jpg": RIGHT}, backbone="dino_vits16")
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    assert page.get_by_role("searchbox", name="File or class name").is_visible()
    page.select_option("#b", label="scored")
    assert page.locator(".badge").all_text_contents() == ["not scored", "found, IoU 1.00"]
    page.select_option("#b", label="no other")
    assert chosen(page, "a") == "mine" and page.locator("#show-field").is_hidden()
    page.select_option("#a", label="scored")
    page.select_option("#show", label="found")
    assert shown(page) == ["a.jpg"]


def test_images_without_a_score_stand_last_in_every_sort_and_count_as_neither_found_nor_missed(
    tmp_path, make_coco, open_page
):
    true = [(32, 16, 64, 48, 0)]
    objects = {"e.jpg": [], "d.jpg": true, "c.jpg": true, "b.jpg": true, "a.jpg": true, "0.jpg": []}
    dataset = make_coco(tmp_path / "data", objects)
    boxes = {"e.jpg": RIGHT, "d.jpg": WRONG, "c.jpg": RIGHT, "b.jpg": RIGHT, "0.jpg": RIGHT}
    for name, backbone in (("a", "dinov2_vits14"), ("b", "dinov2_vits14_reg")):
        write_run(tmp_path / "results" / name, dataset, boxes, failures=["a.jpg"], backbone=backbone)
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    for value, expected in {
        "order": "edcba0",
        "best": "cbdae0",
        "worst": "dacbe0",
        "best-b": "cbdae0",
        "worst-b": "dacbe0",
        "gain": "dcbae0",
        "loss": "dcbae0",
        "apart": "dcbae0",
        "name": "0abcde",
    }.items():
        page.select_option("#sort", value)
        assert shown(page) == [f"{name}.jpg" for name in expected], value
    assert page.locator(".difference").count() == 4
    for value, expected in {"both": "bc", "neither": "ad", "one": ""}.items():
        page.select_option("#show", value)
        assert shown(page) == [f"{name}.jpg" for name in expected], value


def test_a_badge_says_what_became_of_an_image(tmp_path, make_coco, open_page):
    true = [(0, 0, 100, 100, 0)]
    objects = {"bad.jpg": true, "empty.jpg": [], "half.jpg": true, "nearly.jpg": true, "far.jpg": true}
    dataset = make_coco(tmp_path / "data", objects, size_hw=(100, 200))
    boxes = {
        "empty.jpg": (0, 0, 9, 9),
        "half.jpg": (0, 0, 50, 100),
        "nearly.jpg": (0, 0, 49.998, 99.998),
        "far.jpg": (0, 0, 40, 100),
    }
    write_run(tmp_path / "run", dataset, boxes, failures=["bad.jpg"])
    (dataset.parent / "images" / "far.jpg").unlink()
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    assert page.locator(".badge").all_text_contents() == [
        "not readable",
        "not scored",
        "found, IoU 0.50",
        "missed, IoU 0.4999",  # 0.49997: no rounding makes it the 0.5 at which an image is found
        "missed, IoU 0.40",
    ]
    good, bad = (page.locator(".badge").nth(index) for index in (2, 4))
    colour = "one => getComputedStyle(one).color"
    assert good.evaluate(colour) != bad.evaluate(colour) == page.locator(".badge").first.evaluate(colour)
    assert page.locator(".reason").all_text_contents() == ["cannot be decoded: <b>bad</b>"]
    assert page.locator(".card").last.locator(".panels").get_by_text("no picture").is_visible()


def test_an_image_where_nothing_was_found_says_so(tmp_path, make_coco, open_page):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    write_run(tmp_path / "run", dataset, {"a.jpg": []}, maps=["a.jpg"])
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    assert page.locator(".badge.missed").all_text_contents() == ["nothing found"]
    page.select_option("#show", "neither")
    assert shown(page) == ["a.jpg"]
    kinds = [kind for kind, _ in boxes_in(page.locator(".panels .pane").last)]
    assert kinds == ["true"]


def test_maps_of_other_methods_are_shown_by_their_names(tmp_path, make_coco, open_page):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    one = some_maps()
    names = ("norms", "eigenvector", "<b>cut", "constructor")
    maps = Maps(dict.fromkeys(names, one.values["degrees"]), one.mask, one.seed)
    write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT}, maps={"a.jpg": maps})
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    captions = page.locator(".panels figcaption").all_text_contents()
    titles = ["Token norm", "Eigenvector", "<b>cut", "constructor"]
    assert captions == [*(f"{title}, 0 to 47" for title in titles), "Mask", "Boxes"]
    assert page.locator(".about dt").all_text_contents() == ["Token norm", "Eigenvector", "Mask"]
    until(page, "[...document.images].every((one) => one.complete && one.naturalWidth)")


def test_masks_lie_over_the_image_and_damaged_ones_are_said(tmp_path, save_scene, open_page):
    for name in ("a.jpg", "b.jpg"):
        save_scene(tmp_path / "photos" / name)
    mask = stored(np.ones((2, 2), bool), (96.0, 128.0))
    good, bad = (replace(found_object(RIGHT), mask=one) for one in (mask, replace(mask, counts="3")))
    found = [prediction("a.jpg", good), prediction("b.jpg", bad)]
    write_predictions(tmp_path / "run", found, root=tmp_path / "photos", dataset=None, split=None)
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    assert page.locator(".panels figcaption").all_text_contents() == ["Boxes and masks", "Boxes"]
    photo, over = (page.locator(".panels img").nth(index).bounding_box() for index in (0, 1))
    assert photo == over and page.locator(".panels img").count() == 3
    assert page.locator(".legend.keys li").all_text_contents() == ["box found", "mask", "seed"]
    assert "its masks are malformed" in page.locator(".card .reason").text_content()
    until(page, "[...document.images].every((one) => one.naturalWidth)")


def test_differences_have_a_sign(two, open_page):
    page = open_page(two)
    minus = "\N{MINUS SIGN}"
    expected = [f"IoU B {minus} A {text}" for text in ("+0.17", f"{minus}1.00", "+0.13", "+0.38")]
    assert page.locator(".difference").all_text_contents() == expected


def test_sides_can_be_exchanged_and_left_out(two, open_page):
    page = open_page(two)
    page.select_option("#a", label="b")
    assert chosen(page, "b") == "a"
    page.select_option("#show", "a")
    assert shown(page) == ["only_b.jpg"]
    page.select_option("#b", label="no other")
    assert chosen(page, "show") == "all images" and page.locator(".side").count() == 4
    page.select_option("#show", label="found")
    assert shown(page) == ["both.jpg", "only_b.jpg"]
    assert page.locator(".side strong").all_text_contents() == ["b"] * 2


def test_a_filter_and_a_sort_are_kept_while_they_make_sense(two, open_page):
    page = open_page(two)
    page.select_option("#show", "neither")
    page.select_option("#sort", "worst")
    page.select_option("#b", label="no other")
    assert (chosen(page, "show"), chosen(page, "sort")) == ("missed", "IoU, worst first")
    assert shown(page) == ["neither.jpg", "only_b.jpg"]
    page.select_option("#a", label="b")
    assert chosen(page, "b") == "no other" and shown(page) == ["only_a.jpg", "neither.jpg"]


def test_a_pair_without_and_with_registers_is_shown_first_and_any_other_can_be_chosen(
    tmp_path, make_coco, open_page
):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    for name, backbone, boxes in (
        ("1", "dino_vits16", {"a.jpg": RIGHT, "b.jpg": WRONG}),
        ("2", "dinov2_vits14", {"a.jpg": WRONG}),
        ("3", "dinov2_vits14_reg", {"a.jpg": WRONG}),
    ):
        write_run(tmp_path / "results" / name, dataset, boxes, backbone=backbone)
    page = open_page(report(tmp_path / "results", tmp_path / "out", partial=True).page)
    assert (chosen(page, "a"), chosen(page, "b")) == ("2", "3")
    options = ["1", "3", "no other"]
    assert page.locator("#b option").all_text_contents() == options
    assert shown(page) == ["a.jpg"] and page.locator("#count").text_content() == "1 of 1 image"
    page.select_option("#b", label="1")
    assert shown(page) == ["a.jpg", "b.jpg"]
    page.select_option("#a", label="3")
    assert chosen(page, "b") == "1"
    page.select_option("#show", "b")
    assert shown(page) == ["a.jpg"]


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


def test_each_dataset_offers_its_own_runs(tmp_path, make_coco, open_page):
    first = make_dataset(make_coco, tmp_path / "one", ["same.jpg", "dog.jpg"])
    second = make_dataset(make_coco, tmp_path / "two", ["same.jpg"])
    second = second.rename(second.with_name("farm.json"))
    for name, backbone in (("1", "dinov2_vits14"), ("2", "dinov2_vits14_reg")):
        boxes = {"same.jpg": RIGHT, "dog.jpg": WRONG}
        write_run(tmp_path / "results" / name, first, boxes, backbone=backbone)
    for name, backbone in (("3", "dinov2_vits14"), ("4", "dino_vits16")):
        write_run(tmp_path / "results" / name, second, {"same.jpg": RIGHT}, backbone=backbone)
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    about = page.locator(".card-head p:not(.difference)")
    names = "instances.json all", "farm.json all"
    assert page.locator("#dataset option").all_text_contents() == ["all", *names]
    page.select_option("#sort", "name")
    expected = [f"{name} · thing" for name in (names[0], *names)]
    assert about.all_text_contents() == expected  # of one name, in the order of the datasets
    page.select_option("#dataset", label=names[1])
    assert shown(page) == ["same.jpg"] and page.locator("#count").text_content() == "1 of 1 image"
    assert (chosen(page, "a"), chosen(page, "b")) == ("3", "4")
    assert page.locator("#a option").all_text_contents() == ["3", "4"]
    page.select_option("#dataset", label=names[0])
    assert (chosen(page, "a"), chosen(page, "b")) == ("1", "2")
    assert page.locator("#b-field").is_visible() and shown(page) == ["dog.jpg", "same.jpg"]


def test_two_runs_are_compared_again_after_a_dataset_of_one_run(tmp_path, make_coco, open_page):
    first = make_dataset(make_coco, tmp_path / "one", ["cat.jpg"])
    second = make_dataset(make_coco, tmp_path / "two", ["cow.jpg"])
    second = second.rename(second.with_name("farm.json"))
    write_run(tmp_path / "results" / "1", first, {"cat.jpg": RIGHT})
    for name, backbone in (("2", "dinov2_vits14"), ("3", "dino_vits16")):
        write_run(tmp_path / "results" / name, second, {"cow.jpg": RIGHT}, backbone=backbone)
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    page.select_option("#dataset", label="instances.json all")
    assert page.locator("#b-field").is_hidden() and page.locator(".side").count() == 1
    page.select_option("#dataset", label="farm.json all")
    assert chosen(page, "b") == "3" and page.locator(".side").count() == 2


def test_a_card_names_all_classes_of_its_image(tmp_path, make_voc, open_page):
    objects = {"1": [("dog", 33, 17, 96, 64), ("cat", 1, 1, 20, 20), ("dog", 1, 1, 9, 9)]}
    folder = make_voc(tmp_path / "root" / "VOCdevkit" / "VOC2007", objects)
    write_run(tmp_path / "run", folder, {"1.jpg": RIGHT}, split="trainval")
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    assert page.locator(".card-head p").text_content() == "dog, cat"


def test_the_search_looks_anywhere_in_the_names_of_files_and_classes(tmp_path, make_coco, open_page):
    labels = {"IMG_1.jpg": "Potted Plant", "img_2.jpg": "cat", "other.jpg": "Cattle"}
    dataset = make_dataset(make_coco, tmp_path / "data", labels, labels)
    write_run(tmp_path / "run", dataset, dict.fromkeys(labels, RIGHT))
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    for text, expected in {
        "img": ["IMG_1.jpg", "img_2.jpg"],
        "CAT": ["img_2.jpg", "other.jpg"],
        "  plant ": ["IMG_1.jpg"],
        "2.JPG": ["img_2.jpg"],
        "  ": list(labels),
        "no such": [],
    }.items():
        page.fill("#search", text)
        playwright.expect(page.locator(".card h3")).to_have_text(expected)
        assert page.locator("#count").text_content() == f"{len(expected)} of 3 images"
    page.fill("#search", "Cattle")
    page.press("#search", "Enter")  # which would send the form, and load the page anew
    playwright.expect(page.locator(".card h3")).to_have_text(["other.jpg"])
    assert page.locator("#search").input_value() == "Cattle"


def test_the_counts_are_of_all_images(tmp_path, make_coco, open_page):
    """Those of the runs that are shown, of other runs, and not on the page are all that the top counts."""
    for folder, images in {"two": 2, "four": 4}.items():
        boxes = {f"{index}.jpg": RIGHT for index in range(images)}
        dataset = make_dataset(make_coco, tmp_path / folder, boxes)
        write_run(tmp_path / "results" / folder, dataset, boxes, backbone=f"dino_{folder}")
    page = open_page(report(tmp_path / "results", tmp_path / "out", max_images=3).page)

    def counts() -> list[str]:
        return [page.locator(f"#{name}").text_content() for name in ("count", "elsewhere")]

    assert page.locator(".summary").text_content().endswith(": 6 images, 5 of them in the gallery")
    names = page.locator("#a option").all_text_contents()
    page.select_option("#a", names[0])
    page.select_option("#b", "none")
    expected = {
        "four": ["3 of 3 images", "2 more are of other runs, 1 more is not on this page"],
        "two": ["2 of 2 images", "3 more are of other runs, 1 more is not on this page"],
    }
    assert counts() == expected[names[0]]
    page.select_option("#a", names[1])
    assert counts() == expected[names[1]]
    of_one = set()
    for index in (1, 2):
        page.select_option("#dataset", index=index)
        of_one.add(counts()[1])
    assert of_one == {"", "1 more is not on this page"}


def test_names_from_outside_are_shown_and_not_executed(tmp_path, make_coco, open_page):
    page = open_page(report(hostile_runs(make_coco, tmp_path), tmp_path / "out").page)
    assert shown(page) == [one_line(name) for name in HOSTILE]
    about = page.locator(".card-head p:not(.difference)").all_text_contents()
    assert about == [one_line(label) for label in HOSTILE.values()]
    failure, damaged = page.locator(".reason").all_text_contents()
    assert failure == "cannot be decoded: <b>bad</b>" and ".npz" in damaged
    assert page.locator("#gallery .notes").get_by_text("No maps of <u>one: ").is_visible()
    for value in ("gain", "name"):
        page.select_option("#sort", value)
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main u, main i, main b, [onerror], [onclick], [onload]").count() == 0


def test_maps_lie_over_the_image_where_their_patches_are(tmp_path, make_coco, open_page):
    """One patch that stands out in a grid that is larger than the image: it is bright, and nothing else."""
    places = {"norms": (2, 5), "degrees": (1, 1), "affinities": (4, 3), "mask": (3, 6)}
    grids = {name: np.zeros((6, 8), np.float32) for name in places}
    for name, place in places.items():
        grids[name][place] = 1
    grids["mask"] = grids["mask"] > 0
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    maps = some_maps(**grids, seed=places["mask"], covered_hw=(0.9, 0.95))
    write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT}, maps={"a.jpg": maps})
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    until(page, "[...document.images].every((one) => one.complete)")
    # what lies over and under the maps is taken away: the mask is then clear to a bright ground
    others = "document.querySelectorAll('.pane .box, .pane img:not(.map)')"
    page.evaluate(f"{others}.forEach((one) => one.remove())")
    for (name, (row, column)), pane in zip(places.items(), page.locator(".panels .pane").all()):
        pixels = np.asarray(Image.open(io.BytesIO(pane.screenshot())).convert("L")).astype(int)
        height, width = pixels.shape
        inside = np.pad(np.ones((height - 12, width - 12), bool), 6)  # its corners are round
        rows, columns = np.nonzero((pixels > 120) & inside)
        assert rows.min() / height == pytest.approx(row / 6 / 0.9, abs=0.02), name
        assert (rows.max() + 1) / height == pytest.approx((row + 1) / 6 / 0.9, abs=0.02), name
        assert columns.min() / width == pytest.approx(column / 8 / 0.95, abs=0.02), name
        assert (columns.max() + 1) / width == pytest.approx((column + 1) / 8 / 0.95, abs=0.02), name


def test_boxes_and_seeds_lie_where_they_are(tmp_path, make_coco, open_page):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    boxes = {"a.jpg": [NEARLY, (0, 48, 64, 96)], "b.jpg": NEARLY}
    run = write_run(tmp_path / "run", dataset, boxes, maps=["b.jpg"])
    page = open_page(report(run, tmp_path / "out").page)
    true, further = ("true", [1 / 4, 1 / 6, 1 / 2, 1 / 2]), ("predicted further", [0, 1 / 2, 1 / 2, 1 / 2])
    found, seed = ("predicted", [1 / 4, 1 / 6, 1 / 2, 5 / 12]), ("seed", [1 / 4, 1 / 6, 1 / 8, 1 / 6])
    without, with_maps = page.locator(".card").all()
    of_panels = [boxes_in(pane) for pane in with_maps.locator(".panels .pane").all()]
    for boxes, expected in zip(
        [boxes_in(without.locator(".panels .pane")), *of_panels],
        # the panels of maps: norms, degrees, affinities, mask, and the boxes
        [[further, found, true, seed], [], [seed], [seed], [seed, found], [found, true]],
        strict=True,
    ):
        assert [kind for kind, _ in boxes] == [kind for kind, _ in expected]
        for (kind, place), (_, wanted) in zip(boxes, expected):
            assert place == pytest.approx(wanted, abs=0.005), kind


def test_attention_stands_beside_the_norms_and_unfolds_by_head(tmp_path, make_coco, open_page):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    maps = some_maps(attention=some_attention(("class", "register 1"), heads=12))
    run = write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT}, maps={"a.jpg": maps})
    page = open_page(report(run, tmp_path / "out").page)
    captions = page.locator(".panels figcaption").all_text_contents()
    assert captions[:3] == [
        "Token norm, 20 to 67",
        "Attention of the class token, up to 0.0417",
        "Degree, 0 to 47",
    ]
    panes = page.locator(".panels .pane")
    assert [boxes_in(pane) for pane in panes.all()[:2]] == [[], []]  # no mark hides an artifact
    assert len({round(pane.bounding_box()["y"]) for pane in panes.all()}) == 1 and panes.count() == 6
    heads = page.locator(".heads img")
    assert heads.count() == 2 and heads.first.is_hidden()
    page.get_by_text("Attention of each token and head").click()
    assert page.locator(".heads figcaption").all_text_contents() == [
        "class token: mean over 12 heads, then each head",
        "register 1: mean over 12 heads, then each head",
    ]
    heads.first.scroll_into_view_if_needed()
    until(page, "[...document.images].every((one) => one.complete && one.naturalWidth)")
    box = heads.first.bounding_box()
    assert box["height"] / box["width"] == pytest.approx((3 * 7 - 1) / (5 * 9 - 1), rel=0.02)  # 5, 5 and 3
    phone = open_page(tmp_path / "out" / "index.html", PHONE, "dark")
    phone.get_by_text("Attention of each token and head").click()
    assert phone.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_captions_say_from_where_to_where_each_map_goes(two, open_page):
    page = open_page(two)
    assert page.locator(".card").first.locator("figcaption").all_text_contents()[1:6] == [
        "Token norm, 20 to 67",
        "Degree, 0 to 47",
        "Affinity to the seed, up to 6",
        "Mask",
        "Boxes",
    ]


def test_panes_have_the_shape_of_their_image_but_are_not_endlessly_tall(tmp_path, make_coco, open_page):
    """The image that is very tall is squeezed, with its boxes, into a pane three times as tall as wide."""
    for name, size_hw in (("wide", (100, 200)), ("tall", (960, 96))):
        dataset = make_coco(tmp_path / name, {f"{name}.jpg": [(0, 0, 9, 9, 0)]}, size_hw=size_hw)
        dataset = dataset.rename(dataset.with_name(f"{name}.json"))
        write_run(tmp_path / "results" / name, dataset, {f"{name}.jpg": (0, 0, 20, 20)})
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    shapes = {}
    for card in page.locator(".card").all():
        box = card.locator(".panels .pane").bounding_box()
        shapes[card.locator("h3").text_content()] = box["height"] / box["width"]
    assert shapes == {"wide.jpg": pytest.approx(0.5, abs=0.01), "tall.jpg": pytest.approx(3, abs=0.01)}


def test_five_panels_stand_in_one_row_if_any_side_has_maps_and_cards_beside_each_other_if_none(
    tmp_path, make_coco, open_page
):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    boxes = dict.fromkeys(["a.jpg", "b.jpg"], RIGHT)
    write_run(tmp_path / "results" / "1", dataset, boxes)
    write_run(tmp_path / "results" / "2", dataset, boxes, backbone="dinov2_vits14_reg", maps=list(boxes))
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)

    def tops(selector):
        return {round(one.bounding_box()["y"]) for one in page.locator(selector).all()}

    assert len(tops(".card:first-child .side:last-child .pane")) == 1 and len(tops(".card")) == 2
    assert page.locator(".input").first.is_visible()
    page.select_option("#b", label="no other")
    assert len(tops(".card")) == 1 and page.locator(".input").first.is_hidden()


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
    page.select_option("#sort", "worst")
    assert page.locator(".card").count() < 100
    page.fill("#search", "1999")
    playwright.expect(page.locator(".card")).to_have_count(1)
    assert shown(page) == ["1999.jpg"] and page.locator("#more").is_hidden()


def test_each_image_comes_once_and_the_button_says_how_many_are_left(tmp_path, make_coco, open_page):
    images = [f"{index:04}.jpg" for index in range(60)]
    dataset = make_dataset(make_coco, tmp_path / "data", images[:1])
    page_file = _many_copies(report(_one_run(tmp_path, dataset, images[0]), tmp_path / "out").page, images)
    page, more = open_page(page_file), "document.getElementById('more')"
    assert shown(page) == images[:24] and page.locator("#more").text_content() == "Show more (36 left)"
    page.evaluate(f"{more}.click()")  # without scrolling there, which would show them by itself
    assert shown(page) == images[:48] and page.locator("#more").text_content() == "Show more (12 left)"
    page.evaluate(f"{more}.focus({{ preventScroll: true }}); {more}.click()")
    assert shown(page) == images and page.locator("#more").is_hidden()
    # the button is gone: the keyboard goes on at the first of the new images
    assert page.evaluate("document.activeElement.textContent") == images[48]


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


@pytest.fixture
def with_charts(tmp_path, make_coco) -> Path:
    """A page with every kind of chart."""
    results = two_runs(make_coco, tmp_path)
    write_sweep(results / "sweep")
    write_artifacts_file(results / "artifacts", "one")
    return report(results, tmp_path / "out").page


def test_charts_follow_the_theme_and_use_the_font_of_the_page(with_charts, open_page):
    fill, color = "getComputedStyle(one).fill", "getComputedStyle(document.body).color"
    seen = set()
    for scheme in ("light", "dark"):
        page = open_page(with_charts, color_scheme=scheme)
        label = page.locator("#bars svg text", has_text="dinov2_vits14").first
        assert label.evaluate(f"one => {fill} === {color}")
        assert label.evaluate(
            "one => getComputedStyle(one).fontFamily === getComputedStyle(document.body).fontFamily"
        )
        for kind in ("#bars", "#sweeps", "#artifacts"):
            seen.add((kind, page.locator(f"{kind} svg text").last.evaluate(f"one => {fill}")))
    assert len(seen) == 6  # each has one colour in light and another in dark


def test_text_of_charts_can_be_selected_and_marks_say_what_they_are(with_charts, open_page):
    page = open_page(with_charts)
    label = page.locator("#bars svg text", has_text="dinov2_vits14").first
    label.evaluate("one => getSelection().selectAllChildren(one)")
    assert page.evaluate("getSelection().toString()") == "a: dinov2_vits14"
    titles = page.locator("#sweeps svg title").all_text_contents()
    assert "chosen on other images: dinov2_vits14, layer -2, bias -0.5: 40.0" in titles


@pytest.mark.parametrize("width", [320, 390])
def test_charts_fit_a_phone_and_stay_legible(width, with_charts, open_page):
    page = open_page(with_charts, viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for svg in page.locator("figure.chart svg").all():
        box = svg.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert 11 * box["width"] / WIDTH >= (9 if width == 390 else 7.5)  # pixels of its text


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
    playwright.expect(page.locator(".card h3")).to_have_text(["both.jpg"])
