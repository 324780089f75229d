"""An export is written as a whole or not at all, and overwrites nothing."""

from __future__ import annotations

import os

import pytest
from export_cases import export, read_back
from helpers import names, refusal, write_predictions
from PIL import Image

from lost_reg.export.formats import FORMATS
from lost_reg.export.run_export import ExportOptions, export_run


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("to", FORMATS)
def test_a_failed_export_leaves_nothing(tmp_path, photos, monkeypatch, error, to):
    root, found = photos
    before = set(names(tmp_path))

    def save(*args, **kwargs):
        raise error

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(BaseException) as caught:
        export(tmp_path, found, to, root=root, crops=tmp_path / "crops")
    assert "No space left" in str(caught.value) or caught.type is KeyboardInterrupt
    left = set(names(tmp_path)) - before
    assert {name.split("/")[0] for name in left} == {"run"}
    assert (root / "a.jpg").is_file()  # what was linked is not deleted


@pytest.mark.parametrize("to", FORMATS)
def test_nothing_is_overwritten(tmp_path, photos, to):
    root, found = photos
    export(tmp_path, found, to, root=root)
    folder, out = tmp_path / "run", tmp_path / f"out{FORMATS[to].suffix}"
    before = names(out) if out.is_dir() else out.read_bytes()
    assert "name another" in refusal(export_run, folder, ExportOptions(to, out))
    assert before == (names(out) if out.is_dir() else out.read_bytes())
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/mine.txt").touch()
    assert "name another" in refusal(export_run, folder, ExportOptions(crops=tmp_path / "crops"))


@pytest.mark.parametrize("to", FORMATS)
def test_empty_targets_are_taken(tmp_path, photos, to):
    out = tmp_path / f"out{FORMATS[to].suffix}"
    out.touch() if FORMATS[to].suffix else out.mkdir()
    export(tmp_path, photos[1], to)
    read_back(tmp_path, to, photos[1])


def test_targets_that_cannot_be(tmp_path, photos):
    folder = write_predictions(tmp_path / "run", photos[1], root=photos[0])
    (tmp_path / "file").touch()
    (tmp_path / "x.json").mkdir()
    for to, out, said in (
        ("coco", "out.txt", ".json"),
        ("lost", "out.json", ".pkl"),
        ("csv", "out", ".csv"),
        ("coco", "x.json", "is a folder"),
        ("yolo", "file", "is there already: name another"),
        ("csv", "file/x.csv", "cannot write"),
        ("voc", "file/x", "cannot write"),
    ):
        assert said in refusal(export_run, folder, ExportOptions(to, tmp_path / out))
    for out, crops in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        options = ExportOptions("yolo", tmp_path / out, crops=tmp_path / crops)
        assert "contain each other" in refusal(export_run, folder, options)
    line = refusal(export_run, folder, ExportOptions("yolo", folder))  # never to delete it
    assert line == f"{str(folder)!r} holds files already: name another folder"
    assert names(tmp_path / "run") == ["errors.jsonl", "predictions.jsonl", "run.json"]
    assert not (tmp_path / "a").exists()


def test_folders_are_as_others_may_read_them(tmp_path, photos):
    before = os.umask(0o022)
    try:
        export(tmp_path, photos[1], "yolo")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
