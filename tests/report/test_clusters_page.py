"""clusters.html: its text and pictures, and how Chromium shows it: on a phone, in the dark."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace

import pytest
from helpers import found_object, prediction, refusal, write_predictions
from PIL import Image
from report_cases import HOSTILE

from lost_reg.report.clusters import CROP_SIDE, CROPS_SHOWN, write_clusters_page
from lost_reg.runs.folder import read_run
from lost_reg.runs.image_folder import ImageRoot
from lost_reg.runs.labels import relabel


@pytest.fixture
def make_run(tmp_path, save_scene):
    """A function that writes a run of images whose boxes get narrower with their distance to the centre."""

    def make(count, clusters=2, titles=("one", "two"), images=None, root=True):
        files = images or [f"{number}.jpg" for number in range(count)]
        for number, name in enumerate(files):
            save_scene(tmp_path / "images" / name, seed=number)
        found = [
            prediction(
                name,
                found_object(
                    (0, 0, 100 - number, 96), cluster=1 + number % clusters, centre_distance=number / 10
                ),
            )
            for number, name in enumerate(reversed(files))
        ]
        folder = write_predictions(
            tmp_path / "run", found, root=tmp_path / "images" if root else None, apply_exif=False
        )
        sizes = [len(found[start::clusters]) for start in range(clusters)]
        record = {
            "k": clusters,
            "boxes": count,
            "sizes": sizes,
            "silhouette": 0.5,
            "backbone": "tiny",
            "names": [*titles],
        }
        relabel(
            folder,
            lambda image, index, one: replace(one, label=titles[int(one.details["cluster"]) - 1]),
            record,
        )
        return folder

    return make


def pictures(page):
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in re.findall(r"base64,([\w+/=]+)", page)]


def test_the_nearest_crops_come_first(make_run):
    path, missing = write_clusters_page(make_run(60))
    assert missing is None and path == path.parent / "clusters.html"
    page = path.read_text()
    assert "60 boxes in 2 clusters by the class token of tiny, silhouette 0.500" in page
    assert "cluster 01; 30 objects; the 24 nearest to its centre" in page
    shown = pictures(page)
    assert len(shown) == 2 * CROPS_SHOWN and all(max(one.size) <= CROP_SIDE for one in shown)
    widths = [one.width for one in shown[:CROPS_SHOWN]]
    assert widths == sorted(widths, reverse=True) and widths[0] == 100
    assert page.index('alt="59.jpg, object 0"') < page.index('alt="57.jpg, object 0"')


def test_images_that_are_gone_are_counted_and_the_rest_is_shown(make_run, tmp_path):
    run = make_run(4)
    (tmp_path / "images/1.jpg").unlink()
    path, missing = write_clusters_page(run)
    assert missing.count == 1 and "1.jpg" in str(missing)
    assert len(pictures(path.read_text())) == 3
    shutil.move(tmp_path / "images", tmp_path / "moved")
    assert write_clusters_page(run, ImageRoot(tmp_path / "moved"))[1].count == 1


def test_a_run_without_clusters_has_no_page(tmp_path):
    run = write_predictions(tmp_path / "run", [prediction("a.jpg", (0, 0, 5, 5))])
    assert "has no clusters" in refusal(write_clusters_page, run)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_is_legible(browser, make_run, width, scheme):
    name = "<script>window.hacked=1</script>" + "x" * 60
    path, _ = write_clusters_page(
        make_run(7, titles=("one", name), images=[*HOSTILE][:2] + [f"{n}.jpg" for n in range(5)])
    )
    page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
    troubles = []
    page.on("console", lambda message: troubles.append(message.text))
    page.goto(path.resolve().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(one => one.decode)") and page.locator("img").count() == 7
    page.evaluate("Promise.all([...document.images].map(one => (one.loading = 'eager', one.decode())))")
    sheet = page.locator(".sheet").first.bounding_box()
    assert sheet["width"] > width * 0.6
    tops = {round(one.bounding_box()["y"]) for one in page.locator(".sheet >> nth=0").locator("li").all()}
    assert len(tops) == (2 if width == 390 else 1)
    assert page.locator("h2").all_inner_texts() == ["one", name]
    assert page.evaluate("window.hacked") is None
    colours = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    text, back = (sum(map(int, re.findall(r"\d+", one)[:3])) for one in colours)
    assert (text > 500 and back < 150) if scheme == "dark" else (text < 150 and back > 600)
    assert troubles == []
    page.context.close()


def test_the_labels_are_those_of_the_page(make_run):
    run = make_run(4)
    write_clusters_page(run)
    assert {one.objects[0].label for one in read_run(run).predictions.values()} == {"one", "two"}
