"""Progress is on standard error alone: now and then a line, or a bar on a terminal."""

from __future__ import annotations

import io
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lost_reg import progress


@pytest.fixture
def clock(monkeypatch):
    """The time that progress.py sees, in seconds; a test sets `clock.now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_plain_lines_are_occasional_and_tell_rate_and_time_left(clock, capsys):
    with progress.image_progress("tiny") as show:
        for second in range(61):
            clock.now = 1000 + second
            show(second * 100, 0, 10_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "tiny: 1,500 of 10,000 images, 100.0/s, 85 s left",
        "tiny: 3,000 of 10,000 images, 100.0/s, 70 s left",
        "tiny: 4,500 of 10,000 images, 100.0/s, 55 s left",
        "tiny: 6,000 of 10,000 images, 100.0/s, 40 s left",
    ]


def test_failed_images_are_done_too(clock, capsys):
    with progress.image_progress("tiny") as show:
        show(0, 0, 40)
        clock.now += 20
        show(15, 5, 40)
    assert capsys.readouterr().err == "tiny: 20 of 40 images, 1.0/s, 20 s left\n"


def test_short_work_says_nothing(clock, capsys):
    with progress.image_progress("tiny") as show:
        for done in range(1000):
            show(done, 0, 1000)
    assert capsys.readouterr() == ("", "")


def test_no_time_left_is_told_before_there_is_a_rate(clock, capsys):
    with progress.image_progress("tiny") as show:
        clock.now += 20
        show(0, 0, 40)
    assert capsys.readouterr().err == "tiny: 0 of 40 images, 0.0/s\n"


def test_one_image_is_no_plural(clock, capsys):
    with progress.image_progress("tiny") as show, progress.step_progress("training") as step:
        clock.now += 20
        show(1, 0, 1)
        step(1, 2)
    assert capsys.readouterr().err == ("tiny: 1 of 1 image, 0.0/s\ntraining: 1 of 2 steps, 0.0/s\n")


def test_downloads_are_counted_in_megabytes_from_where_they_went_on(clock, capsys):
    with progress.download_progress() as report:
        report("VOC.tar", 100_000_000, 460_000_000)
        clock.now += 20
        report("VOC.tar", 140_000_000, 460_000_000)
        clock.now += 20
        report("list.txt", 5_000_000, None)  # a server that does not tell the size
    assert capsys.readouterr() == (
        "",
        "VOC.tar: 140 of 460 MB, 2.0/s, 160 s left\nlist.txt: 5 MB, 0.0/s\n",
    )


def test_downloaded_images_are_counted_one_by_one(clock, capsys):
    with progress.download_progress() as report:
        report("images", 0, 19_817)
        clock.now += 20
        report("images", 2000, 19_817)
    assert capsys.readouterr().err == "images: 2,000 of 19,817 images, 100.0/s, 178 s left\n"


def test_without_standard_error_nothing_is_shown(clock, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)  # as in a program without a console
    with progress.image_progress("tiny") as show:
        clock.now += 20
        show(1, 0, 2)
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def stderr_is_a_terminal(monkeypatch):
    """In a test's body alone: pytest puts its own standard error in place after the fixtures."""
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "100")
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        yield terminal


def test_bar_on_a_terminal(monkeypatch, capsys):
    with stderr_is_a_terminal(monkeypatch) as terminal, progress.image_progress("tiny") as show:
        for done in range(11):
            show(done, 0, 10)
    text = terminal.getvalue()
    assert "tiny" in text and "━" in text and "10 of 10 images" in text
    assert "\r" in text and "\x1b[2K" in text  # drawn over, not line by line
    assert capsys.readouterr() == ("", "")


def test_bar_of_a_download_whose_size_is_not_known(monkeypatch):
    with stderr_is_a_terminal(monkeypatch) as terminal, progress.download_progress() as report:
        report("VOC.tar", 0, None)
        report("VOC.tar", 3_000_000, None)
    assert "VOC.tar" in terminal.getvalue() and "3 MB" in terminal.getvalue()


def test_cursor_is_shown_again_when_the_work_fails(monkeypatch):
    with (
        stderr_is_a_terminal(monkeypatch) as terminal,
        pytest.raises(ZeroDivisionError),
        progress.image_progress("tiny") as show,
    ):
        show(1, 0, 10)
        raise ZeroDivisionError
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
