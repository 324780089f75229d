"""Decoding in processes: the same images as without, and nothing that a file does takes the others along."""

from __future__ import annotations

import math
import os
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from helpers import refusal
from PIL import Image

from lost_reg.images import decoder_process
from lost_reg.images.decoding import Decoding, decode
from lost_reg.types import Failure

DECODING = Decoding(apply_exif=True, max_side=40, patch_size=16)
HANG_GUARD = 120  # seconds, after which a test fails that would not end; far more than a busy machine needs


@pytest.fixture
def photos(tmp_path):
    """Images of several sizes and forms, by name, as paths, encoded or as arrays."""
    random = np.random.default_rng(0)
    images = {}
    for number, size_hw in enumerate([(30, 20), (64, 64), (17, 90), (1, 1)]):
        pixels = random.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        path = tmp_path / f"caf\udce9\n{number}.png"
        Image.fromarray(pixels).save(path)
        images |= {f"path{number}": path, f"text{number}": str(path), f"bytes{number}": path.read_bytes()}
        images[f"array{number}"] = pixels
    return images


@pytest.fixture
def faulty(tmp_path):
    """What starts a process whose decoder does what the file says."""
    script = tmp_path / "faulty.py"
    script.write_text(
        textwrap.dedent("""
            import os, signal, sys, time
            import numpy as np
            from lost_reg.images import decoder, decoding

            def pass_time(seconds):
                with open(__file__ + ".clock", "ab") as clock:
                    clock.write(bytes(seconds))

            def read_noted(source, *, apply_exif, background, check):
                what = source.read_text() if hasattr(source, "read_text") else source.decode()
                if what == "crash":
                    os.kill(os.getpid(), signal.SIGSEGV)
                elif what == "exit":
                    os._exit(3)
                elif what == "hang":
                    pass_time(100)
                    time.sleep(5 * 120)
                elif what == "slow":
                    pass_time(20)
                    time.sleep(0.6)  # while the run looks for processes that hang
                elif what == "swell":
                    np.empty(10 * 2**30, np.uint8)  # none of it is touched
                elif what == "interrupt":
                    os.kill(os.getpid(), signal.SIGINT)
                elif what == "chatter":
                    print("noise" * 10_000, flush=True)
                    os.write(1, b"more noise")
                return np.full((2, 3, 3), os.getpid() % 256, np.uint8), None

            decoding.read_noted = read_noted
            decoder.serve()
        """)
    )
    return [sys.executable, str(script)]


@pytest.fixture
def clock(faulty, monkeypatch):
    """Time passes only in a faulty decoder that says so, however slow the machine is."""
    passed = Path(f"{faulty[1]}.clock")
    passed.touch()
    monkeypatch.setattr(
        decoder_process, "time", SimpleNamespace(monotonic=lambda: float(passed.stat().st_size))
    )
    monkeypatch.setattr(decoder_process, "_SECONDS_OF_SLEEP", math.inf)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The scripts find this very lost_reg."""
    import lost_reg

    monkeypatch.setenv("PYTHONPATH", os.path.dirname(lost_reg.__path__[0]))


def outcomes(files: dict[str, str], tmp_path, command, **options) -> dict[str, object]:
    images = []
    for name, what in files.items():
        (tmp_path / name).write_text(what)
        images.append((name, tmp_path / name))
    found = list(decode(images, DECODING, command=command, **{"workers": 1, "seconds": 3600.0, **options}))
    assert [one.image if isinstance(one, Failure) else one.name for one in found] == list(files)
    return {one.image: one.reason for one in found if isinstance(one, Failure)}


def test_processes_give_the_same_as_none_in_the_same_order(photos):
    alone = list(decode(photos.items(), DECODING, workers=0))
    for workers in (1, 3):
        shared = list(decode(photos.items(), DECODING, workers=workers))
        assert [one.name for one in shared] == list(photos)
        for one, other in zip(alone, shared):
            assert (one.size_hw, one.original_hw) == (other.size_hw, other.original_hw)
            assert one.pixels.dtype == other.pixels.dtype and np.array_equal(one.pixels, other.pixels)
    assert alone[8].original_hw == (17, 90) and alone[8].size_hw == (8, 40)
    assert alone[8].pixels.shape == (16, 48, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_decoded_says_why(tmp_path, workers):
    (tmp_path / "bad.jpg").write_text("no image")
    failed_before = Failure("shard.tar", "cannot be read to its end")
    images = [
        ("a", tmp_path / "bad.jpg"),
        failed_before,
        ("b", tmp_path / "gone"),
        ("c", b""),
        ("d", tmp_path),
    ]
    found = list(decode(images, DECODING, workers=workers))
    assert [one.image for one in found] == ["a", "shard.tar", "b", "c", "d"]
    assert found[1] == failed_before
    assert found[0].reason == "not an image, but a text file"
    assert found[2].reason == f"no such file: '{tmp_path / 'gone'}'"
    assert found[3].reason.startswith("an empty file")
    assert "irectory" in found[4].reason


@pytest.mark.parametrize("workers", [0, 1])
def test_a_note_and_the_background_pass_through_a_process(tmp_path, workers):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-2])
    images = [(name, tmp_path / name) for name in ("a.png", "b.jpg")]
    grey = Decoding(True, None, 8, background="#808080")
    clear, cut = decode(images, grey, workers=workers)
    assert (clear.pixels == 128).all() and clear.note is None
    assert (cut.pixels == 255).all() and cut.note == "without its end marker"


def test_a_decoder_that_crashes_is_replaced_and_its_image_recorded(tmp_path, faulty):
    files = {"1": "fine", "2": "crash", "3": "fine", "4": "exit", "5": "crash", "6": "fine"}
    assert outcomes(files, tmp_path, faulty) == {
        "2": "crashed its decoder (SIGSEGV)",
        "4": "crashed its decoder (exit code 3)",
        "5": "crashed its decoder (SIGSEGV)",
    }


def test_a_decoder_that_hangs_is_replaced_and_its_image_recorded(tmp_path, faulty, clock):
    files = {"1": "fine", "2": "hang", "3": "fine"}
    assert outcomes(files, tmp_path, faulty, seconds=30) == {
        "2": "took more than 30 s to decode and was stopped"
    }


def test_the_time_limit_is_of_one_image_and_not_of_all(tmp_path, faulty, clock):
    assert outcomes({str(number): "slow" for number in range(4)}, tmp_path, faulty, seconds=30) == {}


def test_time_in_which_the_run_itself_was_stopped_does_not_count(monkeypatch):
    """As by Ctrl-Z: the processes were stopped with it."""
    clock, told = [100.0], []
    monkeypatch.setattr(decoder_process.time, "monotonic", lambda: clock[0])
    pauses = [0.2, 70.0, 0.2]

    class Over:
        def wait(self, _):
            clock[0] += pauses.pop(0) if pauses else 0
            return len(told) == 4

    class Process:
        def postpone(self, seconds):
            told.append(round(seconds, 6))

        def end_if_late(self):
            told.append("looked")

    decoder_process._watch([Process()], Over())
    assert told == ["looked", 70.0, "looked", "looked"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
def test_a_decoder_that_takes_too_much_memory_is_refused_it(tmp_path, faulty):
    assert outcomes({"1": "swell", "2": "fine"}, tmp_path, faulty) == {"1": "takes too much memory to decode"}


def test_ctrl_c_is_not_the_decoders_to_act_on(tmp_path, faulty):
    """A terminal sends it to all processes, and no image is to be blamed for it."""
    assert outcomes({"1": "interrupt", "2": "fine"}, tmp_path, faulty) == {}


def test_what_a_decoder_prints_disturbs_nothing(tmp_path, faulty, capfd):
    assert outcomes({"1": "chatter", "2": "fine", "3": "chatter"}, tmp_path, faulty) == {}
    assert capfd.readouterr() == ("", "")


def test_processes_that_cannot_be_started_are_one_line(tmp_path):
    (tmp_path / "a").write_text("fine")
    for command in ([sys.executable, "-c", "raise SystemExit"], ["/nowhere/python"]):
        text = refusal(list, decode([("a", tmp_path / "a")], DECODING, workers=1, command=command))
        assert "`workers` 0" in text


def test_a_process_that_never_gets_ready_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(decoder_process, "SECONDS_PER_IMAGE", 0.5)
    (tmp_path / "a").write_text("fine")
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    images = [("a", tmp_path / "a")]
    assert "`workers` 0" in refusal(list, decode(images, DECODING, workers=1, command=command, seconds=0.5))


def test_only_a_few_images_are_decoded_ahead(photos):
    asked_for = []

    def images():
        for name, image in list(photos.items()) * 10:
            asked_for.append(name)
            yield name, image

    stream = decode(images(), DECODING, workers=2)
    next(stream)
    assert len(asked_for) <= 5
    stream.close()
    assert len(asked_for) <= 5


def test_no_process_and_no_thread_is_left(tmp_path, faulty):
    before = threading.active_count()
    (tmp_path / "a").write_text("hang")
    (tmp_path / "b").write_text("fine")
    stream = decode(
        [("b", tmp_path / "b"), *[("a", tmp_path / "a")] * 5], DECODING, workers=2, command=faulty
    )
    next(stream)
    stream.close()
    for _ in range(HANG_GUARD * 50):
        if not psutil.Process().children(recursive=True) and threading.active_count() <= before:
            return
        time.sleep(0.02)
    raise AssertionError("something is left")


def test_the_working_directory_is_not_searched_for_modules(photos, tmp_path, monkeypatch):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for module in ("numpy", "cv2", "json", "PIL", "lost_reg"):
        (hostile / f"{module}.py").write_text("raise SystemExit('hostile')")
    monkeypatch.chdir(hostile)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    assert not isinstance(next(decode(photos.items(), DECODING, workers=1)), Failure)


def test_processes_end_with_the_process_that_started_them(tmp_path, faulty):
    """Also one that was killed, and while a decoder is at work."""
    (tmp_path / "a").write_text("fine")
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
            import time
            from pathlib import Path
            import psutil
            from lost_reg.images.decoding import Decoding, decode

            stream = decode([("a", Path({str(tmp_path / "a")!r}))] * 9, Decoding(True, None, 16), workers=2)
            next(stream)
            print(*(child.pid for child in psutil.Process().children()), flush=True)
            time.sleep(3600)
        """)
    )
    parent = psutil.Popen([sys.executable, str(script)], stdout=-1)
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert children
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=HANG_GUARD)
    assert not alive
