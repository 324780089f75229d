"""Run folders, written: nothing is lost on a full disk, by a killed run, or to a second writer."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from helpers import refusal
from run_cases import BROKEN, MENDED, RECORD, SETTINGS, A, B, contents, write

from lost_reg.errors import LostRegError, OtherSettings
from lost_reg.runs.folder import check_free, read_run
from lost_reg.runs.writer import RunWriter
from lost_reg.types import Failure

# --- lines ---------------------------------------------------------------------------------------------


def test_outcomes_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer.write(A)
        writer.write(BROKEN)
        got = read_run(tmp_path)
    assert (list(got.predictions), list(got.failures)) == (["a.jpg"], ["broken.jpg"])


@pytest.mark.parametrize(
    "rest",
    [b'{"image": "b.jp', b"{", b'{"image": "b.jpg", "size_hw": [9, 9], "grid_hw": [1, 1], "objects": []}'],
)
def test_half_a_last_line_does_not_count_and_is_cut_off_on_resume(tmp_path, rest):
    write(tmp_path, A)
    with (tmp_path / "predictions.jsonl").open("ab") as file:
        file.write(rest)
    assert list(read_run(tmp_path).predictions) == ["a.jpg"]
    assert write(tmp_path, B, resume=True) == {"a.jpg"}
    assert read_run(tmp_path).predictions == {"a.jpg": A, "folder/b.png": B}


def test_half_a_first_line_is_cut_off_on_resume(tmp_path):
    write(tmp_path)
    (tmp_path / "predictions.jsonl").write_bytes(b'{"image": "a')
    assert write(tmp_path, A, resume=True) == set()
    assert read_run(tmp_path).predictions == {"a.jpg": A}


class FullDisk:
    """A file that takes so many bytes more, and says only of the next that the disk is full."""

    def __init__(self, file, room: int):
        self.file, self.room, self.close, self.fileno = file, room, file.close, file.fileno

    def write(self, line):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = self.file.write(line[: self.room])
        self.room -= taken
        return taken

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@pytest.mark.parametrize("room", [0, 1, 50])
def test_full_disk_is_one_line_and_keeps_what_was_done(tmp_path, room):
    with RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer.write(A)
        writer._lines = FullDisk(writer._lines, room)
        text = refusal(writer.write, B)
    assert str(tmp_path) in text and "No space left on device" in text and "`resume`" in text
    assert read_run(tmp_path).predictions == {"a.jpg": A}
    assert write(tmp_path, B, resume=True) == {"a.jpg"}
    assert read_run(tmp_path).predictions == {"a.jpg": A, "folder/b.png": B}


def test_line_that_the_disk_takes_in_pieces_is_whole(tmp_path):
    class InPieces(FullDisk):
        def write(self, line):
            return self.file.write(line[:5])

    with RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer._lines = InPieces(writer._lines, 0)
        writer.write(A)
    assert read_run(tmp_path).predictions == {"a.jpg": A}


# --- run.json, and the end of a run --------------------------------------------------------------------


def test_record_is_replaced_as_a_whole(tmp_path, monkeypatch):
    seen = []
    replace = Path.replace

    def watched(self, target):
        seen.append((self.name, json.loads(self.read_text())["images"], target.name))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    with RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer.record["images"] = 7
        writer.write_record()
    assert [(images, target) for _, images, target in seen] == [(3, "run.json"), (7, "run.json")]
    assert all(name.endswith(".part") for name, _, _ in seen) and not list(tmp_path.glob("*.part"))


def test_record_stays_whole_when_the_disk_is_full(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        before = (tmp_path / "run.json").read_bytes()
        monkeypatch.setattr(os, "fsync", full)
        assert "run.json: No space left on device" in refusal(writer.write_record)
        monkeypatch.undo()
    assert (tmp_path / "run.json").read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_record_is_on_the_disk_before_it_has_its_name_and_lines_when_the_run_ends(tmp_path, monkeypatch):
    """A power cut must not leave an empty file where a whole one was."""
    steps = []
    fsync, replace = os.fsync, Path.replace

    def name_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").resolve().name

    def kind_of(name: str) -> str:
        return "a part" if name.endswith(".part") else name

    def watched_fsync(descriptor):
        steps.append(("fsync", kind_of(name_of(descriptor)), os.fstat(descriptor).st_size > 0))
        fsync(descriptor)

    def watched_replace(self, target):
        steps.append(("replace", kind_of(self.name), True))
        return replace(self, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the names of open files are not known here")
    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write(tmp_path, A)
    record = [("fsync", "a part", True), ("replace", "a part", True)]
    assert steps == [*record, ("fsync", "predictions.jsonl", True), ("fsync", "errors.jsonl", False)]


@pytest.mark.parametrize("failed_before", [False, True])
def test_disk_that_tells_at_the_end_that_it_was_full(tmp_path, monkeypatch, failed_before):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def run():
        with RunWriter(tmp_path, SETTINGS, RECORD):
            monkeypatch.setattr(os, "fsync", full)
            if failed_before:
                raise LostRegError("what went wrong first")

    assert ("what went wrong first" if failed_before else "No space left on device") in refusal(run)
    monkeypatch.undo()
    assert write(tmp_path, A, resume=True) == set()  # the folder is not locked


# --- resuming, and folders that are refused ------------------------------------------------------------


def test_resume_keeps_what_is_done_and_tries_again_what_failed(tmp_path):
    write(tmp_path, A, BROKEN)
    assert write(tmp_path, MENDED, resume=True) == {"a.jpg"}
    got = read_run(tmp_path)
    assert (got.predictions, got.failures) == ({"a.jpg": A, "broken.jpg": MENDED}, {})


def test_what_failed_has_failed_until_it_is_tried_again(tmp_path):
    other = Failure("other.jpg", "not an image")
    write(tmp_path, A, BROKEN, other)
    write(tmp_path, MENDED, resume=True)  # and was interrupted
    assert read_run(tmp_path).failures == {"other.jpg": other}
    again = Failure("other.jpg", "no such file")
    write(tmp_path, again, resume=True)
    assert read_run(tmp_path).failures == {"other.jpg": again}


def test_resume_keeps_the_record_of_earlier_sessions(tmp_path):
    for images in (1, 2):
        with RunWriter(tmp_path, SETTINGS, RECORD, resume=True) as writer:
            writer.record["sessions"].append({"images": images})
            writer.write_record()
    assert read_run(tmp_path).record["sessions"] == [{"images": 1}, {"images": 2}]


def test_resume_starts_a_run_that_is_not_there(tmp_path):
    assert write(tmp_path / "new", A, resume=True) == set()
    assert read_run(tmp_path / "new").predictions == {"a.jpg": A}


def test_other_settings_are_refused_by_name_and_nothing_changes(tmp_path):
    write(tmp_path, A, BROKEN)
    with (tmp_path / "predictions.jsonl").open("ab") as file:
        file.write(b"half a line")
    before = contents(tmp_path)
    other = {**SETTINGS, "backbone": "dino", "options": {**SETTINGS["options"], "bias": -0.5}, "limit": 5}
    with pytest.raises(OtherSettings) as caught:
        write(tmp_path, settings=other, resume=True)
    assert "other settings (backbone, bias, limit): " in str(caught.value)
    assert [tuple(row.values()) for row in caught.value.rows] == [
        ("backbone", "tiny", "dino"),
        ("bias", "0.0", "-0.5"),
        ("limit", "none", "5"),
    ]
    assert contents(tmp_path) == before
    assert write(tmp_path, resume=True) == {"a.jpg"}  # and it is not locked


def test_settings_are_compared_as_they_are_read_back(tmp_path):
    """A tuple of layers is a list in JSON."""
    settings = {**SETTINGS, "features": {**SETTINGS["features"], "layer": (-2, -1)}}
    write(tmp_path, A, settings=settings)
    assert write(tmp_path, B, settings=settings, resume=True) == {"a.jpg"}
    assert read_run(tmp_path).settings["features"]["layer"] == [-2, -1]
    with pytest.raises(OtherSettings) as caught:
        write(tmp_path, resume=True)
    assert caught.value.rows == [{"setting": "layer", "old": "-2, -1", "new": "-1"}]


def test_folder_that_holds_a_run_is_refused_without_resume(tmp_path):
    write(tmp_path, A)
    before = contents(tmp_path)
    for call in (lambda: write(tmp_path), lambda: check_free(tmp_path, resume=False)):
        text = refusal(call)
        assert "holds a run already" in text and "`resume`" in text
    check_free(tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_malformed_run_is_not_resumed_and_not_changed(tmp_path):
    write(tmp_path, A)
    (tmp_path / "predictions.jsonl").write_text("no json\n")
    before = contents(tmp_path)
    assert "malformed line 1" in refusal(write, tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_path_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    assert "it is a file" in refusal(check_free, file, resume=True)
    for out in (file, file / "below"):
        assert f"cannot write results to {str(out)!r}" in refusal(write, out, A)
    assert file.read_text() == "precious"


def test_second_writer_is_refused_while_the_first_writes(tmp_path):
    with RunWriter(tmp_path, SETTINGS, RECORD) as first:
        first.write(A)
        assert "being written by another process" in refusal(write, tmp_path, resume=True)
        first.write(B)
    assert list(read_run(tmp_path).predictions) == ["a.jpg", "folder/b.png"]
    assert write(tmp_path, resume=True) == {"a.jpg", "folder/b.png"}


def test_writer_that_fails_lets_go_of_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer.write(A)
        raise ZeroDivisionError
    assert write(tmp_path, resume=True) == {"a.jpg"}


def test_what_a_killed_run_left_half_written_is_removed_on_resuming(tmp_path):
    write(tmp_path, A)
    left = [tmp_path / name / ".0123456789abcdef.part" for name in (".", "maps/sub", "pictures")]
    for part in left:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("half")
    (tmp_path / "maps" / "kept.part").write_text("another's")
    write(tmp_path, resume=True)
    assert not any(part.exists() for part in left)
    assert (tmp_path / "maps" / "kept.part").exists() and read_run(tmp_path).predictions == {A.image: A}
