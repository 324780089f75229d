"""The report: what stands on its page and in its data. What a browser makes of it: test_report_page.py."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import names, refusal, setting
from PIL import Image
from report_cases import (
    HALF,
    HOSTILE,
    NEARLY,
    OUTCOMES,
    RIGHT,
    WRONG,
    data_of,
    hostile_runs,
    make_dataset,
    report,
    some_attention,
    some_maps,
    two_runs,
    write_run,
)

from lost_reg.backbones.zoo import register_pairs
from lost_reg.cli.app import main
from lost_reg.errors import one_line
from lost_reg.report.gallery import MAX_IMAGES, best_iou, evenly_spaced
from lost_reg.report.loading import load_runs
from lost_reg.report.page import json_for_page
from lost_reg.report.pictures import heads_picture, maps_picture, ramp
from lost_reg.report.runs import bars_section, difference_mark, in_pairs, paired_by_registers
from lost_reg.runs.image_folder import ImageRoot
from lost_reg.scoring.found_boxes import ScoringOptions
from lost_reg.scoring.published import Published
from lost_reg.types import ImageTruth


@pytest.fixture
def results(tmp_path, make_coco) -> Path:
    return two_runs(make_coco, tmp_path, maps=list(OUTCOMES))


@pytest.fixture
def hostile(tmp_path, make_coco) -> Path:
    return hostile_runs(make_coco, tmp_path)


class Elements(HTMLParser):
    """The elements of a page, and the text in each kind of them."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in self._open:
            self.texts[tag][-1] += data.strip("\n")


def lost_reg(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)


# --- the data of the gallery --------------------------------------------------------------------------


def test_the_gallery_knows_what_each_run_found(results, tmp_path):
    summary = report(results, tmp_path / "out")
    assert (summary.runs, summary.shown, summary.images, summary.with_maps) == (2, 4, 4, 4)
    data = data_of(summary.page)
    assert data["runs"] == ["dinov2_vits14", "dinov2_vits14_reg"] and data["pair"] == [0, 1]
    assert data["datasets"] == [
        {"name": "instances.json all", "images": 4, "shown": 4, "runs": {"0": "a", "1": "b"}}
    ]
    items = {item["name"]: item for item in data["items"]}
    assert list(items) == list(OUTCOMES)
    ious = {name: [item["entries"][run]["iou"] for run in "01"] for name, item in items.items()}
    assert ious == {
        "both.jpg": [pytest.approx(5 / 6), 1],
        "only_a.jpg": [1, 0],
        "only_b.jpg": [pytest.approx(3 / 8), 0.5],
        "neither.jpg": [0, pytest.approx(3 / 8)],
    }
    item = items["both.jpg"]
    assert item["size_hw"] == [96, 128] and item["labels"] == ["thing"]
    assert item["truth"] == [[0.25, 0.1667, 0.75, 0.6667]]
    assert item["entries"]["0"]["boxes"] == [[0.25, 0.1667, 0.75, 0.5833]]
    assert item["entries"]["0"]["seed"] == [0.25, 0.1667, 0.375, 0.3333]


def test_what_is_found_agrees_with_corloc(results, tmp_path):
    summary = report(results, tmp_path / "out")
    (runs, _), data = load_runs(results, ScoringOptions()), data_of(summary.page)
    for index, run in enumerate(runs):
        found = [item["entries"][str(index)]["iou"] >= data["threshold"] for item in data["items"]]
        assert sum(found) == run.row.score.found == 2


def test_thumbnails_are_small_and_named_by_their_content(tmp_path, make_coco):
    dataset = make_coco(tmp_path / "data", {"wide.jpg": [(0, 0, 9, 9, 0)]}, size_hw=(200, 1000))
    write_run(tmp_path / "run", dataset, {"wide.jpg": RIGHT})
    report(tmp_path / "run", tmp_path / "out")
    (name,) = names(tmp_path / "out" / "thumbnails")
    content = (tmp_path / "out/thumbnails" / name).read_bytes()
    assert name == f"{hashlib.sha256(content).hexdigest()[:20]}.jpg"
    assert Image.open(io.BytesIO(content)).size == (640, 128)


def test_maps_are_drawn_one_below_the_other():
    mask = np.zeros((3, 2), bool)
    mask[0, 0] = mask[2, :] = True  # two components; the seed is in the lower one
    values = np.array([[0, 1], [2, 3], [4, 5]], np.float32)
    affinities = np.array([[0, 1e-4], [0, 3], [4, 1000]], np.float32)
    maps = some_maps(norms=values + 10, degrees=values[::-1], affinities=affinities, mask=mask, seed=(2, 1))
    picture = np.asarray(maps_picture(maps)).reshape(4, 5, 2)
    assert (picture[:, 0] == picture[:, 1]).all() and (picture[:, 4] == picture[:, 3]).all()  # the seams
    norms, degrees, drawn_affinities, drawn_mask = picture[:, 1:4]
    assert norms.tolist() == [[0, 50], [101, 151], [202, 252]] and (degrees == norms[::-1]).all()
    assert drawn_affinities.tolist() == [[0, 1], [0, 1], [1, 252]]  # positive is never drawn as none
    assert drawn_mask.tolist() == [[253, 254], [254, 254], [255, 255]]


def test_the_maps_of_heads_are_drawn_beside_each_other():
    """Seven maps in rows of four and three, each from its own lowest value to its highest."""
    weights = np.arange(7 * 2, dtype=np.float32).reshape(7, 1, 2)
    picture = np.asarray(heads_picture(weights))
    clear = 255
    assert picture.tolist() == [
        [0, 252, clear] * 3 + [0, 252],
        [clear] * 11,
        [0, 252, clear] * 3 + [clear] * 2,
    ]
    assert [heads_picture(weights[:count]).size for count in (1, 6)] == [(2, 1), (17, 1)]
    assert heads_picture(np.zeros((17, 1, 2))).size == (17, 5)  # 6, 6 and 5


def test_attention_is_shown_beside_the_norms_and_by_head(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    maps = {"a.jpg": some_maps(attention=some_attention()), "b.jpg": some_maps()}
    run = write_run(tmp_path / "run", dataset, dict.fromkeys(maps, RIGHT), maps=maps)
    a, b = (item["entries"]["0"]["maps"] for item in data_of(report(run, tmp_path / "out").page)["items"])
    assert a["names"] == ["norms", "attention of class", "degrees", "affinities"]
    assert a["ranges"][1] == [0, pytest.approx(0.5 / 3, abs=1e-3)]
    assert [(one["token"], one["heads"]) for one in a["attention"]] == [("class", 3), ("register 1", 3)]
    pictures = [a["picture"], *(one["picture"] for one in a["attention"])]
    assert all(re.fullmatch(r"maps/[0-9a-f]{20}\.png", name) for name in pictures)
    drawn = np.asarray(Image.open(tmp_path / "out" / pictures[0])).reshape(5, 8, 8)[1, 1:7]
    of_heads = np.asarray(Image.open(tmp_path / "out" / pictures[1]))
    assert drawn.ravel().nonzero()[0].tolist() == [0, 3, 6] and drawn.max() == 252
    assert (of_heads[:, :8] == drawn).all() and of_heads.shape == (6, 4 * 9 - 1)
    assert b["attention"] == [] and b["names"] == ["norms", "degrees", "affinities"]


def test_colours_rise_from_dark_to_bright():
    brightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in ramp()]
    assert len(brightness) == 253 and all(low <= high for low, high in pairwise(brightness))


def test_further_boxes_are_shown_in_fractions(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    boxes = {"a.jpg": [RIGHT, (0, 48, 64, 96)], "b.jpg": WRONG}
    run = write_run(tmp_path / "run", dataset, boxes)
    a, b = (item["entries"]["0"] for item in data_of(report(run, tmp_path / "out").page)["items"])
    assert a["boxes"] == [[0.25, 0.1667, 0.75, 0.6667], [0, 0.5, 0.5, 1]] and a["iou"] == 1
    assert len(b["boxes"]) == 1


def test_an_image_where_nothing_was_found_is_missed(tmp_path, make_coco):
    dataset = make_coco(tmp_path / "data", {"a.jpg": [(0, 0, 9, 9, 0)], "empty.jpg": []})
    run = write_run(tmp_path / "run", dataset, {"a.jpg": [], "empty.jpg": []})
    a, empty = (item["entries"]["0"] for item in data_of(report(run, tmp_path / "out").page)["items"])
    assert a == {"boxes": [], "iou": 0.0, "seed": None} and empty == {**a, "iou": None}


def test_maps_know_how_much_of_the_grid_the_image_covers(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    maps = some_maps(covered_hw=(0.8, 0.5))
    write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT}, maps={"a.jpg": maps})
    entry = data_of(report(tmp_path / "run", tmp_path / "out").page)["items"][0]["entries"]["0"]
    assert entry["maps"]["covered_hw"] == [0.8, 0.5] and entry["maps"]["rows"] == 6
    assert entry["maps"]["names"] == ["norms", "degrees", "affinities"]
    assert entry["maps"]["ranges"] == [[20, 67], [0, 47], [0, 6]]
    assert entry["seed"] == pytest.approx([2 / 4, 1 / 4.8, 3 / 4, 2 / 4.8], abs=1e-4)


def test_failed_images_are_missed_and_images_without_objects_are_not_scored(tmp_path, make_coco):
    dataset = make_coco(tmp_path / "data", {"bad.jpg": [(0, 0, 9, 9, 0)], "empty.jpg": [], "e2.jpg": []})
    write_run(tmp_path / "run", dataset, {"empty.jpg": RIGHT}, failures=["bad.jpg", "e2.jpg"])
    entries = {
        item["name"]: item["entries"]["0"]
        for item in data_of(report(tmp_path / "run", tmp_path / "out").page)["items"]
    }
    assert entries["bad.jpg"] == {"failure": "cannot be decoded: <b>bad</b>", "iou": 0.0}
    assert entries["empty.jpg"]["iou"] is None and entries["e2.jpg"]["iou"] is None


def test_hard_objects_that_do_not_count_are_not_shown(tmp_path, make_voc):
    root = tmp_path / "root"
    objects = {"000005": [("dog", 33, 17, 96, 64), ("cat", 1, 1, 20, 20)]}
    folder = make_voc(root / "VOCdevkit" / "VOC2007", objects, hard=("dog",))
    write_run(tmp_path / "run", folder, {"000005.jpg": RIGHT}, split="trainval")
    for options, labels, iou in (
        ([], ["dog", "cat"], 1),
        (["--no-hard"], ["cat"], pytest.approx(0.015, abs=0.02)),
    ):
        out = tmp_path / f"out{len(options)}"
        assert lost_reg("report", tmp_path / "run", "--out", out, *options).exit_code == 0
        item = data_of(out / "index.html")["items"][0]
        assert item["labels"] == labels and len(item["truth"]) == len(labels)
        assert item["entries"]["0"]["iou"] == iou


def test_best_iou_is_with_the_object_that_fits_best():
    truth = ImageTruth("a", "a", (96, 128), (WRONG, HALF, NEARLY), ("x",) * 3, (False,) * 3)
    assert best_iou(RIGHT, truth) == pytest.approx(5 / 6)


def test_files_of_ones_own_are_shown_without_scores(tmp_path, save_scene):
    save_scene(tmp_path / "photos" / "a.jpg")
    save_scene(tmp_path / "photos" / "sub" / "b.png", size_hw=(60, 40), box_xyxy=(8, 8, 32, 32))
    assert lost_reg("run", tmp_path / "photos", "--out", tmp_path / "results", "--save-maps").exit_code == 0
    summary = report(tmp_path / "results", tmp_path / "out")
    data = data_of(summary.page)
    assert data["datasets"][0]["name"] == "photos" and summary.with_maps == 2
    assert [item["name"] for item in data["items"]] == ["a.jpg", "sub/b.png"]
    assert all(item["thumbnail"] and item["entries"]["0"]["iou"] is None for item in data["items"])
    assert 'id="corloc"' not in summary.page.read_text()


# --- caps ---------------------------------------------------------------------------------------------


def test_the_cap_is_kept_and_said(results, tmp_path):
    summary = report(results, tmp_path / "out", max_images=2)
    assert (summary.shown, summary.images) == (2, 4)
    assert [item["name"] for item in data_of(summary.page)["items"]] == ["both.jpg", "only_b.jpg"]
    assert "2 of its 4 images, evenly spaced" in summary.page.read_text()
    entries = [one for item in data_of(summary.page)["items"] for one in item["entries"].values()]
    assert len(names(tmp_path / "out" / "thumbnails")) == 2 and sum("maps" in one for one in entries) == 4
    assert len(names(tmp_path / "out" / "maps")) == 1  # the same maps are one picture
    assert "50.0" in summary.page.read_text()  # CorLoc is of all images still


def test_nothing_is_said_of_a_cap_that_does_not_bind(results, tmp_path):
    assert "evenly spaced" not in report(results, tmp_path / "out", max_images=4).page.read_text()


@pytest.mark.parametrize("count, most", [(5011, 2000), (10, 3), (3, 3), (3, 10), (0, 5), (7, 6)])
def test_evenly_spaced(count, most):
    images = [str(index) for index in range(count)]
    chosen = [int(image) for image in evenly_spaced(images, most)]
    assert len(chosen) == min(count, most) and chosen == sorted(set(chosen))
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_default_cap_is_the_one_the_help_names():
    assert f"[default: {MAX_IMAGES}]" in lost_reg("report", "--help").output.replace("\n", " ")


# --- names from outside -------------------------------------------------------------------------------


def test_names_from_outside_stay_text(hostile, tmp_path):
    summary = report(hostile, tmp_path / "out")
    text = summary.page.read_text("utf-8")
    elements = Elements(text)
    kinds = [tag for tag, _ in elements.tags]
    assert kinds.count("script") == 2 and not {"img", "u", "b", "i"} & set(kinds)
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    # the cells of backbones: shown as they are, except for what cannot be printed
    shown = {cell for tag in ("td", "th") for cell in elements.texts[tag] if "hacked" in cell}
    names = [
        "dino<script>window.hacked=7</script> (<i>fp32)",
        "dinov2_vits14 ('\"><img src=x onerror=window.hacked=8>)",
    ]
    assert {*names} < shown and all(any(cell.endswith(name) for name in names) for cell in shown)


def test_names_from_outside_come_back_from_the_data(hostile, tmp_path):
    data = data_of(report(hostile, tmp_path / "out").page)
    assert {item["name"]: item["labels"] for item in data["items"]} == {
        one_line(name): [one_line(label)] for name, label in HOSTILE.items()
    }
    assert "two\\nlines.jpg" in {item["name"] for item in data["items"]}
    paths = [item["thumbnail"] for item in data["items"]]
    assert all(re.fullmatch(r"thumbnails/[0-9a-f]{20}\.jpg", path) for path in paths)


def test_json_in_the_page_cannot_end_its_element():
    content = {"</script><script>": "<!-- &lt; \u2028 \udcff é"}
    text = json_for_page(content)
    assert not set("<>&") & set(text) and text.isascii() and json.loads(text) == content


def test_a_damaged_file_of_maps_is_said_beside_its_image(hostile, tmp_path):
    summary = report(hostile, tmp_path / "out")
    entries = [item["entries"]["1"] for item in data_of(summary.page)["items"]]
    assert "does not hold maps" in entries[-1]["maps_error"] and "maps" not in entries[-1]
    assert all("maps" in entry for entry in entries[:-1]) and summary.with_maps == 5


def test_names_that_are_no_unicode_do_not_stop_a_report(tmp_path, save_scene):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    save_scene(tmp_path / "photos" / name)
    write_run(tmp_path / "run", None, {name: RIGHT}, root=tmp_path / "photos")
    (item,) = data_of(report(tmp_path / "run", tmp_path / "out").page)["items"]
    assert item["name"] == "caf\\udce9.jpg" and item["thumbnail"]


# --- the page -----------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(results, tmp_path):
    text = report(results, tmp_path / "out").page.read_text()
    elements = Elements(text)
    assert not [a for tag, a in elements.tags if tag in ("link", "script") and ("src" in a or "href" in a)]
    # comments, and checksums in base64, which can hold two strokes, name nothing
    named = re.sub(r"(?m)^\s*//.*$|sha256-[\w+/=]+", "", text)
    urls = set(re.findall(r"(?:https?:)?//[\w.]+", named))
    assert urls == {"http://www.w3.org"}  # the name of SVG's namespace
    assert "fetch(" not in text and "innerHTML" not in text


def test_only_the_pages_own_script_and_style_may_run(results, tmp_path):
    text = report(results, tmp_path / "out").page.read_text("utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src 'none'; img-src 'self' file:; ") and "unsafe" not in policy
    for kind in ("script", "style"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert ' style="' not in text


def test_the_table_says_what_corloc_says(results, tmp_path):
    elements = Elements(report(results, tmp_path / "out").page.read_text())
    first, second = elements.texts["tr"][1:3]
    assert first.startswith("adinov2_vits14instances.json all4250.015.0 to 85.0")
    assert second.startswith("bdinov2_vits14_reg") and second.endswith("no comparable number")


def test_what_did_not_count_is_said(tmp_path, make_coco):
    dataset = make_coco(
        tmp_path / "data", {name: [(32, 16, 64, 48, 0)] for name in ("a.jpg", "b.jpg", "c.jpg")}
    )
    write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT}, failures=["b.jpg"])
    text = report(tmp_path / "run", tmp_path / "out", partial=True).page.read_text()
    assert "1 undecodable, counted as misses; 1 not done, left out" in text


def test_runs_without_and_with_registers_are_paired(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    other = setting(layer=-2, normalize=True, bias=-0.3).recorded()
    for name, settings in {
        "1": {"backbone": "dinov2_vits14_reg"},
        "2": {"backbone": "dinov2_vits14"},
        "3": {"backbone": "dinov2_vits14", **other},  # no partner of these settings
        "4": {"backbone": "dinov2_vitb14_reg"},  # none of this size
        "5": {"backbone": "dino_vits16"},
        "6": {"backbone": "dinov2_vits14_reg", "precision": "bf16"},
    }.items():
        write_run(tmp_path / "results" / name, dataset, {"a.jpg": RIGHT}, **settings)
    runs, _ = load_runs(tmp_path / "results", ScoringOptions())
    assert [(a.folder.name, b.folder.name) for a, b in paired_by_registers(runs)] == [("2", "1")]
    summary = report(tmp_path / "results", tmp_path / "out")
    data, text = data_of(summary.page), summary.page.read_text()
    assert [data["runs"][run] for run in data["pair"]] == ["dinov2_vits14", "dinov2_vits14_reg"]
    assert "With and without registers" in text
    kinds = [kind for _, kind in in_pairs(runs)]
    assert kinds == ["without", "with", "plain", "plain", "plain", "plain"]
    assert all(f">{key}</text>" in text for key in ("without registers", "with registers"))


def test_test_time_registers_are_a_bar_beside_the_model_without(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    added = {"test_time_registers": {"count": 1, "neurons": [[3, 5]], "rule": "paper"}}
    weights = {"source": "file", "name": "other.pth", "sha256": "1" * 64}
    for name, settings in {
        "1": added,
        "2": {"backbone": "dinov2_vits14_reg"},
        "3": {},
        "4": {**added, "weights": weights},  # of other weights than the run without
        "5": {"backbone": "dinov2_vits14_reg", "weights": {"source": "random", "name": "", "sha256": None}},
        "6": {"backbone": "openclip", **added},
        "7": {"backbone": "openclip"},
    }.items():
        write_run(tmp_path / "results" / name, dataset, {"a.jpg": RIGHT}, **settings)
    runs, _ = load_runs(tmp_path / "results", ScoringOptions())
    pairs = [(a.folder.name, b.folder.name) for a, b in paired_by_registers(runs)]
    assert pairs == [("3", "2"), ("3", "1"), ("7", "6")]
    summary = report(tmp_path / "results", tmp_path / "out")
    data, text = data_of(summary.page), summary.page.read_text()
    assert [data["runs"][run] for run in data["pair"]] == ["dinov2_vits14", "dinov2_vits14_reg"]
    kinds = [kind for _, kind in in_pairs(runs)]
    assert kinds == ["without", "with", "test-time", "without", "test-time", "plain", "plain"]
    assert ">test-time register</text>" in text
    compared = [row for row in Elements(text).texts["tr"] if re.search(r"instances.json all100\+0", row)]
    assert len(compared) == 3 and compared[1].startswith(
        "3: dinov2_vits141: dinov2_vits14 (1 test-time register"
    )


def test_runs_of_a_method_that_is_not_installed_are_shown(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    for backbone in ("dinov2_vits14", "dinov2_vits14_reg"):
        run = tmp_path / "results" / backbone
        write_run(run, dataset, {"a.jpg": RIGHT}, backbone=backbone, method="cut", options={"tau": 0.2})
    data = data_of(report(tmp_path / "results", tmp_path / "out").page)
    assert data["pair"] == [0, 1] and all("cut" in name and "tau=0.2" in name for name in data["runs"])


def test_runs_on_the_same_images_are_shown_first(tmp_path, make_coco):
    """As far as there are two of them: runs of different images have nothing to be compared in."""
    first = make_dataset(make_coco, tmp_path / "first", ["a.jpg"])
    second = make_dataset(make_coco, tmp_path / "second", ["a.jpg"])
    for name, dataset in (("1", first), ("2", second), ("3", second)):
        write_run(tmp_path / "results" / name, dataset, {"a.jpg": RIGHT}, backbone=f"dino{name}")
        data = data_of(report(tmp_path / "results", tmp_path / "out").page)
        shown = [data["runs"][run] for run in data["pair"]]
        assert shown == (["dino2", "dino3"] if name == "3" else ["dino1"])


def test_every_pair_of_the_table_is_a_pair():
    assert register_pairs()["dinov2_vitl14"] == "dinov2_vitl14_reg" and len(register_pairs()) >= 4


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    for name in ("one", "two"):
        write_run(tmp_path / "results" / name, dataset, {"a.jpg": RIGHT})
    data = data_of(report(tmp_path / "results", tmp_path / "out").page)
    assert data["runs"] == ["dinov2_vits14, one", "dinov2_vits14, two"]


def test_runs_without_and_with_registers_are_compared_on_the_same_images(results, tmp_path):
    text = report(results, tmp_path / "out").page.read_text("utf-8")
    (row,) = [row for row in Elements(text).texts["tr"] if row.startswith("a: dinov2_vits14")]
    assert row == "a: dinov2_vits14b: dinov2_vits14_reginstances.json all411+0.0-75.0 to +75.01.0000"


def test_a_difference_stands_between_its_ends_and_zero_in_the_middle():
    def places(kind, svg):
        """The ends of lines, or the middles of dots."""
        pattern = {"line": r'd="M ([\d.]+) [\d.]+ L ([\d.]+)', "dot": r'<use [^>]*x="([\d.]+)"'}[kind]
        return [tuple(map(float, np.ravel(found))) for found in re.findall(pattern, svg)]

    svg = difference_mark(5.0, (-10.0, 7.5), 10.0)
    zero, interval = [place for place in places("line", svg) if place[1] < 112][:2]
    (dot,) = places("dot", svg)
    (middle, _), (low, high) = zero, interval
    assert high - middle == pytest.approx(0.75 * (middle - low), abs=0.05)
    assert dot[0] - middle == pytest.approx(0.5 * (middle - low), abs=0.05)


def test_without_pairs_each_run_is_compared_with_the_first(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", OUTCOMES)
    for name, box, backbone in (
        ("1", WRONG, "dino_vits16"),
        ("2", RIGHT, "dino_vits8"),
        ("3", WRONG, "deit3"),
    ):
        write_run(tmp_path / "results" / name, dataset, dict.fromkeys(OUTCOMES, box), backbone=backbone)
    write_run(tmp_path / "results" / "own", None, {"x.jpg": RIGHT})  # of no dataset: nothing to compare
    text = report(tmp_path / "results", tmp_path / "out").page.read_text("utf-8")
    rows = [
        row
        for row in Elements(text).texts["tr"]
        if re.match(r"1: dino_vits16\d: (dino_vits8|deit3)inst", row)
    ]
    assert rows[0] == "1: dino_vits162: dino_vits8instances.json all404+100.0+100.0 to +100.00.1250"
    assert rows[1] == "1: dino_vits163: deit3instances.json all400+0.0+0.0 to +0.01.0000"


def test_runs_that_cannot_be_compared_are_said(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    for name, images in (("1", ["a.jpg"]), ("2", ["a.jpg"]), ("3", ["b.jpg"])):
        write_run(tmp_path / "results" / name, dataset, dict.fromkeys(images, RIGHT), backbone=f"dino{name}")
    text = report(tmp_path / "results", tmp_path / "out", partial=True).page.read_text("utf-8")
    assert "1: dino1 and 3: dino3: nothing to compare" in text and "Paired differences" in text


def test_one_run_is_compared_with_nothing(results, tmp_path):
    assert "Paired differences" not in report(results / "a", tmp_path / "out").page.read_text("utf-8")


# --- charts -------------------------------------------------------------------------------------------


def titles_of(section) -> list[str]:
    """What the parts of the first chart of a section say when they are pointed at."""
    return [
        html.unescape(title)
        for title in re.findall("<title>(.*?)</title>", section.data["charts"][0]["chart"])
    ]


def test_bars_stand_where_their_numbers_are(tmp_path, make_coco):
    """Of four images, one and three are found: bars of 25 and 75 on an axis to 100."""
    dataset = make_dataset(make_coco, tmp_path / "data", OUTCOMES)
    for name, found in (("one & only", 1), ("three", 3)):
        boxes = {image: RIGHT if index < found else WRONG for index, image in enumerate(OUTCOMES)}
        write_run(tmp_path / "results" / name, dataset, boxes, backbone=name)
    section = bars_section(load_runs(tmp_path / "results", ScoringOptions())[0])
    svg = str(section.data["charts"][0]["chart"])
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == (
        "CorLoc on instances.json all: one & only 25.0, 95 % interval 4.6 to 69.9; "
        "three 75.0, 95 % interval 30.1 to 95.4"
    )
    bars = [
        re.findall(r"[\d.]+", group.find("{*}path").get("d"))
        for group in root.iter()
        if re.match(r"one & only|three", group.findtext("{*}title") or "")
    ]
    lengths = [float(path[2]) - float(path[0]) for path in bars]
    assert lengths[1] == pytest.approx(3 * lengths[0], abs=0.05)
    ticks = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*>(?:0|20|40|60|80|100)</text>', svg)]
    assert float(bars[0][0]) == pytest.approx(ticks[0], abs=0.05)
    assert lengths[1] == pytest.approx(0.75 * (ticks[-1] - ticks[0]), abs=0.05)
    assert ">25.0</text>" in svg and ">75.0</text>" in svg and ">95 % interval</text>" in svg


def test_published_numbers_are_marked(tmp_path, make_coco, monkeypatch):
    run = write_run(
        tmp_path / "run", make_dataset(make_coco, tmp_path / "data", OUTCOMES), dict.fromkeys(OUTCOMES, RIGHT)
    )
    published = Published(corloc=61.9, source="a paper")
    monkeypatch.setattr("lost_reg.scoring.score_runs.comparable_number", lambda *_, **__: published)
    section = bars_section(load_runs(run, ScoringOptions())[0])
    assert (
        "published: 61.9" in titles_of(section) and ">published</text>" in section.data["charts"][0]["chart"]
    )
    assert "95 % interval 51.0 to 100.0, published 61.9" in section.data["charts"][0]["chart"]


def test_baselines_are_drawn_only_where_they_are_the_same_for_all(results, tmp_path, make_coco):
    assert "a centred box of 80 % side" in report(results, tmp_path / "out").page.read_text()
    dataset = tmp_path / "data" / "instances.json"
    # of an image that is all object, the whole image is right
    content = json.loads(dataset.read_text())
    content["annotations"][0]["bbox"] = [0, 0, 128, 96]
    dataset.write_text(json.dumps(content))
    write_run(results / "c", dataset, {"both.jpg": RIGHT}, backbone="dino_vits16")
    assert (
        "a centred box of 80 % side" not in report(results, tmp_path / "out", partial=True).page.read_text()
    )


# --- the folder, and bad input ------------------------------------------------------------------------


def test_an_earlier_report_is_replaced_whole(results, tmp_path):
    report(results, tmp_path / "out")
    report(results / "a", tmp_path / "out", max_images=1)
    assert len(names(tmp_path / "out" / "thumbnails")) == len(names(tmp_path / "out" / "maps")) == 1
    assert len(data_of(tmp_path / "out" / "index.html")["items"]) == 1


def test_other_peoples_files_are_left_alone(results, tmp_path):
    out = tmp_path / "out"
    for name in ("notes.txt", "index.html", "maps/a.npz"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
        assert "holds files other than" in refusal(report, results, out)
        assert (out / name).read_text() == "mine"
        (out / name).unlink()
    assert "holds files other than" in refusal(report, results, results / "a")  # it has maps too


def test_an_earlier_report_stays_whole_until_the_new_one_is(results, tmp_path, monkeypatch):
    """Killed at any time, a report is all of the old one or all of the new one."""
    out = tmp_path / "out"
    report(results / "a", out, max_images=1)
    old = contents(out)

    def stopped(path, text):
        raise KeyboardInterrupt

    monkeypatch.setattr("lost_reg.report.report._write", stopped)
    with pytest.raises(KeyboardInterrupt):
        report(results, out)
    assert {**contents(out), **old} == contents(out) != old  # the new pictures are beside the old ones
    monkeypatch.undo()
    (out / "maps" / ".0123456789abcdef.part").write_text("half")
    (out / "maps" / "0123456789abcdef0123.png").write_text("of a report that was interrupted")
    report(results, out)
    assert {*contents(out)} == {"index.html", *pictures_of(out)} and len(pictures_of(out)) == 5


def pictures_of(out: Path) -> set[str]:
    """The pictures that a page shows."""
    return {*re.findall(r'"((?:maps|thumbnails)/[^"]*)"', json.dumps(data_of(out / "index.html")))}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder) if (folder / name).is_file()}


def test_no_picture_is_written_through_a_link(results, tmp_path):
    report(results / "a", tmp_path / "out")
    (tmp_path / "theirs").mkdir()
    shutil.rmtree(tmp_path / "out" / "maps")
    (tmp_path / "out" / "maps").symlink_to(tmp_path / "theirs")
    assert "is a link" in refusal(report, results, tmp_path / "out")
    assert names(tmp_path / "theirs") == []


def test_a_report_that_was_interrupted_can_be_written_again(results, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lost_reg.report.report.write_gallery", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report(results, tmp_path / "out")
    monkeypatch.undo()
    assert report(results, tmp_path / "out").shown == 4


def test_images_that_are_gone_are_counted_and_shown_without_a_picture(results, tmp_path):
    (tmp_path / "data" / "images" / "only_a.jpg").unlink()
    (tmp_path / "data" / "images" / "neither.jpg").write_bytes(b"not an image")
    result = lost_reg("report", results, "--out", tmp_path / "out")
    assert result.exit_code == 0
    gone = "2 images without a picture: gone, damaged or in a tar shard"
    assert f"Warning: {gone}\n" in result.stderr
    assert f"<li>{gone}</li>" in (tmp_path / "out" / "index.html").read_text("utf-8")
    items = data_of(tmp_path / "out" / "index.html")["items"]
    assert [item["thumbnail"] is None for item in items] == [False, True, False, True]
    assert items[1]["size_hw"] == [96, 128]


def test_images_at_addresses_are_said_to_be_there(tmp_path, save_scene):
    """By a run on a list of addresses and a file that is gone, and by one on a folder at an address."""
    boxes = dict.fromkeys(["https://host.invalid/a.jpg", "s3://bucket/b.jpg", "gone.jpg"], RIGHT)
    write_run(tmp_path / "results" / "list", None, boxes, root=tmp_path)
    write_run(tmp_path / "results" / "folder", None, {"c.jpg": RIGHT}, root="s3://bucket/photos")
    assert report(tmp_path / "results", tmp_path / "out").without_picture == (
        "3 images without a picture: images at addresses are not read again",
        "1 image without a picture: gone, damaged or in a tar shard",
    )
    save_scene(tmp_path / "copies" / "c.jpg")
    copies = ImageRoot(tmp_path / "copies")
    folder = tmp_path / "results" / "folder"
    assert report(folder, tmp_path / "out", images=copies).without_picture == ()


def test_the_command_says_where_the_page_is(results, tmp_path):
    result = lost_reg("report", results, "--out", tmp_path / "out", "--max-images", 3)
    assert result.exit_code == 0
    page = tmp_path / "out" / "index.html"
    assert result.stdout == f"2 runs, 3 of 4 images, 3 with maps: open {page}\n"


def test_a_bad_run_does_not_hide_the_others(results, tmp_path):
    (results / "c").mkdir()
    (results / "c" / "run.json").write_text("{}")
    result = lost_reg("report", results, "--out", tmp_path / "out")
    assert result.exit_code == 1 and result.stdout.startswith("2 runs, 4 images")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "is not the record of a run" in line
    assert line.removeprefix("Error: ") in html.unescape((tmp_path / "out" / "index.html").read_text())


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["missing"], "no such folder"),
        (["empty"], "no runs in"),
        (["file"], "is a file: name the folder of a run"),
        (["results", "--out", "file"], "it is a file"),
        (["results", "--max-images", "0"], "--max-images"),
        (["results", "--dataset", "nonsense"], "unknown dataset"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_line(results, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    result = lost_reg("report", *arguments)
    assert result.exit_code in (1, 2) and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ") and expected in result.stderr
    assert not (tmp_path / "report").exists()


def test_an_incomplete_run_is_left_out_with_a_warning(results, tmp_path):
    predictions = results / "a" / "predictions.jsonl"
    lines = predictions.read_text().splitlines(keepends=True)
    predictions.write_text("".join(lines[:-1]))
    result = lost_reg("report", results, "--out", tmp_path / "out")
    assert result.exit_code == 0 and result.stdout.startswith("1 run, 4 images")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Warning: left out: {results / 'a'} covers 3 of the 4 images of ")
    assert "--partial scores those alone" in line


def test_an_incomplete_run_alone_needs_partial(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg", "b.jpg"])
    write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT})
    result = lost_reg("report", tmp_path / "run", "--out", tmp_path / "out")
    assert result.exit_code == 1 and "--partial" in result.stderr and not (tmp_path / "out").exists()
    assert lost_reg("report", tmp_path / "run", "--out", tmp_path / "out", "--partial").exit_code == 0


# --- whole images ------------------------------------------------------------------------------------


def test_a_run_of_whole_images_has_a_note_with_its_score_or_above_the_gallery(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", OUTCOMES)
    whole, root = dict.fromkeys(OUTCOMES, (0, 0, 128, 96)), dataset.parent / "images"
    write_run(tmp_path / "results" / "scored", dataset, whole)
    write_run(tmp_path / "results" / "mine", None, whole, root=root, backbone="dino_vits16")
    write_run(tmp_path / "results" / "right", dataset, dict.fromkeys(OUTCOMES, RIGHT), backbone="deit3")
    page = report(tmp_path / "results", tmp_path / "out").page.read_text("utf-8")
    table, gallery = page.split('<section id="corloc"')[1].split('<section id="gallery"')
    note = (
        "<li>{}: 4 of 4 boxes are the whole image; try <code>preset</code> best; "
        "<code>lost-reg sweep</code> compares settings</li>"
    )
    assert note.format("scored: dinov2_vits14") in table and note.format("mine: dino_vits16") in gallery
    assert page.count("the whole image;") == 2
    assert (
        "<li>mine: dino_vits16</li>" in gallery and "<li>scored:" not in gallery
    )  # the table names that one


def test_runs_that_differ_in_nothing_else_are_told_apart_by_their_folders_once(tmp_path, make_coco):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"])
    for name in ("plain", "ray"):
        write_run(tmp_path / "results" / "mine" / name, None, {"a.jpg": RIGHT}, root=tmp_path / "data")
        write_run(tmp_path / "results" / f"scored_{name}", dataset, {"a.jpg": RIGHT})
    runs, _ = load_runs(tmp_path / "results", ScoringOptions())
    folders = ["plain", "ray", "scored_plain", "scored_ray"]
    assert [run.label for run in runs] == [f"{folder}: dinov2_vits14" for folder in folders]
    assert len({run.name for run in runs}) == 4
    page = report(tmp_path / "results", tmp_path / "out").page.read_text("utf-8")
    assert "<li>ray: dinov2_vits14</li>" in page
    assert page.count('<td data-column="backbone">dinov2_vits14</td>') == 2


@pytest.mark.parametrize("with_truth", [False, True])
@pytest.mark.parametrize("with_maps", [False, True])
def test_the_legend_names_what_there_is(with_truth, with_maps, make_coco, tmp_path):
    dataset = make_dataset(make_coco, tmp_path / "data", ["a.jpg"]) if with_truth else None
    maps = ["a.jpg"] if with_maps else []
    write_run(tmp_path / "run", dataset, {"a.jpg": RIGHT}, maps=maps, root=tmp_path / "data" / "images")
    text = report(tmp_path / "run", tmp_path / "out").page.read_text(encoding="utf-8")
    legend = text.partition('<ul class="legend keys">')[2].partition("</ul>")[0]
    assert "box found" in legend and "seed" in legend
    assert ("true boxes" in legend) == with_truth
    assert ("low to high" in legend) == ("What the maps show" in text) == with_maps
