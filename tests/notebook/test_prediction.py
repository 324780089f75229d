"""Predictions draw themselves, and convert to what other libraries take."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import re
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from colours import planted
from helpers import prediction, refusal, write_predictions
from PIL import Image

from lost_reg import (
    FoundObject,
    LoaderOptions,
    Prediction,
    discover,
    discover_stream,
    in_pixels,
    load_backbone,
)
from lost_reg.export.run_export import ExportOptions, export_run
from lost_reg.notebook.html import of_prediction
from lost_reg.notebook.prediction import ImagePrediction, Predictions
from lost_reg.runs.folder import read_run
from lost_reg.runs.pictures import BOX_COLOUR, draw_prediction
from lost_reg.types import Failure


@pytest.fixture
def found(colours) -> ImagePrediction:
    """A white rectangle, (16, 8, 40, 24), found on black, with its mask."""
    return discover(planted(), colours, "lost", masks=True)[0]


@pytest.fixture
def of_file(colours, tmp_path) -> ImagePrediction:
    Image.fromarray(planted()).save(tmp_path / "a.png")
    return discover(tmp_path / "a.png", colours, "lost")[0]


# --- a prediction with its image is a prediction -----------------------------------------------------


def test_it_is_equal_to_a_prediction_with_the_same_content(found):
    plain = Prediction(found.image, found.size_hw, found.grid_hw, found.objects)
    assert found == plain and plain == found and isinstance(found, Prediction)
    assert found != replace(plain, image="b") and replace(plain, image="b") != found and found != "a"
    again = replace(found, image="b")
    assert again.image == "b" and again.picture().size == (64, 48)  # which keeps its image


def test_it_is_stored_as_a_prediction_and_can_be_copied(found, of_file, tmp_path):
    folder = write_predictions(tmp_path / "run", [found, of_file])
    assert [*read_run(folder).predictions.values()] == [found, of_file]
    assert "_source" not in (folder / "predictions.jsonl").read_text()
    for one in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert one == found and one.picture().size == (64, 48)
    assert asdict(Prediction(**{k: v for k, v in vars(found).items() if k != "_source"}))["image"] == "[0]"


def test_its_text_is_one_readable_line(found):
    assert repr(found) == "<Prediction '[0]', 64 x 48 pixels: 1 object, first (16, 8, 40, 24), score 1>"
    assert repr(prediction("b\nc.jpg", (0, 0.25, 9, 9), (0, 0, 4, 4))) == (
        r"<Prediction 'b\\nc.jpg', 128 x 96 pixels: 2 objects, first (0, 0.25, 9, 9), score 0.25>"
    )
    assert repr(prediction("c.jpg")) == "<Prediction 'c.jpg', 128 x 96 pixels: nothing found>"


def test_the_text_of_a_backbone_says_what_it_is(random_backbone, colours):
    assert repr(random_backbone) == (
        "<Backbone tiny (RANDOM WEIGHTS): patches of 16 pixels, 6 blocks of 3 heads; cpu, fp32>"
    )
    assert repr(colours) == "<Backbone patch_means: patches of 8 pixels; cpu, fp32>"
    assert repr(load_backbone("tiny", precision="bf16", device="cpu")).startswith("<Backbone tiny: ")


# --- pictures ----------------------------------------------------------------------------------------


def test_the_picture_is_that_of_a_run(found, of_file):
    for one in (found, of_file):
        expected = draw_prediction(Image.fromarray(planted()), one)
        assert np.array_equal(np.asarray(one.picture()), np.asarray(expected))
        assert one.picture().getpixel((16, 20)) == BOX_COLOUR
    assert found.picture(max_side=32).size == (32, 24)
    assert found.picture(max_side=640).size == (64, 48)  # never enlarged


def test_a_file_is_read_as_it_was_searched(colours, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter
    Image.fromarray(planted()).save(tmp_path / "turned.png", exif=exif)
    for apply_exif, size in ((True, (48, 64)), (False, (64, 48))):
        (one,) = discover(
            tmp_path / "turned.png", colours, "lost", loader=LoaderOptions(apply_exif=apply_exif)
        )
        assert one.picture().size == size
    Image.new("RGBA", (16, 16)).save(tmp_path / "clear.png")
    (one,) = discover(tmp_path / "clear.png", colours, "lost", loader=LoaderOptions(background="blue"))
    assert one.picture().getpixel((8, 12)) == (0, 0, 255)


def test_a_stream_gives_predictions_with_images_whatever_they_were(colours, tmp_path):
    Image.fromarray(planted()).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    named = [("a", tmp_path / "a.png"), ("b", content), ("c", planted())]
    pictures = [np.asarray(one.picture()) for one in discover_stream(named, colours, "lost")]
    assert len(pictures) == 3 and all(np.array_equal(one, pictures[0]) for one in pictures)


def test_an_image_that_is_gone_or_changed_is_an_error_with_its_name(of_file, tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    assert refusal(of_file.picture) == f"{tmp_path / 'a.png'}: its size has changed since it was searched"
    (tmp_path / "a.png").unlink()
    assert refusal(of_file.picture).startswith(f"{tmp_path / 'a.png'}: no such file")
    assert "<p>" in of_file._repr_html_() and "no such file" in of_file._repr_html_()
    alone = ImagePrediction("x.jpg", (4, 4), (1, 1), ())
    assert refusal(alone.picture) == "x.jpg: the prediction has no image"


def test_plot_draws_with_matplotlib_on_new_or_given_axes(found):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    axes = found.plot()
    assert axes.get_title() == "[0]" and not axes.axison
    assert np.array_equal(axes.images[0].get_array(), np.asarray(found.picture()))
    _, given = pyplot.subplots()
    assert found.plot(given) is given and len(given.images) == 1
    pyplot.close("all")


# --- HTML --------------------------------------------------------------------------------------------


def pictures_in(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_the_html_has_the_picture_and_the_boxes(found):
    html = found._repr_html_()
    (picture,) = pictures_in(html)
    assert picture.size == (64, 48) and "<td>16, 8, 40, 24</td><td>1.0</td>" in html
    assert "<th>label</th>" not in html
    labelled = replace(found, objects=(replace(found.objects[0], label="dog"),))
    assert "<td>1.0</td><td>dog</td>" in labelled._repr_html_()
    assert "nothing found" in replace(found, objects=())._repr_html_()


def test_large_pictures_are_shown_small(colours):
    (large,) = discover(planted((600, 1000)), colours, "lost", max_side=64)
    assert [one.size for one in pictures_in(large._repr_html_())] == [(480, 288)]


def test_names_are_text_in_html(found):
    hostile = '<script>alert("x")</script>'
    for html in (
        of_prediction(replace(found, image=hostile), hostile),
        replace(found, image=hostile)._repr_html_(),
    ):
        assert "<script" not in html and "&lt;script&gt;" in html


def test_a_list_shows_its_first_pictures_and_what_was_skipped(colours, tmp_path):
    found = discover([*[planted()] * 26, tmp_path / "gone.jpg"], colours, "lost", on_error="skip")
    html = found._repr_html_()
    assert isinstance(found, list) and len(pictures_in(html)) == 24
    assert "and 2 more images" in html and "1 image skipped: " in html and "gone.jpg" in html
    assert Predictions()._repr_html_() == "<p>no images</p>"
    assert repr(found[:1]) == f"[{found[0]!r}]"


# --- conversions -------------------------------------------------------------------------------------


def test_slices_are_predictions_and_a_list_plots_its_pictures(colours):
    found = discover([planted()] * 5, colours, "lost")
    some = found[1:4]
    assert isinstance(some, Predictions) and [one.image for one in some] == ["[1]", "[2]", "[3]"]
    assert isinstance(found[-1], ImagePrediction) and len(some.to_coco()["images"]) == 3
    figure = found.plot(columns=3)
    drawn = [(axes.get_title(), len(axes.images), axes.axison) for axes in figure.axes]
    assert drawn == [(f"[{index}]", 1, False) for index in range(5)] + [("", 0, False)]
    assert "no predictions to plot" in refusal(Predictions().plot)


def test_coco_is_what_the_export_writes(found, of_file, tmp_path):
    both = Predictions([found, of_file, replace(found, image="empty.jpg", objects=())])
    run = write_predictions(tmp_path / "run", both)
    export_run(run, ExportOptions("coco", tmp_path / "out.json"))
    written = json.loads((tmp_path / "out.json").read_text())
    assert written.pop("info")["description"] == "found by lost-reg, dino_vits16"
    content = both.to_coco()
    assert content.pop("info")["description"] == "found by lost-reg"
    assert json.loads(json.dumps(content)) == written
    assert content["images_without_box"] == ["empty.jpg"] and len(content["annotations"]) == 2
    alone = of_file.to_coco()
    assert [one["file_name"] for one in alone["images"]] == [of_file.image]
    assert [one["bbox"] for one in alone["annotations"]] == [[16, 8, 24, 16]]
    assert "several images have one name" in refusal(Predictions([found, found]).to_coco)


def test_supervision_gets_boxes_scores_masks_and_labels(found):
    pytest.importorskip("supervision")
    first = found.objects[0]
    two = replace(
        found, objects=(replace(first, label="b", score=0.75), replace(first, label="a", score=-0.5))
    )
    detections = two.to_supervision()
    assert detections.xyxy.tolist() == [[16, 8, 40, 24]] * 2
    assert detections.confidence.tolist() == [0.75, -0.5]
    assert detections.class_id.tolist() == [1, 0] and detections.data["class_name"].tolist() == ["b", "a"]
    assert np.array_equal(detections.mask, [in_pixels(first.mask, (48, 64))] * 2)
    plain = replace(found, objects=(FoundObject((0, 0.5, 8, 8), None, (0, 0)),)).to_supervision()
    assert plain.confidence is None and plain.mask is None and plain.class_id.tolist() == [0]
    assert plain.xyxy.tolist() == [[0, 0.5, 8, 8]]
    assert len(replace(found, objects=()).to_supervision()) == 0


def test_fiftyone_gets_shares_of_the_image_and_the_mask_inside_the_box(found, monkeypatch):
    """With stand-ins that take what FiftyOne documents; tests/export/test_fiftyone.py has the real one."""

    class Stand:
        def __init__(self, **fields):
            vars(self).update(fields)

    module = type(sys)("fiftyone")
    module.Detection = module.Detections = Stand
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    (one,) = found.to_fiftyone().detections
    assert one.label == "object" and one.confidence == 1.0 and one.object == 0
    assert one.bounding_box == [16 / 64, 8 / 48, 24 / 64, 16 / 48]
    assert one.mask.shape == (16, 24) and one.mask.all()
    (plain,) = replace(found, objects=(replace(found.objects[0], mask=None),)).to_fiftyone().detections
    assert plain.mask is None


def test_real_fiftyone_takes_it(found):
    pytest.importorskip("fiftyone")
    (one,) = found.to_fiftyone().detections
    assert one.mask.shape == (16, 24) and one.confidence == 1.0 and one["area_share"] == 0.125


@pytest.mark.parametrize("module", ["supervision", "fiftyone"])
def test_a_library_that_is_not_installed_is_named(found, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    line = refusal(getattr(found, f"to_{module}"))
    assert line == f"to_{module} needs {module}, which is not installed: pip install {module}"


def test_failures_are_plain(found):
    listed = Predictions([found])
    listed.failures = (Failure("x", "y"),)
    assert listed == [found] and "1 image skipped: x (y)" in listed._repr_html_()
