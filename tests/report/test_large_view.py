"""The large view of a report, its filter by tags and its downloads, and what axe-core finds, in Chromium."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from helpers import found_object, prediction, write_predictions
from probe_cases import column, write_case
from report_cases import (
    HOSTILE,
    OUTCOMES,
    RIGHT,
    hostile_runs,
    make_dataset,
    report,
    some_attention,
    some_maps,
    two_runs,
    write_run,
    write_sweep,
)

from lost_reg.errors import one_line

PHONE = {"width": 390, "height": 844}
FOCUSED = "document.activeElement.ariaLabel"


def large(page) -> tuple[str, str, str]:
    """What the large view shows: image, place in the list, and view."""
    return tuple(page.locator(f"#viewer-{part}").text_content() for part in ("title", "place", "caption"))


def kinds(pane) -> list[str]:
    return pane.locator(".box").evaluate_all("all => all.map((one) => one.className.replace('box ', ''))")


@pytest.mark.parametrize("way", ["click", "Enter"])
def test_a_picture_opens_large_and_closes_to_where_it_was_opened(way, two, open_page):
    page = open_page(two)
    opener = page.locator(".card").nth(1).get_by_role("button", name="Degree of a in")
    if way == "click":
        opener.click()
    else:
        opener.focus()
        page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    assert large(page) == ("only_a.jpg", "2 of 4", "only_a.jpg, a: Degree, 0 to 47")
    pane = page.locator("#viewer-stage .pane")
    assert kinds(pane) == ["predicted", "true", "seed"]  # also over maps
    assert pane.bounding_box()["width"] > 3 * opener.bounding_box()["width"]
    page.keyboard.press("Escape")
    page.locator("#viewer").wait_for(state="hidden")
    assert page.evaluate(FOCUSED) == "Enlarge: Degree of a in only_a.jpg"


def test_arrow_keys_step_through_the_filtered_list_and_through_views(two, open_page):
    page = open_page(two)
    page.select_option("#show", "one")
    page.locator(".card").first.get_by_role("button", name="Input").click()
    captions = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
        captions.append(large(page)[2])
    assert captions == [
        "only_b.jpg, a: Boxes",
        "only_a.jpg, a: Boxes",  # after the last comes the first
        "only_b.jpg, a: Boxes",
        "only_b.jpg, a: Mask",
        "only_b.jpg, a: Boxes",
        "only_b.jpg, b: Token norm, 20 to 67",
    ]
    current = page.locator("#viewer .thumbnail[aria-current]")
    assert current.get_attribute("aria-label") == "Token norm of b in only_b.jpg"
    page.get_by_role("button", name="Next image").click()
    assert large(page)[0] == "only_a.jpg"
    page.locator("#viewer .thumbnail").first.click()
    assert large(page)[2] == "only_a.jpg: Input"


def test_boxes_can_be_taken_away(two, open_page):
    page = open_page(two)
    page.get_by_role("button", name="Enlarge: Boxes").first.click()
    box = page.locator("#viewer-stage .predicted")
    assert box.is_visible()
    page.get_by_role("checkbox", name="boxes").uncheck()
    assert box.is_hidden()


def test_what_a_reason_has_in_backticks_is_code(tmp_path, make_coco, open_page):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    write_run(tmp_path / "run", dataset, {}, failures=["a.jpg"])
    failures = tmp_path / "run" / "errors.jsonl"
    failures.write_text(failures.read_text().replace("<b>bad</b>", "`git lfs pull` gets <b>it</b>"))
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    escaped = "cannot be decoded: <code>git lfs pull</code> gets &lt;b&gt;it&lt;/b&gt;"
    assert page.locator(".card .reason").inner_html() == escaped


@pytest.mark.parametrize("parts", [("boxes", "masks"), ("previous", "next", "close")])
def test_on_a_phone_what_belongs_together_stands_in_a_row(parts, two, open_page):
    page = open_page(two, viewport=PHONE)
    page.get_by_role("button", name="Enlarge: Boxes").first.click()
    for width in range(240, 400, 16):  # the place where the line breaks depends on it
        page.set_viewport_size({**PHONE, "width": width})
        places = [page.locator(f"#viewer-{part}").bounding_box()["y"] for part in parts]
        assert len(set(places)) == 1, width


def test_missing_maps_are_said_once_for_a_run_and_else_for_an_image(tmp_path, make_coco, open_page):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    boxes = {"a.jpg": RIGHT, "b.jpg": RIGHT}
    write_run(tmp_path / "results" / "some", dataset, boxes, maps=["a.jpg"])
    write_run(tmp_path / "results" / "none", dataset, boxes, backbone="dino_vits16")
    page = open_page(report(tmp_path / "results", tmp_path / "out").page)
    (note,) = page.locator("#gallery .notes li").all_text_contents()
    assert note.startswith("No maps of none: lost-reg draw makes them from the folder of a run")
    commands = page.locator("#gallery .notes code").all_text_contents()
    assert commands == ["lost-reg draw", "lost-reg run --save-maps"]
    of_b = ["no maps: the run's folder has none of this image, though of others"]
    assert page.locator(".card").first.locator(".reason").count() == 0
    assert page.locator(".card").last.locator(".reason").all_text_contents() == of_b
    page.locator(".card").last.get_by_role("button").first.click()
    assert page.locator("#viewer .reason").all_text_contents() == of_b


def test_the_frame_of_a_whole_image_is_seen(tmp_path, make_coco, open_page):
    """Its lines lie inside the picture, in full width, and the true box is seen over the found one."""
    dataset = make_coco(tmp_path / "data", {"a.jpg": [(0, 0, 128, 96, 0)]})
    write_run(tmp_path / "run", dataset, {"a.jpg": (0, 0, 128, 96)})
    page = open_page(report(tmp_path / "run", tmp_path / "out").page)
    pane = page.locator(".panels .pane")
    for kind, width in (("predicted", "2.5px"), ("true", "2px")):
        box = pane.locator(f".{kind}")
        assert box.bounding_box() == pytest.approx(pane.bounding_box(), abs=0.6)
        assert box.evaluate("one => getComputedStyle(one).boxSizing") == "border-box"
        assert float(box.evaluate("one => getComputedStyle(one).borderTopWidth")[:-2]) >= int(width[0])
    assert kinds(pane)[:2] == ["predicted", "true"]  # the dashes come last: between them, the other shows


def test_on_a_phone_maps_are_thumbnails_in_a_row_that_open(two, open_page):
    page = open_page(two, viewport=PHONE)
    side = page.locator(".card .side").first
    result, maps = side.locator(".result"), side.locator(".maps .open")
    places = [one.bounding_box() for one in maps.all()]
    assert len(places) == 4 and len({place["y"] for place in places}) == 1
    assert all(40 < place["width"] < 0.5 * result.bounding_box()["width"] for place in places)
    assert places[0]["y"] > result.bounding_box()["y"]
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    maps.last.click()
    assert large(page)[2].endswith(": Mask")
    assert page.locator("#viewer-stage .pane").bounding_box()["width"] > 0.85 * PHONE["width"]
    assert page.locator("#viewer").evaluate("one => one.scrollWidth <= one.clientWidth")


def test_tags_are_true_classes_and_labels_that_were_found(tmp_path, save_scene, make_coco, open_page):
    labels = {"1.jpg": "dog", "2.jpg": "cat", "3.jpg": "dog"}
    dataset = make_dataset(make_coco, tmp_path / "data", labels, labels)
    run = write_run(tmp_path / "run", dataset, dict.fromkeys(labels, RIGHT))
    page = open_page(report(run, tmp_path / "out").page)
    assert page.locator("#tag option").all_text_contents() == ["all", "cat (1)", "dog (2)"]
    page.select_option("#tag", label="dog (2)")
    assert page.locator(".card h3").all_text_contents() == ["1.jpg", "3.jpg"]
    assert page.locator("#count").text_content() == "2 of 3 images"

    for name in ("a.jpg", "b.jpg"):
        save_scene(tmp_path / "photos" / name)
    found = [prediction("a.jpg", replace(found_object(RIGHT), label="cluster 7")), prediction("b.jpg")]
    write_predictions(tmp_path / "own", found, root=tmp_path / "photos", dataset=None, split=None)
    page = open_page(report(tmp_path / "own", tmp_path / "out").page)
    page.select_option("#tag", label="cluster 7, found (1)")
    assert page.locator(".card h3").all_text_contents() == ["a.jpg"]


def downloaded(page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.get_by_role("button", name="Download list").click()
    assert download.value.suggested_filename == "images.csv"
    text = Path(download.value.path()).read_bytes().decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_filtered_list_is_downloaded_in_its_order(two, open_page):
    page = open_page(two)
    page.select_option("#show", "one")
    page.select_option("#sort", "best-b")
    rows = downloaded(page)
    assert [row["image"] for row in rows] == ["only_b.jpg", "only_a.jpg"]
    assert rows[0] == {
        "image": "only_b.jpg",
        "dataset": "instances.json all",
        "classes": "thing",
        "run_a": "a",
        "outcome_a": "missed",
        "iou_a": "0.3750",
        "run_b": "b",
        "outcome_b": "found",
        "iou_b": "0.5000",
    }
    page.fill("#search", "no such image")
    page.locator("#download:disabled").wait_for()


def test_names_are_quoted_in_the_download(tmp_path, make_coco, open_page):
    page = open_page(report(hostile_runs(make_coco, tmp_path), tmp_path / "out").page)
    rows = downloaded(page)
    assert [row["image"] for row in rows] == list(map(one_line, HOSTILE))
    assert [row["classes"] for row in rows] == list(map(one_line, HOSTILE.values()))
    page.locator(".card").last.locator(".open:visible").first.click()
    page.keyboard.press("ArrowLeft")
    assert large(page)[0] == one_line(list(HOSTILE)[-2])
    assert page.evaluate("window.hacked") is None
    assert page.locator("#viewer script, #viewer [onerror]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_core_finds_nothing_serious(scheme, tmp_path, make_coco, open_page):
    axe = files(pytest.importorskip("axe_playwright_python")).joinpath("axe.min.js").read_text("utf-8")
    maps = dict.fromkeys(OUTCOMES, some_maps(attention=some_attention()))
    results = two_runs(make_coco, tmp_path, maps=maps)
    write_sweep(results / "sweep")
    write_case(results / "probe", {("cls", "logistic", "top1"): column(1, 1, 0)})
    page = open_page(report(results, tmp_path / "out").page, color_scheme=scheme)

    def violations() -> list[str]:
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] != "minor"]

    page.get_by_text("Attention of each token and head").first.click()
    assert violations() == []
    page.locator(".card .open").first.click()
    assert violations() == []
    page.keyboard.press("Escape")
    page.set_viewport_size(PHONE)
    assert violations() == []
