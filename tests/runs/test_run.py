"""run: images of a source into a run folder, what it records and what it reports meanwhile."""

from __future__ import annotations

import json

import pytest
from colours import PATCH, patch_means
from helpers import find, names, refusal, setting

from lost_reg import LoaderOptions
from lost_reg.backbones.loading import Preprocessing, load_backbone
from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.sources import list_images
from lost_reg.runs import forecast as forecasting
from lost_reg.runs.folder import read_run
from lost_reg.runs.map_files import maps_path, read_maps
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import Source, source_of_files
from lost_reg.runs.writer import RunWriter
from lost_reg.types import Prediction


@pytest.fixture
def source(tmp_path, save_scene) -> Source:
    """Two images and a file that is none."""
    folder = tmp_path / "photos"
    save_scene(folder / "a.jpg")
    save_scene(folder / "sub" / "b.png", seed=1)
    (folder / "bad.jpg").write_text("no image")
    return source_of_files(list_images([str(folder)]), [str(folder)])


def options(**changes) -> RunOptions:
    return RunOptions(loader=LoaderOptions(workers=0), **changes)


def test_a_run_finds_what_discover_finds_and_counts_it(source, tmp_path, random_backbone):
    calls: list[tuple] = []

    def progress(*numbers):
        calls.append(numbers)

    chosen = setting(normalize=True, bias=-0.2, max_objects=2)
    summary = run(source, random_backbone, tmp_path / "out", chosen, options(), progress=progress)
    assert (summary.done, summary.failed, summary.done_before) == (2, 1, 0)
    assert [one.image for one in summary.failures] == ["bad.jpg"]
    assert calls[0] == (0, 0, 3) and calls[-1] == (2, 1, 3) and len(calls) == 4
    found = read_run(tmp_path / "out")
    paths = [source.images.root / name for name in ("a.jpg", "sub/b.png")]
    expected = find(paths, random_backbone, chosen)
    assert [found.predictions[name].objects for name in ("a.jpg", "sub/b.png")] == [
        one.objects for one in expected
    ]


def test_the_settings_of_a_run_are_all_that_its_results_depend_on(source, tmp_path, random_backbone):
    chosen = setting(facet="qk", layer=(0, 5), bias="auto", max_side=64)
    run(source, random_backbone, tmp_path / "out", chosen, options(limit=1, data_root=tmp_path))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"] == {
        "dataset": None,
        "split": None,
        "inputs": [str(tmp_path / "photos")],
        "apply_exif": True,
        "background": "#ffffff",
        "backbone": "tiny",
        "weights": {"source": "random", "name": "random", "sha256": None},
        "precision": "fp32",
        "method": "lost",
        "features": {
            "facet": "qk", "layer": [-6, -1], "center": False, "normalize": False, "max_side": 64
        },
        "options": {"k_patches": 100, "bias": "auto", "max_objects": 1},
    }  # fmt: skip
    assert record["root"] == str(tmp_path / "photos") and record["data_root"] == str(tmp_path)
    assert record["images"] == 1 and record["weights_file"] is None
    (session,) = record["sessions"]
    facts = {key: session[key] for key in ("images", "failed", "limit", "workers", "batch_size")}
    assert facts == {"images": 1, "failed": 0, "limit": 1, "workers": 0, "batch_size": 8}
    assert session["seconds"] > 0 and session["device"].startswith("cpu") and "finished" not in session
    assert {"torch", "timm", "opencv", "pillow", "numpy", "python", "lost-reg"} == set(session["versions"])


def test_one_layer_has_one_name(source, tmp_path, random_backbone):
    run(source, random_backbone, tmp_path / "out", setting(layer=4), options())
    again = options(resume=True)
    assert run(source, random_backbone, tmp_path / "out", setting(layer=-2), again).done_before == 2
    assert "has no layer 6" in refusal(run, source, random_backbone, tmp_path / "new", setting(layer=6))
    refusal(run, source, random_backbone, tmp_path / "new", setting(layer=(5, -1)))  # the same one twice
    assert not (tmp_path / "new").exists()


def test_a_function_as_backbone_is_run_too(source, tmp_path):
    backbone = load_backbone(patch_means, preprocessing=Preprocessing(PATCH), device="cpu")
    assert run(source, backbone, tmp_path / "out", options=options()).done == 2
    found = read_run(tmp_path / "out")
    assert found.settings["weights"] == {"source": "callable", "name": "patch_means", "sha256": None}


def test_what_does_not_fit_is_noted_before_the_first_image(source, tmp_path, random_backbone, monkeypatch):
    monkeypatch.setattr(forecasting, "free_bytes", lambda device: 1000.0)
    said: list[str] = []

    def progress(done, failed, total):
        said.append(f"{done + failed} of {total}")

    run(source, random_backbone, tmp_path / "out", options=options(), progress=progress, note=said.append)
    assert "images of 128 x 96 pixels need about" in said[0] and said[1] == "0 of 3"
    done = []
    run(source, random_backbone, tmp_path / "out", options=options(resume=True), note=done.append)
    assert len(done) == 1  # of the image that failed: it is tried again


def test_an_image_that_is_done_has_its_maps_and_its_picture(source, tmp_path, random_backbone, monkeypatch):
    """They are written before its line: whenever the run is killed, what is done has them."""
    seen = []
    write = RunWriter.write

    def watched(self, outcome):
        if isinstance(outcome, Prediction):
            maps = read_maps(maps_path(self.folder / "maps", outcome.image))
            seen.append(maps.seed == outcome.objects[0].seed and names(self.folder / "pictures"))
        write(self, outcome)

    monkeypatch.setattr(RunWriter, "write", watched)
    run(source, random_backbone, tmp_path / "out", options=options(visualize=True, save_maps=True))
    assert [len([one for one in files if one.endswith(".jpg")]) for files in seen] == [1, 2]


def test_a_file_that_vanishes_before_its_picture_does_not_end_the_run(
    source, tmp_path, random_backbone, monkeypatch
):
    def vanished(*_, **__):
        raise UnreadableImage("no such file")

    monkeypatch.setattr("lost_reg.runs.pictures.read_image", vanished)
    summary = run(source, random_backbone, tmp_path / "out", options=options(visualize=True))
    assert (summary.done, summary.failed) == (2, 1)


def test_a_run_that_ends_early_records_what_it_did(source, tmp_path, random_backbone):
    def stop(done, failed, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(source, random_backbone, tmp_path / "out", options=options(), progress=stop)
    found = read_run(tmp_path / "out")
    (session,) = found.record["sessions"]
    assert session["images"] == len(found.predictions) == 1 and "finished" not in session
    assert run(source, random_backbone, tmp_path / "out", options=options(resume=True)).done == 1


def test_the_first_error_is_the_one_that_is_raised(source, tmp_path, random_backbone, monkeypatch):
    """On a full disk recording the session fails, too."""

    def full(self, *_):
        raise LostRegError("no space left")

    def stop(done, failed, total):
        if done:
            monkeypatch.setattr(RunWriter, "write_record", full)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(source, random_backbone, tmp_path / "out", options=options(), progress=stop)
