"""Files that are written as a whole, or not at all."""

from __future__ import annotations

import pytest
from helpers import names, refusal

from lost_reg.whole_files import whole_file


def test_the_target_is_there_once_the_block_has_ended(tmp_path):
    target = tmp_path / "folder" / "a.txt"
    for text in ("first", "second"):
        with whole_file(target, durable=True) as part:
            part.write_text(text)
            assert not target.exists() or target.read_text() == "first"
        assert target.read_text() == text and names(tmp_path) == ["folder", "folder/a.txt"]


def test_what_was_there_stays_if_the_block_fails(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(ValueError), whole_file(target) as part:
        part.write_text("half")
        raise ValueError
    assert target.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_what_cannot_be_written_is_one_line(tmp_path):
    def write(target, **options):
        with whole_file(target, **options) as part:
            part.write_text("text")

    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    below = tmp_path / "file" / "a.txt"
    assert refusal(write, below, what="the maps") == f"cannot write the maps {below}: File exists"
    folder = tmp_path / "folder"
    assert refusal(write, folder, durable=True) == f"cannot write {folder}: Is a directory"
    assert names(tmp_path) == ["file", "folder"]


def test_an_error_of_the_system_in_the_block_is_one_line(tmp_path):
    def write():
        with whole_file(tmp_path / "a.txt") as part:
            part.write_text("half")
            raise OSError(28, "No space left on device")

    assert refusal(write) == f"cannot write {tmp_path / 'a.txt'}: No space left on device"
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / "a.txt.part").write_text("a long text of a process that was killed")
    with whole_file(tmp_path / "a.txt") as part:
        part.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole" and names(tmp_path) == ["a.txt"]
