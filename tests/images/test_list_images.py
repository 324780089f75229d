"""Images by files, folders and patterns."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_cases import listed
from PIL import Image

from lost_reg.errors import LostRegError
from lost_reg.images.reading import SUFFIXES, read_image
from lost_reg.images.sources import ImageFiles, list_images
from lost_reg.runs.writer import NameSet
from lost_reg.types import Failure

ALL_NAMES = ("a.PNG", "b.jpg", "other/e.webp", "sub/b.jpg", "sub/c.jpeg", "sub/deep/d.TIFF")


@pytest.mark.parametrize("given", ["photos", "photos/", "./photos", "photos/sub/..", Path("photos")])
def test_a_folder_is_searched_recursively_and_sorted(tree, given):
    found = list_images([given])
    assert found.root == tree / "photos"
    assert found.names == ALL_NAMES
    assert all((found.root / name).is_file() for name in found.names)


def test_an_absolute_folder_and_the_current_one_are_listed_alike(tree, monkeypatch):
    absolute = list_images([tree / "photos"])
    monkeypatch.chdir(tree / "photos")
    assert list_images(["."]) == absolute


@pytest.mark.parametrize("suffix", [s for suffix in SUFFIXES for s in (suffix, suffix.upper())])
def test_suffixes_count_in_any_case(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    assert list_images([tmp_path]).names == (f"a{suffix}",)


def test_a_named_file_is_taken_whatever_its_suffix(tree):
    found = list_images(["photos/notes.txt"])
    assert (found.root, found.names) == (tree / "photos", ("notes.txt",))


@pytest.mark.parametrize(
    "pattern, root, names",
    [
        ("photos/*.jpg", "photos", ["b.jpg"]),
        ("photos/*", "photos", [*ALL_NAMES]),  # a folder that matches is searched
        ("photos/**", "photos", [*ALL_NAMES]),
        ("photos/**/*.jpg", "photos", ["b.jpg", "sub/b.jpg"]),
        ("photos/**/[cd].*", "photos", ["sub/c.jpeg", "sub/deep/d.TIFF"]),
        ("photos/?.PNG", "photos", ["a.PNG"]),
        ("photos/*/*.jpeg", "photos", ["sub/c.jpeg"]),
        ("*/sub/*.jp*", ".", ["photos/sub/b.jpg", "photos/sub/c.jpeg"]),
    ],
)
def test_patterns_are_named_from_their_fixed_part(tree, pattern, root, names):
    for text in (pattern, str(tree / pattern)):
        found = list_images([text])
        assert found.root == (tree / root).resolve()
        assert found.names == tuple(names)


def test_several_inputs_share_the_deepest_common_root(tree):
    found = list_images(["photos/sub", "photos/other/e.webp", "photos/*.jpg"])
    assert found.root == tree / "photos"
    # sorted within each input, the inputs in their order
    assert found.names == ("sub/b.jpg", "sub/c.jpeg", "sub/deep/d.TIFF", "other/e.webp", "b.jpg")


def test_a_file_named_twice_is_taken_once(tree):
    found = list_images(["photos/b.jpg", "photos", "./photos/b.jpg", "photos/*.jpg", tree / "photos/b.jpg"])
    assert sorted(found.names) == sorted(ALL_NAMES)
    assert found.names[0] == "b.jpg"


@pytest.mark.parametrize("exclude", ["photos/sub", "photos/../photos/sub", "absolute", "absolute/../sub"])
def test_the_excluded_folder_is_left_out_however_it_is_written(tree, exclude):
    folder = Path(exclude.replace("absolute", str(tree / "photos" / "sub")))
    assert list_images(["photos"], exclude=folder).names == ("a.PNG", "b.jpg", "other/e.webp")


def test_excluding_a_folder_does_not_leave_out_its_namesakes(tree):
    (tree / "photos/sub-2").mkdir()
    shutil.copy(tree / "photos/b.jpg", tree / "photos/sub-2/x.jpg")
    assert "sub-2/x.jpg" in list_images(["photos"], exclude=tree / "photos/sub").names


def test_links_that_lead_in_circles_are_not_followed(tree):
    for name in ("round", "and"):
        (tree / "photos/sub" / name).symlink_to(tree / "photos")
    assert list_images(["photos"]).names == ALL_NAMES
    assert list_images(["photos/**/*.jpg"]).names == ("b.jpg", "sub/b.jpg")


def test_a_folder_that_cannot_be_listed_is_recorded(tree, monkeypatch):
    scandir = os.scandir

    def refusing(folder):
        if Path(folder).name == "deep":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    found = list_images(["photos"])
    assert "sub/deep/d.TIFF" not in found.names and len(found.names) == 5
    assert listed(found)[0] == Failure("sub/deep", "cannot be listed: Permission denied")
    (deep,) = list_images(["photos/sub", "photos/other"]).failures  # named from the root of all inputs
    assert deep.image == "sub/deep"
    (tree / "bare").mkdir()
    with pytest.raises(LostRegError, match="no images in 'bare'"):
        list_images(["photos", "bare"])


def test_names_with_glob_characters_are_names_first(tree):
    for name in ("a[1].jpg", "a1.jpg", "what?.jpg", "set[2]/x.jpg"):
        (tree / "odd" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "odd" / name).touch()
    assert list_images(["odd/a[1].jpg"]).names == ("a[1].jpg",)
    assert list_images(["odd/what?.jpg"]).names == ("what?.jpg",)
    assert list_images(["odd/set[2]"]).root == tree / "odd/set[2]"
    (tree / "odd/a[1].jpg").unlink()
    assert list_images(["odd/a[1].jpg"]).names == ("a1.jpg",)  # a pattern, then


def test_a_pattern_below_a_folder_with_glob_characters_is_named_from_that_folder(tree, monkeypatch):
    (tree / "set[2]").mkdir()
    (tree / "set[2]/x.jpg").touch()
    monkeypatch.chdir(tree / "set[2]")
    found = list_images(["*.jpg"])
    assert (found.root, found.names) == (tree / "set[2]", ("x.jpg",))


@pytest.mark.parametrize("missing", ["nowhere", "photos/x.jpg"])
def test_a_missing_input_is_refused_by_name(tree, missing):
    with pytest.raises(LostRegError, match=f"no such file or folder: '{missing}'"):
        list_images(["photos", missing])


@pytest.mark.parametrize("empty", ["bare", "photos/*.gif", "nowhere/**/*.jpg", "photos/*.txt"])
def test_an_input_without_images_is_refused_by_name(tree, empty):
    (tree / "bare").mkdir()
    with pytest.raises(LostRegError, match=re.escape(f"no images in '{empty}'")):
        list_images(["photos", empty])


def test_a_folder_of_which_all_is_excluded_has_no_images(tree):
    with pytest.raises(LostRegError, match="no images in 'photos/sub'"):
        list_images(["photos/sub"], exclude=tree / "photos")


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX alone")
def test_names_that_are_no_utf_8_are_listed_and_read(tmp_path):
    Image.new("RGB", (3, 2), (255, 0, 9)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    found = list_images([tmp_path])
    assert read_image(found.root / found.names[0], apply_exif=True)[1, 2].tolist() == [255, 0, 9]


@given(st.integers(0, 30), st.sets(st.integers(0, 29)), st.none() | st.integers(1, 40))
def test_a_session_does_what_is_not_done_of_the_first_images(count, done, limit):
    images = ImageFiles(Path("/root"), tuple(map(str, range(count))))
    found = [name for name, _ in images.todo(NameSet(map(str, done)), limit)]
    assert found == [str(number) for number in range(min(count, limit or count)) if number not in done]
