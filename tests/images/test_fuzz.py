"""A small part of evaluation/fuzz_reader.py: no content of an image file brings the reader down."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import without_notes

from lost_reg.cli.app import main
from lost_reg.images.decoding import Decoding, decode
from lost_reg.images.reading import read_image
from lost_reg.runs.folder import read_run
from lost_reg.types import Failure

pytest.importorskip("tifffile", reason="comes with scikit-image")
from fuzz_reader import decode_all
from fuzzing.bombs import BOMBS
from fuzzing.mutations import mutated
from fuzzing.whole_files import pixels, whole_files

SUPPORTED = ("jpeg", "mpo", "png", "bmp", "webp", "gif", "ppm", "pgm", "pbm", "tiff", "avif", "heic")
REFUSED = ("tiff-I", "tiff-F", "tiff-LAB", "tiff-YCbCr-raw")
CHEAP_BOMBS = (
    "compressed text", "profile", "EXIF", "chunks", "gif of", "ppm of", "tiff of 4", "strip", "tiles", "tag",
    "circle", "bmp of",
)  # fmt: skip


@pytest.fixture(scope="module")
def files():
    return whole_files()


def test_every_kind_of_file_is_read_or_refused(files):
    for name, content in files.items():
        outcome = Decoding(True, None, 1).prepare(name, content)
        if name.startswith(SUPPORTED) and name not in REFUSED:
            assert outcome.pixels.shape[2] == 3 and outcome.pixels.size, name
        else:
            assert isinstance(outcome, Failure), name


def test_an_interlaced_file_is_what_it_was_made_of(files):
    assert np.array_equal(read_image(files["png-interlaced"], apply_exif=True), pixels()[..., :3])


def test_damaged_files_are_decoded_or_refused(files):
    outcomes = decode_all(mutated(files, seed=1, count=400), workers=2)
    assert outcomes.files == 400 and outcomes.taken > 50 and outcomes.reasons.total() > 100
    assert outcomes.ended == []  # no process crashed or had to be ended
    assert outcomes.largest[0] < 2**29


def test_bombs_are_refused_or_small():
    bombs = ((name, make()) for name, make in BOMBS.items() if any(c in name for c in CHEAP_BOMBS))
    outcomes = decode_all(bombs, workers=2)
    assert outcomes.files >= len(CHEAP_BOMBS) and outcomes.ended == []
    assert outcomes.largest[0] < 2**29


def test_damage_depends_on_the_seed_alone(files):
    first = list(mutated(files, seed=3, count=100))
    assert first == list(mutated(files, seed=3, count=100))
    assert first != list(mutated(files, seed=4, count=100))


def test_files_that_change_and_vanish_while_they_are_read(tmp_path, files):
    """Rewritten again and again, cut in half, deleted: each is read or refused."""
    paths = [tmp_path / f"{index}.png" for index in range(40)]
    content, stop = files["png-RGB"], threading.Event()

    def change() -> None:
        rng = np.random.default_rng(0)
        while not stop.is_set():
            path = paths[rng.integers(len(paths))]
            path.write_bytes(content[: rng.choice([len(content), len(content) // 2, 0])])
            if rng.random() < 0.3:
                path.unlink(missing_ok=True)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        images = [(path.name, path) for path in paths * 10]
        outcomes = list(decode(images, Decoding(True, None, 16), workers=2))
    finally:
        stop.set()
        thread.join()
    refused = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert len(outcomes) == len(images) and 0 < len(refused) < len(images)
    assert not any("crashed" in outcome.reason or "took more" in outcome.reason for outcome in refused)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_folder_of_everything_that_is_no_image_is_run_to_its_end(tmp_path, save_scene):
    photos = tmp_path / "photos"
    save_scene(photos / "good.jpg")
    (photos / "empty.jpg").touch()
    (photos / "folder.jpg").mkdir()
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "nothing.jpg").symlink_to("gone.jpg")
    (photos / "endless.jpg").symlink_to("/dev/zero")
    (photos / "unreadable.jpg").symlink_to("/proc/self/mem")
    os.mkfifo(photos / "pipe.jpg")
    with (photos / "sparse.tif").open("wb") as file:
        file.truncate(2**40)
    reasons = {
        "empty.jpg": "an empty file",
        "loop.jpg": "symbolic links",
        "nothing.jpg": "no such file",
        "endless.jpg": "not a regular file",
        "unreadable.jpg": "",
        "pipe.jpg": "not a regular file",
        "sparse.tif": "too large",
    }
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["run", str(photos), "--out", str(out), "--workers", "1"])
    assert result.exit_code == 0 and len(without_notes(result)) == 1, result.stderr
    found = read_run(out)
    assert list(found.predictions) == ["good.jpg"]
    assert found.failures.keys() == reasons.keys()
    assert all(reason in found.failures[name].reason for name, reason in reasons.items())
