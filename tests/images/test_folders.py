"""What a search of folders and patterns leaves out, and what it says about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import refusal

from lost_reg.images import folders
from lost_reg.images.folders import drawn_line, is_junk, passed_over_line
from lost_reg.images.reading import HEIF_SUFFIXES, SUFFIXES
from lost_reg.images.sources import list_images

JUNK = (
    ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/b.jpg", "sub/__macosx/._b.jpg", ".thumbs/b.jpg",
    "._b.jpg", "sub/.hidden.png", "sub/@eaDir/b.jpg/SYNOPHOTO_THUMB_B.jpg", "$RECYCLE.BIN/x.jpg",
)  # fmt: skip


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A function that makes these (empty) files in the folder photos."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> Path:
        for name in names:
            file = tmp_path / "photos" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path / "photos"

    return make


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setattr(folders, "readable_suffixes", lambda: SUFFIXES)


@pytest.mark.parametrize("given", ["photos", "photos/**", "photos/*", "photos/**/*", "photos/**/*.jpg", "p*"])
def test_hidden_files_and_junk_are_left_out(photos, given):
    photos("b.jpg", "sub/c.jpg", "Thumbs.db", "desktop.ini", ".DS_Store", *JUNK)
    found = list_images([given])
    assert [Path(name).name for name in found.names] == ["b.jpg", "c.jpg"]
    assert found.passed_over == {}


@pytest.mark.parametrize(
    "given, names",
    [
        ("photos/.thumbs", ["b.jpg"]),
        ("photos/__MACOSX", ["b.jpg"]),
        ("photos/._b.jpg", ["._b.jpg"]),
        ("photos/.thumb*/*.jpg", [".thumbs/b.jpg"]),
        ("photos/.*/*.jpg", [".ipynb_checkpoints/a-checkpoint.jpg", ".thumbs/b.jpg"]),
        ("photos/.*", ["._b.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", ".thumbs/b.jpg"]),
        ("photos/**/._*", ["._b.jpg"]),
        ("photos/**/.thumbs/*", [".thumbs/b.jpg"]),
        ("photos/*/@eaDir/*/*", ["sub/@eaDir/b.jpg/SYNOPHOTO_THUMB_B.jpg"]),
        ("photos/.thumbs/../b.*", ["b.jpg"]),
    ],
)
def test_junk_that_is_named_is_searched(photos, given, names):
    photos("b.jpg", *JUNK)
    assert [*list_images([given]).names] == names


def test_a_hidden_folder_above_hides_nothing(photos):
    photos(".cache/x/a.jpg", ".cache/x/.cache/b.jpg")
    for given in (
        "photos/.cache/x",
        "photos/.cache/x/*",
        "photos/.cache/x/**/*.jpg",
    ):
        assert [*list_images([given]).names][-1:] in (["a.jpg"], [".cache/x/a.jpg"]), given


@pytest.mark.parametrize(
    "name, junk",
    [
        (".a", True),
        ("Thumbs.db", True),
        ("__MACOSX", True),
        (".", False),
        ("..", False),
        ("a.jpg", False),
        ("x.db", False),
    ],
)
def test_junk_is_known_by_its_name(name, junk):
    assert is_junk(name) == junk


@pytest.mark.parametrize(
    "given",
    [["photos"], ["photos/*", "photos/sub"], ["photos/**"], ["photos/**/*"], ["photos", "photos/sub/*"]],
)
def test_pictures_and_videos_that_are_not_read_are_counted_once(photos, without_heif, given):
    photos("a.jpg", "a.HEIC", "sub/b.heic", "sub/c.mov", "sub/d.jpg", "e.NEF", "noname")
    photos("labels.txt", "sub/a.json", "README.md", ".hidden.mov")  # of these, nobody wants to hear
    found = list_images(given)
    assert found.passed_over == {".heic": 2, "": 1, ".mov": 1, ".nef": 1}
    assert passed_over_line(found.passed_over) == (
        "5 files passed over: 2 .heic, 1 without suffix, 1 .mov, 1 .nef; "
        "after `pip install 'lost-reg[heif]'`, .heic can be read"
    )


def test_what_is_read_was_not_passed_over(photos, monkeypatch):
    photos("a.jpg", "b.heic", "c.mov", "d.gif", "e.jfif", "f.jpe", "g.avif")
    monkeypatch.setattr(folders, "readable_suffixes", lambda: SUFFIXES + HEIF_SUFFIXES)
    found = list_images(["photos/c.mov", "photos"])  # one of any suffix that is named
    assert len(found.names) == 7 and found.passed_over == {}
    only = list_images(["photos"])
    assert passed_over_line(only.passed_over) == "1 file passed over: 1 .mov"


def test_what_a_run_drew_into_its_folder_is_no_image_unless_it_is_named(photos):
    drawn = ("run/pictures/a.jpg.jpg", "run/maps/b.jpg", "sub/run/pictures/sub/c.jpg.jpg")
    own = ("a.jpg", "pictures/d.jpg", "run/e.jpg", "sub/run.json", "sub/maps/f.jpg")
    photos(*drawn, *own, "sub/run/run.json", "sub/run/predictions.jsonl")
    for name in ("run.json", "predictions.jsonl"):
        photos(f"run/{name}")
    found = list_images(["photos"])
    assert {*found.names} == {one for one in own if one.endswith(".jpg")}
    assert found.drawn == ["run/maps", "run/pictures", "sub/run/pictures"]
    assert drawn_line(found.drawn) == (
        "left out are pictures and maps that lost-reg made: run/maps, run/pictures and 1 more"
    )
    named = list_images(["photos/run/pictures"])
    assert named.names == ("a.jpg.jpg",) and named.drawn == []


def test_what_is_excluded_was_not_passed_over(photos):
    folder = photos("a.jpg", "run/pictures/a.mov", "run/b.mov")
    assert list_images(["photos"], exclude=folder / "run/pictures").passed_over == {".mov": 1}


@pytest.mark.parametrize(
    "names, given, said",
    [
        (
            [f"{n}.heic" for n in range(12)] + ["a.txt"],
            "photos",
            ": it holds 12 .heic, 1 .txt; after `pip install ",
        ),
        (["a.heic"], "photos/*.heic", "no images in 'photos/*.heic' "),
        (["a.csv", "b"], "photos", "in 'photos' (looked for .jpg, .jpeg, "),
        (["a.tar", "b.tar"], "photos", "2 .tar; name tar shards themselves, such as 'shards/*.tar'"),
        ([".thumbs/a.jpg"], "photos", ": it is empty (hidden files do not count)"),
    ],
)
def test_a_folder_without_images_says_what_is_there(photos, without_heif, names, given, said):
    photos(*names)
    assert said in refusal(list_images, [given])
