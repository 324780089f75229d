"""Progress on standard error: a bar on a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lost_reg.text import counted

_SECONDS_BETWEEN_LINES = 15.0
_MEGABYTES = "MB"

_hidden = False

Progress = Callable[[int, int, int | None], None]  # (done, failed, total if known), in images


def no_phases(what: str, unit: str = "image") -> Progress:
    """Report nothing of any phase."""
    return no_progress


def no_progress(done: int, failed: int, total: int | None) -> None:
    """Report nothing."""


def hide_progress(hidden: bool) -> None:
    """Show no progress in this process from now on, or show it again."""
    global _hidden
    _hidden = hidden


def is_progress_hidden() -> bool:
    """Whether no progress is shown."""
    return _hidden


@contextmanager
def image_progress(what: str, unit: str = "image") -> Iterator[Progress]:
    """A Progress to call after each image, or after each of another unit."""
    with _shown() as show:
        yield lambda done, failed, total: show(what, done + failed, total, unit)


@contextmanager
def progress_of_phases() -> Iterator[Callable[..., Progress]]:
    """A function from the name of a phase, and its unit if that is not the image, to its Progress."""
    with _shown() as show:

        def phase(what: str, unit: str = "image") -> Progress:
            return lambda done, failed, total: show(what, done + failed, total, unit)

        yield phase


@contextmanager
def step_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) to call after each step of a training."""
    with _shown() as show:
        yield lambda done, total: show(what, done, total, "step")


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int | None], None]]:
    """A function (what, done, total or None) to call repeatedly; done counts bytes, or images of "images"."""
    with _shown() as show:

        def report(what: str, done: int, total: int | None) -> None:
            if what == "images":
                show(what, done, total, "image")
            else:
                show(what, done / 1e6, total and total / 1e6, _MEGABYTES)

        yield report


@contextmanager
def _shown() -> Iterator[Callable[[str, float, float | None, str], None]]:
    if _hidden or sys.stderr is None:  # as in a program without a console
        yield lambda *_: None
        return
    if not sys.stderr.isatty():
        yield _PlainLines().show
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict = {}
        rates = _Rates()

        def show(what: str, done: float, total: float | None, unit: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, count="")
            count = f"{_counted(done, total, unit)}, {rates.of(what, done):.1f}/s"
            bar.update(tasks[what], completed=done, total=total, count=count)

        yield show


class _Rates:
    """The rate of each task since its first report; what was done before that does not count."""

    def __init__(self):
        self._first: dict[str, tuple[float, float]] = {}

    def of(self, what: str, done: float) -> float:
        started, before = self._first.setdefault(what, (time.monotonic(), done))
        return (done - before) / max(time.monotonic() - started, 1e-3)


class _PlainLines:
    def __init__(self):
        self._last = time.monotonic()
        self._rates = _Rates()

    def show(self, what: str, done: float, total: float | None, unit: str) -> None:
        rate = self._rates.of(what, done)
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        print(f"{what}: {_counted(done, total, unit)}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)


def _counted(done: float, total: float | None, unit: str) -> str:
    last = round(total or done)
    counted_last = f"{last:,} {unit}" if unit == _MEGABYTES else counted(last, unit)
    return f"{done:,.0f} of {counted_last}" if total else counted_last
