"""What kill_and_resume.py and full_disk.py would notice."""

from __future__ import annotations

import contextlib

import pytest
from interrupted_runs import Contents, Lost, Reference, check, check_end, has_half_line, lost_reg_command

from lost_reg.runs.folder import read_run


@pytest.fixture
def interrupted(tmp_path, save_scene):
    """A run of two images that nothing happened to, and a copy that is not complete."""
    for name, box_xyxy in {"a.png": (32, 16, 96, 64), "b.png": (0, 0, 40, 40)}.items():
        save_scene(tmp_path / "photos" / name, box_xyxy=box_xyxy)
    command = ["run", str(tmp_path / "photos"), "--method", "lost", "--backbone", "tiny", "--device", "cpu"]
    for name, more in (("reference", []), ("run", ["--limit", "1"])):
        with contextlib.suppress(SystemExit):
            lost_reg_command([*command, "--save-maps", "--out", str(tmp_path / name), *more])
    results = read_run(tmp_path / "reference")
    lines = (tmp_path / "reference" / "predictions.jsonl").read_bytes().splitlines()
    (tmp_path / "log").touch()
    return tmp_path / "run", Reference(tmp_path / "photos", results.folder, results, lines)


def test_an_interrupted_run_may_lack_images_until_its_end(interrupted):
    out, reference = interrupted
    check(out, Contents.of(out), reference)
    with pytest.raises(Lost, match="not those of an uninterrupted run"):
        check_end(out, reference, [])
    check_end(reference.folder, reference, ["--save-maps"])


def test_what_an_interrupted_run_loses_is_noticed(interrupted):
    out, reference = interrupted
    before = Contents.of(out)
    predictions, maps = out / "predictions.jsonl", out / "maps" / "a.png.npz"
    as_it_was = maps.read_bytes()

    def complaint() -> str:
        with pytest.raises(Lost) as lost:
            check(out, before, reference)
        return str(lost.value)

    reference.log.write_text("Traceback")
    assert "a traceback in" in complaint()
    maps.write_bytes((reference.folder / "maps" / "b.png.npz").read_bytes())
    assert "maps or a picture are damaged" in complaint()
    maps.write_bytes(as_it_was)
    wrong = reference.lines[1].replace(b'"degree": ', b'"degree": 1')
    predictions.write_bytes(before.predictions + wrong + b"\n")
    assert "a prediction differs" in complaint()
    predictions.write_bytes(before.predictions[:-9])
    assert "an earlier line was lost or altered" in complaint()
    assert has_half_line(out)
