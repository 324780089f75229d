"""Files and folders that are written as a whole, or not at all; and paths that lead out of no folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import names, refusal
from hypothesis import given
from hypothesis import strategies as st

from lost_reg import files
from lost_reg.files import (
    check_new,
    folders_with,
    path_within,
    read_bytes,
    read_regular,
    remove_parts,
    whole_file,
    whole_folder,
)


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


# Folders


def test_a_folder_is_there_once_the_block_has_ended(tmp_path):
    target = tmp_path / "above" / "results"
    with whole_folder(target) as part:
        (part / "sub").mkdir()
        (part / "sub" / "a.txt").write_text("text")
        assert not target.exists() and part.parent == target.parent  # renaming it moves no content
    assert names(tmp_path) == ["above", "above/results", "above/results/sub", "above/results/sub/a.txt"]


def test_nothing_is_left_of_a_folder_if_the_block_fails(tmp_path):
    with pytest.raises(ValueError), whole_folder(tmp_path / "results") as part:
        (part / "a.txt").write_text("half")
        raise ValueError
    assert names(tmp_path) == []


@pytest.mark.parametrize("target", ["file/results", "full"])
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, target):
    def write():
        with whole_folder(tmp_path / target) as part:
            (part / "a.txt").write_text("text")

    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "b.txt").write_text("the user's")
    assert refusal(write).startswith(f"cannot write {str(tmp_path / target)!r}: ")
    assert names(tmp_path) == ["file", "full", "full/b.txt"]


def test_a_folder_may_be_the_current_one_by_another_name(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with whole_folder(Path("../empty/.")) as part:
        (part / "a.txt").write_text("text")
    assert names(tmp_path) == ["empty", "empty/a.txt"]


# What killed processes leave

KILLED = """
import os, sys
from pathlib import Path
from lost_reg.files import whole_file, whole_folder
with {how}(Path(sys.argv[1])) as part:
    (part / "a.txt" if part.is_dir() else part).write_text("half")
    os._exit(9)
"""


def write_and_be_killed(how: str, target: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED.format(how=how), target])
    assert ended.returncode == 9


def test_what_a_killed_process_left_goes_when_the_target_is_written_again(tmp_path):
    file, folder = tmp_path / "a.txt", tmp_path / "folder"
    file.write_text("old")
    for how, target in (("whole_file", file), ("whole_folder", folder), ("whole_file", tmp_path / "b")):
        write_and_be_killed(how, target)
    left = {name for name in names(tmp_path) if name.startswith(".")}
    assert len(left) == 4 and file.read_text() == "old" and not folder.exists()
    with whole_file(file, among_many=True) as part:
        part.write_text("new")
    assert left < {*names(tmp_path)}
    with whole_file(file) as part:
        part.write_text("new")
    with whole_folder(folder) as part:
        (part / "b.txt").write_text("new")
    found = names(tmp_path)
    assert len(found) == 4 and found[0].startswith(".") and found[1:] == ["a.txt", "folder", "folder/b.txt"]


def test_what_another_process_is_writing_stays(tmp_path):
    with whole_folder(tmp_path / "a") as first, whole_file(tmp_path / "b") as second:
        (first / "a.txt").write_text("first")
        second.write_text("first")
        with whole_file(tmp_path / "b") as other:
            other.write_text("second")
        assert "cannot write" in refusal(write_into_the_same, tmp_path / "a")
        assert (first / "a.txt").read_text() == second.read_text() == "first"
    assert names(tmp_path) == ["a", "a/a.txt", "b"] and (tmp_path / "b").read_text() == "first"


def write_into_the_same(folder: Path) -> None:
    """Write a folder that another process writes meanwhile, which ends first."""
    with whole_folder(folder) as part:
        folder.mkdir()
        (folder / "theirs").touch()
        (part / "a.txt").write_text("second")
        try:
            part.replace(folder)
        finally:
            (folder / "theirs").unlink()
            folder.rmdir()


def test_no_link_and_nothing_of_another_name_is_removed(tmp_path):
    write_and_be_killed("whole_file", tmp_path / "a")
    (left,) = names(tmp_path)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("the user's")
    (tmp_path / f"{left[:9]}00000000.part").symlink_to(tmp_path / "kept")
    for name in (f"{left[:9]}.part", f"{left[:9]}00000000.parts", ".0000000000000000.part"):
        (tmp_path / name).write_text("the user's")
    before = {*names(tmp_path)}
    with whole_file(tmp_path / "a") as part:
        part.write_text("new")
    assert {*names(tmp_path)} == before - {left} | {"a"}


# Checks before work is done


def test_a_new_file_may_be_in_a_folder_that_is_still_to_be_made(tmp_path, monkeypatch):
    check_new(tmp_path / "sub" / "deep" / "a.json")
    monkeypatch.chdir(tmp_path)
    check_new(Path("a.json"))
    assert names(tmp_path) == []


def test_what_exists_or_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("")
    path = tmp_path / "a.json"
    assert (
        refusal(check_new, path) == f"{str(path)!r} exists already: choose another `out`, or `overwrite` it"
    )
    check_new(path, overwrite=True)
    below = path / "b.json"
    assert refusal(check_new, below) == (
        f"cannot write {str(below)!r}: {str(path)!r} is not a folder that can be written to"
    )
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    assert "not a folder that can be written to" in refusal(check_new, tmp_path / "c.json")


def test_folders_with_a_file_are_found_at_and_below(tmp_path):
    for name in ("run.json", "b/run.json", "a/deep/run.json", "a/other.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "run.json").mkdir(parents=True)  # a folder of this name
    assert folders_with(tmp_path, "run.json") == [tmp_path, tmp_path / "a/deep", tmp_path / "b"]
    assert folders_with(tmp_path / "c", "run.json") == folders_with(tmp_path / "gone", "run.json") == []


# Paths


def test_names_of_images_become_paths_in_a_folder(tmp_path):
    assert path_within(tmp_path, "sub/a.jpg") == tmp_path / "sub" / "a.jpg"
    assert path_within(tmp_path, "/etc/a.jpg") == tmp_path / "etc" / "a.jpg"
    assert path_within(tmp_path, "../../a.jpg") == tmp_path / "%2E%2E" / "%2E%2E" / "a.jpg"
    assert path_within(tmp_path, "./x//a.jpg") == tmp_path / "x" / "a.jpg"


@given(st.text(st.characters(blacklist_characters="\0"), min_size=1, max_size=40), st.integers(1, 100))
def test_no_name_leads_out_of_a_folder_or_is_too_long(name, times):
    folder = Path("/folder")
    path = path_within(folder, name * times)
    assert os.path.normpath(path).startswith("/folder")
    assert len(str(path)) < 1000 and ".." not in path.parts
    assert all(len(os.fsencode(part)) <= 230 for part in path.parts if part.isascii())


def test_long_names_are_shortened_and_stay_different(tmp_path):
    long = [f"{'sub/' * 300}{number}.jpg" for number in range(3)] + ["n" * 300 + ".jpg", "n" * 301 + ".jpg"]
    paths = [path_within(tmp_path, name) for name in long]
    assert len(set(paths)) == 5 and all(path.suffix == ".jpg" for path in paths)
    assert paths[0].name.startswith("0.jpg-") and paths[3].name.startswith("n" * 50 + "-")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    part, others = (
        ".0123456789abcdef.part",
        (".part", "0123456789abcdef.part", ".0123456789abcdef.partx", ".0.part"),
    )
    inner = tmp_path / "maps" / "a"
    for folder in (inner, tmp_path / "elsewhere", tmp_path / "inner.part"):
        folder.mkdir(parents=True)
    for name in (part, *others):
        for folder in (tmp_path, inner, tmp_path / "elsewhere"):
            (folder / name).write_text("x")
    (tmp_path / ".1123456789abcdef.part").symlink_to(tmp_path / ".part")
    (tmp_path / ".2123456789abcdef.part").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    before = set(tmp_path.rglob("*"))
    remove_parts(tmp_path, ["maps", "pictures", "linked"])
    assert before - set(tmp_path.rglob("*")) == {tmp_path / part, inner / part}
    remove_parts(tmp_path / "none")


def test_a_file_too_large_to_be_read_is_refused_unread(tmp_path):
    hole = tmp_path / "hole.json"
    with hole.open("wb") as file:
        file.truncate(1 << 40)  # bytes, none of which take room on the disk
    assert refusal(read_bytes, hole) == f"cannot read {str(hole)!r}: larger than 4 GiB"
    with pytest.raises(OSError, match="larger than 4 GiB"):
        read_regular(hole)


def test_processes_that_write_one_file_do_not_remove_each_others_parts(tmp_path):
    """A part is there for a moment before it is locked; a process that sweeps then is waited for."""
    code = """
import sys
from pathlib import Path
from lost_reg.files import whole_file
for number in range(200):
    with whole_file(Path(sys.argv[1])) as part:
        part.write_text("whole")
"""
    command = [sys.executable, "-c", code, tmp_path / "a"]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert [writer.communicate()[1] for writer in writers] == [""] * 6
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "whole"


def test_what_another_process_writes_is_not_removed(tmp_path):
    with whole_file(tmp_path / "a") as part:
        part.write_text("whole")
        remove_parts(tmp_path)
    assert names(tmp_path) == ["a"]


def test_a_part_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    locked, swept = files._locked, []

    def sweeping(part):
        if not swept:
            swept.append(part)
            part.unlink()
        return locked(part)

    monkeypatch.setattr(files, "_locked", sweeping)
    with whole_file(tmp_path / "a") as part:
        part.write_text("whole")
    assert swept and names(tmp_path) == ["a"]
