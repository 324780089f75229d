"""Files that are written as a whole, or not at all."""

from __future__ import annotations

import pytest
from helpers import names, refusal

from lost_reg.files import whole_file


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


def test_no_file_of_the_users_is_touched(tmp_path):
    (tmp_path / "a.txt.part").write_text("the user's")
    with whole_file(tmp_path / "a.txt") as part, whole_file(tmp_path / "a.txt") as other:
        part.write_text("first")
        other.write_text("second")
    assert names(tmp_path) == ["a.txt", "a.txt.part"]
    assert (tmp_path / "a.txt.part").read_text() == "the user's"


def test_a_name_may_be_as_long_as_can_be(tmp_path):
    target = tmp_path / ("n" * 255)
    with whole_file(target) as part:
        part.write_text("whole")
    assert target.read_text() == "whole"
