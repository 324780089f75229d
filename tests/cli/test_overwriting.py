"""`--overwrite` of commands besides `run`: it removes what lost-reg wrote, and nothing else."""

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


def test_a_command_stopped_while_overwriting_continues_without_it(lost_reg, photos, tmp_path, monkeypatch):
    from lost_reg.artifacts import measure

    given = ("artifacts", photos, "-b", "tiny", "--out", tmp_path / "out", *WORKERS)
    assert lost_reg(*given).exit_code == 0

    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure", stopped)
    said = f"Interrupted: 0 of 1 model measured, in {tmp_path / 'out'}; the same command"
    assert lost_reg(*given, "--overwrite").stderr.endswith(f"{said}, without --overwrite, continues\n")
    assert lost_reg(*given).stderr.endswith(f"{said} continues\n")
    monkeypatch.undo()
    assert lost_reg(*given).exit_code == 0


def test_one_of_resume_and_overwrite(refused, photos):
    for command in (("sweep", "-d", "voc07"), ("train", "head", photos), ("train", "detector", photos)):
        more = ("--out", photos / "out", "--resume", "--overwrite")
        assert "choose one" in refused(*command, *more, exit_code=2)
