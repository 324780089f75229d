"""In a real Chromium, what the report draws and writes does not collide, and tables show all their columns.

Skipped where playwright or a Chromium is missing.
"""

from __future__ import annotations

import pytest
from artifact_cases import write_artifacts_file
from report_cases import OUTCOMES, RIGHT, WRONG, make_dataset, report, write_run, write_sweep

from lost_reg.scoring.published import Published, published_rows

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAPER = {"width": 718, "height": 1047}  # A4 within the margins of Chromium

# The texts of each chart, and what is drawn: what has a title, and marks; a text's letters are in the middle
# of its box. Gives the pairs that overlap.
_COLLISIONS = """() => {
  const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const found = [];
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const texts = [...svg.querySelectorAll('text')].map((one) => {
      const box = one.getBoundingClientRect(), cut = box.height / 5;
      return {what: one.textContent, left: box.left, right: box.right, top: box.top + cut,
              bottom: box.bottom - cut};
    });
    const drawn = [...svg.querySelectorAll('use, path')].filter((one) => !one.closest('defs'))
      .map((one) => [one, one.closest('g:has(> title)')])
      .filter(([one, group]) => group || one.localName === 'use').map(([one, group]) => {
        const {left, right, top, bottom} = one.getBoundingClientRect();
        const what = group ? group.querySelector('title').textContent : 'a mark';
        return {what, left: left - .5, right: right + .5, top: top - .5, bottom: bottom + .5};
      });
    texts.forEach((text, index) => {
      for (const other of [...texts.slice(index + 1), ...drawn])
        if (overlap(text, other)) found.push([text.what, other.what]);
    });
  }
  return found;
}"""
# The cells that the frame of a section's table cuts off, at its left or right. Tables of a chart's values,
# which unfold and have a column for each curve, may scroll.
_CUT = """() => [...document.querySelectorAll('.scroll:not(details *)')].flatMap((frame) => {
  const {left, right} = frame.getBoundingClientRect();
  return [...frame.querySelectorAll('th, td')].filter((cell) => {
    const box = cell.getBoundingClientRect();
    return box.left < left - 1 || box.right > right + 1;
  }).map((cell) => cell.textContent);
})"""


# The words of tables, titles and notes that break in their middle: "_", "-" and "/" are between words.
_BROKEN = """() => {
  const found = [], range = document.createRange();
  for (const element of document.querySelectorAll('tbody, figcaption, h3, .notes, .notice, .side-head')) {
    const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) for (const {0: word, index} of texts.currentNode.data.matchAll(/[a-z0-9]+/gi)) {
      range.setStart(texts.currentNode, index);
      range.setEnd(texts.currentNode, index + word.length);
      if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(word);
    }
  }
  return found;
}"""


@pytest.fixture
def crowded(tmp_path, make_coco, monkeypatch):
    """A page of charts where much is near each other: values at the ends, published ones beside them."""
    numbers = dict(zip("abcd", (98.0, 5.0, 56.0, 100.0)))
    longest = max((row["source"] for row in published_rows()), key=len)
    names = iter(numbers)
    monkeypatch.setattr(
        "lost_reg.scoring.score_runs.comparable_number",
        lambda *_, **__: Published(corloc=numbers[next(names)], source=longest),
    )
    results, dataset = tmp_path / "results", make_dataset(make_coco, tmp_path / "data", OUTCOMES)
    for name, right, backbone in (
        ("a", 4, "dinov2_vits14"), ("b", 0, "dinov2_vits14_reg"), ("c", 2, "dino_vits16"),
        ("the_folder_of_a_run_that_has_a_name_of_manifold_words_as_others_have", 4, "dino_vitb16"),
    ):  # fmt: skip
        boxes = {image: RIGHT if index < right else WRONG for index, image in enumerate(OUTCOMES)}
        write_run(results / name, dataset, boxes, backbone=backbone)
    write_sweep(results / "sweep")
    write_sweep(results / "sweep with", backbone="dinov2_vits14_reg")
    write_artifacts_file(results / "artifacts", "one")
    return report(results, tmp_path / "out").page


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_text_of_a_chart_lies_on_another_or_on_a_mark(crowded, open_page, viewport):
    page = open_page(crowded, viewport)
    charts = page.locator("svg[role=img]")
    assert charts.count() == 5  # bars, curves of the sweeps, and three of the artifacts
    assert {"published", "100.0", "0.0"} <= {*charts.first.locator("text").all_text_contents()}
    assert page.evaluate(_COLLISIONS) == []


def test_all_columns_of_tables_are_seen_at_the_width_of_a_desktop(crowded, open_page):
    page = open_page(crowded, DESKTOP)
    last = page.locator("table.corloc tbody td:last-child").first
    assert last.text_content().startswith("98.0 (") and last.is_visible()
    assert page.evaluate(_CUT) == []


def test_on_a_phone_all_cells_are_on_the_screen_below_their_columns_names(crowded, open_page):
    page = open_page(crowded, PHONE)
    cell = page.locator("table.corloc td[data-column=CorLoc]").first
    box = cell.bounding_box()
    assert cell.text_content() == "100.0" and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    assert cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"CorLoc"'
    assert page.evaluate(_CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_on_paper_tables_are_whole_and_colours_are_light(crowded, open_page):
    page = open_page(crowded, PAPER)
    page.select_option("#theme", "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(_CUT) == []
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(251, 250, 248)"
    assert not any(page.locator(one).is_visible() for one in ("#controls", "#download", "#more", "nav"))


def test_labels_of_charts_break_between_their_words(crowded, open_page):
    page = open_page(crowded, DESKTOP)
    lines = page.locator("#bars svg text").all_text_contents()
    first = lines.index("the_folder_of_a_run_that_has_a_name_of_manifold_")
    assert lines[first + 1] == "words_as_others_have: dino_vitb16"


def test_names_break_between_their_words(crowded, open_page):
    page = open_page(crowded, PHONE)
    page.locator(".side-head").first.wait_for(state="attached")
    assert page.evaluate(_BROKEN) == []
