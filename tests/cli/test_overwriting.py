"""`--overwrite` of commands besides `run`: it replaces what lost-reg wrote, and nothing else."""

from __future__ import annotations

import json

import pytest

COMMANDS = {
    "artifacts": ("artifacts.json", lambda photos, voc: (photos, "-b", "tiny", "--limit", 1)),
    "sweep": (
        "sweep.json",
        lambda photos, voc: (
            "-b", "tiny", "-d", "voc07", "--data-root", voc, "--layer", -1, "--bias", 0,
            "--tune-fraction", 0.5,
        ),
    ),
    "register-neurons": (
        "neurons.json",
        lambda photos, voc: (photos, "-b", "timm:vit_tiny_patch16_224=random", "--max-side", 64),
    ),
}  # fmt: skip
WORKERS = ("--workers", 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_wrote_is_removed_and_nothing_else(lost_reg, refused, photos, voc, tmp_path, command):
    record, arguments = COMMANDS[command]
    folder = tmp_path / "out"
    out = folder / record if command == "register-neurons" else folder
    given = (command, *arguments(photos, voc), *WORKERS, "--out", out)
    assert lost_reg(*given).exit_code == 0
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "mine.svg").write_text("mine")
    for name in {*whole} - {record, ".lock", "boxes.jsonl"}:
        (folder / name).write_text("of before")
    assert "--overwrite" in refused(*given)
    result = lost_reg(*given, "--overwrite")
    assert result.exit_code == 0, result.output
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.pop("mine.svg") == b"mine"
    assert {*after} - {".lock"} == {*whole} - {".lock"}
    assert b"of before" not in after.values()
    (folder / record).write_text('{"somebody": "else"}')
    refused(*given, "--overwrite")
    assert json.loads((folder / record).read_text()) == {"somebody": "else"}


def test_a_command_stopped_while_overwriting_continues(lost_reg, refused, photos, tmp_path, monkeypatch):
    from lost_reg.artifacts import measure

    out, real, measured = tmp_path / "out", measure.measure, []
    given = ("artifacts", photos, "-b", "tiny", "-b", "timm:vit_tiny_patch16_224=random", "--out", out)
    given = (*given, "--max-side", 64, *WORKERS)
    assert lost_reg(*given).exit_code == 0
    before = (out / "artifacts.json").read_bytes()

    def measure_or_stop(stream, backbone, *args, **options):
        if len(measured) == stopped_at:
            raise KeyboardInterrupt
        measured.append(backbone.name)
        return real(stream, backbone, *args, **options)

    monkeypatch.setattr(measure, "measure", measure_or_stop)
    stopped_at = 0
    said = f"of 2 models measured, in {out}; the same command continues\n"
    assert lost_reg(*given, "--overwrite").stderr.endswith(f"Interrupted: 0 {said}")
    assert (out / "artifacts.json").read_bytes() == before
    assert "exists already" in refused(*given)
    stopped_at = 1
    assert lost_reg(*given, "--overwrite").stderr.endswith(f"Interrupted: 1 {said}")
    assert not (out / "sizes.svg").exists()  # it shows several models
    stopped_at = 9
    assert lost_reg(*given, "--overwrite").exit_code == 0
    assert len(measured) == len({*measured}) == 2
    assert len(json.loads((out / "artifacts.json").read_bytes())["backbones"]) == 2


def test_artifacts_stay_if_the_new_ones_cannot_be_measured(lost_reg, refused, photos, tmp_path):
    out, unreadable = tmp_path / "out", tmp_path / "unreadable"
    unreadable.mkdir()
    (unreadable / "a.png").write_text("no image")
    given = ("-b", "tiny", "--out", out, *WORKERS)
    assert lost_reg("artifacts", photos, *given).exit_code == 0
    (out / "unfinished").mkdir()
    (out / "unfinished" / "settings.json").write_text('{"head": "of hours"}')
    before = content_of(out)
    for images, more in ((photos, ("--layer", 99)), (photos, ("--device", "cuda:9")), (unreadable, ())):
        refused("artifacts", images, *given, *more, "--overwrite")
        assert content_of(out) == before
    assert lost_reg("artifacts", photos, *given, "--layer", -1, "--overwrite").exit_code == 0
    after = content_of(out)
    assert after["settings.json"] == before["settings.json"]
    assert after["artifacts.json"] != before["artifacts.json"]


def test_what_to_do_about_a_damaged_record_is_said(refused, photos, voc, tmp_path):
    (tmp_path / "neurons.json").write_text("{")
    (tmp_path / "artifacts.json").write_text("{")
    for command, (record, arguments) in COMMANDS.items():
        if command != "sweep":
            out = tmp_path / record if command == "register-neurons" else tmp_path
            text = refused(command, *arguments(photos, voc), *WORKERS, "--out", out, "--overwrite")
            assert "; delete it, or choose another --out" in text
            assert (tmp_path / record).read_text() == "{"


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_of_resume_and_overwrite(refused, photos):
    for command in (("sweep", "-d", "voc07"), ("train", "head", photos), ("train", "detector", photos)):
        more = ("--out", photos / "out", "--resume", "--overwrite")
        assert "choose one" in refused(*command, *more, exit_code=2)
