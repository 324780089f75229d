"""Run folders: what is written is read back, whatever happened in between."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from helpers import refusal

from lost_reg.errors import LostRegError, one_line
from lost_reg.runs.folder import check_free, find_runs, read_outcomes, read_run
from lost_reg.runs.writer import RunWriter
from lost_reg.types import Failure, Prediction

SETTINGS = {"dataset": "voc07", "backbone": "tiny", "protocol": {"facet": "k", "bias": 0.0}}
RECORD = {"images": 3, "versions": {"torch": "2.5"}}
A = Prediction("a.jpg", (96, 128), (32, 16, 96, 64), (2, 3), (6, 8), 4)
B = Prediction("folder/b.png", (50, 40), (0.5, 1.25, 39.75, 50.0), (0, 0), (4, 3), 0)
VALID = {"image": "b.jpg", "size_hw": [9, 9], "box_xyxy": [1, 2, 3, 4], "seed": [0, 0], "grid_hw": [1, 1]}
VALID["degree"] = 0
BROKEN = Failure("broken.jpg", "cannot be decoded: image file is truncated")


def write_run(folder: Path, *outcomes, settings=SETTINGS, resume=False) -> set[str]:
    with RunWriter(folder, settings, RECORD, resume=resume) as writer:
        for outcome in outcomes:
            writer.write(outcome)
        done = {one.image for one in read_outcomes(folder) if one.image in writer.done}
        assert len(done) == len(writer.done)
        return done


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_written_is_read_back(tmp_path):
    write_run(tmp_path / "deep" / "run", A, BROKEN, B)
    got = read_run(tmp_path / "deep" / "run")
    assert got.predictions == {"a.jpg": A, "folder/b.png": B}
    assert got.failures == {"broken.jpg": BROKEN}
    assert got.settings == SETTINGS
    assert (got.record["images"], got.record["versions"]) == (3, {"torch": "2.5"})


def test_predictions_are_one_json_object_per_line(tmp_path):
    write_run(tmp_path, A, B)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == ["a.jpg", "folder/b.png"]
    assert json.loads(lines[0])["box_xyxy"] == [32, 16, 96, 64]


def test_outcomes_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer.write(A)
        writer.write(BROKEN)
        got = read_run(tmp_path)
    assert (list(got.predictions), list(got.failures)) == (["a.jpg"], ["broken.jpg"])


@pytest.mark.parametrize(
    "name", ["new\nline.jpg", 'quo"te\\.jpg', os.fsdecode(b"\xff.jpg"), "日本.jpg", "\u2028.jpg", "\x00.jpg"]
)
def test_any_name_survives(tmp_path, name):
    found = Prediction(name, (96, 128), (0, 0, 8, 8), (0, 0), (6, 8), 1)
    failure = Failure(f"bad {name}", f"cannot read {name}")
    write_run(tmp_path, found, failure)
    got = read_run(tmp_path)
    assert got.predictions == {name: found}
    assert got.failures == {failure.image: failure}
    assert write_run(tmp_path, resume=True) == {name}


# --- run.json ----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"settings": {}}', '{"settings": 5, "images": 3}', '{"images": 3}']
)
def test_malformed_record(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert f"{tmp_path / 'run.json'} is not the record of a run" in refusal(read_run, tmp_path)


def test_record_that_is_no_utf8(tmp_path):
    (tmp_path / "run.json").write_bytes(b'{"settings": {"\xff": 1}, "images": 3}')
    assert "is not the record of a run" in refusal(read_run, tmp_path)


def test_folder_without_a_record(tmp_path):
    assert f"no run in {str(tmp_path)!r}" in refusal(read_run, tmp_path)


# --- lines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b'{"image": "b.jp', b"{", b'{"image": "b.jpg", "box_xyxy": [0, 0, 1, 1]}'])
def test_half_a_last_line_does_not_count_and_is_cut_off_on_resume(tmp_path, rest):
    write_run(tmp_path, A)
    with (tmp_path / "predictions.jsonl").open("ab") as file:
        file.write(rest)
    assert list(read_run(tmp_path).predictions) == ["a.jpg"]
    assert write_run(tmp_path, B, resume=True) == {"a.jpg"}
    assert read_run(tmp_path).predictions == {"a.jpg": A, "folder/b.png": B}


def test_half_a_first_line_is_cut_off_on_resume(tmp_path):
    write_run(tmp_path)
    (tmp_path / "predictions.jsonl").write_bytes(b'{"image": "a')
    assert write_run(tmp_path, A, resume=True) == set()
    assert read_run(tmp_path).predictions == {"a.jpg": A}


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "",
        "[]",
        "null",
        "{}",
        '{"image": "b.jpg", "box_xyxy": [1, 2, 3]}',
        '{"image": "b.jpg", "box_xyxy": [1, 2, 3, "4"]}',
        '{"image": "b.jpg", "box_xyxy": [1, 2, 3, NaN], "size_hw": [9, 9], "seed": [0, 0],'
        ' "grid_hw": [1, 1], "degree": 0}',
        '{"image": "b.jpg", "box_xyxy": 5}',
        '{"image": 5, "box_xyxy": [1, 2, 3, 4]}',
        '{"image": "b.jpg", "box_xyxy": [1, 2, 3, 4], "size_hw": 5}',
        *(
            json.dumps({**VALID, **wrong})
            for wrong in (
                {"size_hw": [0, 9]},
                {"size_hw": ["9", "9"]},
                {"size_hw": [9]},
                {"grid_hw": [1, 0]},
                {"seed": [-1, 0]},
                {"seed": [0.5, 0]},
                {"degree": "many"},
            )
        ),
    ],
)
def test_malformed_prediction_is_named_by_file_and_line(tmp_path, line):
    write_run(tmp_path, A, B)
    path = tmp_path / "predictions.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    assert f"malformed line 2 of {path}" in refusal(read_run, tmp_path)


@pytest.mark.parametrize("line", ["no json", "[]", '{"image": "b.jpg"}'])
def test_malformed_failure_is_named_by_file_and_line(tmp_path, line):
    write_run(tmp_path, BROKEN)
    path = tmp_path / "errors.jsonl"
    path.write_text(path.read_text() + line + "\n")
    assert f"malformed line 2 of {path}" in refusal(read_run, tmp_path)


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
    assert str(tmp_path) in text and "No space left on device" in text and "--resume" in text
    assert read_run(tmp_path).predictions == {"a.jpg": A}
    assert write_run(tmp_path, B, resume=True) == {"a.jpg"}
    assert read_run(tmp_path).predictions == {"a.jpg": A, "folder/b.png": B}


def test_line_that_the_disk_takes_in_pieces_is_whole(tmp_path):
    class InPieces(FullDisk):
        def write(self, line):
            return self.file.write(line[:5])

    with RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer._lines = InPieces(writer._lines, 0)
        writer.write(A)
    assert read_run(tmp_path).predictions == {"a.jpg": A}


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
    write_run(tmp_path, A)
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
    assert write_run(tmp_path, A, resume=True) == set()  # the folder is not locked


# --- resuming, and folders that are refused ----------------------------------------------------------


def test_resume_keeps_what_is_done_and_tries_again_what_failed(tmp_path):
    write_run(tmp_path, A, BROKEN)
    mended = Prediction("broken.jpg", (96, 128), (0, 0, 16, 16), (0, 0), (6, 8), 3)
    assert write_run(tmp_path, mended, resume=True) == {"a.jpg"}
    got = read_run(tmp_path)
    assert (got.predictions, got.failures) == ({"a.jpg": A, "broken.jpg": mended}, {})


def test_what_failed_has_failed_until_it_is_tried_again(tmp_path):
    other = Failure("other.jpg", "not an image")
    write_run(tmp_path, A, BROKEN, other)
    mended = Prediction("broken.jpg", (96, 128), (0, 0, 16, 16), (0, 0), (6, 8), 3)
    write_run(tmp_path, mended, resume=True)  # and was interrupted
    assert read_run(tmp_path).failures == {"other.jpg": other}
    again = Failure("other.jpg", "no such file")
    write_run(tmp_path, again, resume=True)
    assert read_run(tmp_path).failures == {"other.jpg": again}


def test_resume_keeps_the_record_of_earlier_sessions(tmp_path):
    for images in (1, 2):
        with RunWriter(tmp_path, SETTINGS, RECORD, resume=True) as writer:
            writer.record["sessions"].append({"images": images})
            writer.write_record()
    assert read_run(tmp_path).record["sessions"] == [{"images": 1}, {"images": 2}]


def test_resume_starts_a_run_that_is_not_there(tmp_path):
    assert write_run(tmp_path / "new", A, resume=True) == set()
    assert read_run(tmp_path / "new").predictions == {"a.jpg": A}


def test_other_settings_are_refused_by_name_and_nothing_changes(tmp_path):
    write_run(tmp_path, A, BROKEN)
    with (tmp_path / "predictions.jsonl").open("ab") as file:
        file.write(b"half a line")
    before = contents(tmp_path)
    other = {"backbone": "dino", "protocol": {"facet": "k", "bias": -0.5}, "dataset": "voc07", "limit": 5}
    text = refusal(write_run, tmp_path, settings=other, resume=True)
    assert 'backbone was "tiny", is "dino"' in text
    assert '"bias": 0.0}, is {"facet": "k", "bias": -0.5}' in text
    assert "limit was null, is 5" in text
    assert "dataset was" not in text
    assert contents(tmp_path) == before
    assert write_run(tmp_path, resume=True) == {"a.jpg"}  # and it is not locked


def test_folder_that_holds_a_run_is_refused_without_resume(tmp_path):
    write_run(tmp_path, A)
    before = contents(tmp_path)
    for call in (lambda: write_run(tmp_path), lambda: check_free(tmp_path, resume=False)):
        text = refusal(call)
        assert "holds a run already" in text and "--resume" in text
    check_free(tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_malformed_run_is_not_resumed_and_not_changed(tmp_path):
    write_run(tmp_path, A)
    (tmp_path / "predictions.jsonl").write_text("no json\n")
    before = contents(tmp_path)
    assert "malformed line 1" in refusal(write_run, tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_free_folder_may_be_written(tmp_path):
    check_free(tmp_path, resume=False)
    check_free(tmp_path / "not" / "there", resume=False)


def test_path_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    assert "it is a file" in refusal(check_free, file, resume=True)
    for out in (file, file / "below"):
        assert f"cannot write results to {str(out)!r}" in refusal(write_run, out, A)
    assert file.read_text() == "precious"


def test_second_writer_is_refused_while_the_first_writes(tmp_path):
    with RunWriter(tmp_path, SETTINGS, RECORD) as first:
        first.write(A)
        assert "being written by another run" in refusal(write_run, tmp_path, resume=True)
        first.write(B)
    assert list(read_run(tmp_path).predictions) == ["a.jpg", "folder/b.png"]
    assert write_run(tmp_path, resume=True) == {"a.jpg", "folder/b.png"}


def test_writer_that_fails_lets_go_of_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), RunWriter(tmp_path, SETTINGS, RECORD) as writer:
        writer.write(A)
        raise ZeroDivisionError
    assert write_run(tmp_path, resume=True) == {"a.jpg"}


# --- finding runs ------------------------------------------------------------------------------------


def test_runs_are_found_at_and_below_a_folder(tmp_path):
    for name in ("b", "a/deep/er", "a"):
        write_run(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert find_runs(tmp_path) == [tmp_path / "a", tmp_path / "a/deep/er", tmp_path / "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"]


def test_no_runs(tmp_path):
    assert "no runs in" in refusal(find_runs, tmp_path)
    assert "no such folder" in refusal(find_runs, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "no such folder" in refusal(find_runs, tmp_path / "file")


def test_one_line_escapes_what_a_terminal_cannot_show():
    assert one_line("a\nb\x1b[0m\udcff 日本") == "a\\nb\\x1b[0m\\udcff 日本"
