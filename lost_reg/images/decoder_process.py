"""A process that decodes images, as a run sees it: watched, replaced after a crash; see `decoding.py`."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.images.batching import DecodedImage
from lost_reg.types import Failure

if TYPE_CHECKING:
    from lost_reg.images.decoding import Decoding

SECONDS_PER_IMAGE = 60.0  # after which a decoder counts as hanging
_SECONDS_BETWEEN_CHECKS = 0.2
_SECONDS_OF_SLEEP = 2.0  # between two checks: a busy machine alone never delays them this long
# `-c` with this interpreter's sys.path: the working directory is never searched for modules.
_COMMAND = "import sys; sys.path[:] = {path!r}; from lost_reg.images.decoder import serve; serve()"


@contextmanager
def watched(processes: list[DecoderProcess]) -> Iterator[None]:
    """While this lasts, processes that hang are ended; at its end, all are."""
    over = threading.Event()
    threading.Thread(target=_watch, args=(processes, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        for process in processes:
            process.close()


def _watch(processes: list[DecoderProcess], over: threading.Event) -> None:
    """Check repeatedly for processes that hang."""
    checked = time.monotonic()
    while not over.wait(_SECONDS_BETWEEN_CHECKS):
        slept, checked = time.monotonic() - checked, time.monotonic()
        for process in processes:
            if slept > _SECONDS_OF_SLEEP:  # the run was stopped (Ctrl-Z), and so were they
                process.postpone(slept)
            process.end_if_late()


class DecoderProcess:
    """A process that decodes one image after another; started on first use, and restarted after it dies.

    Not thread-safe, except for `postpone`, `end_if_late` and `close`.
    """

    def __init__(self, decoding: Decoding, seconds: float, command: Sequence[str] | None = None):
        self._settings, self._seconds = asdict(decoding), seconds
        self._command = command or [sys.executable, "-c", _COMMAND.format(path=sys.path)]
        self._process: subprocess.Popen | None = None
        self._deadline, self._lock = math.inf, threading.Lock()
        self._closed = False

    def decode(self, name: str, image: str | Path | bytes) -> DecodedImage | Failure:
        """Decode one image. If the process dies or takes too long, the image is a Failure.

        Raises:
            LostRegError: the process cannot be started.
        """
        answer = self._ask({}, image)
        if "reason" in answer:
            return Failure(name, answer["reason"])
        size_hw, original_hw = tuple(answer["size_hw"]), tuple(answer["original_hw"])
        return DecodedImage(name, answer["pixels"], size_hw, original_hw, answer["note"])

    def size(self, image: str | Path | bytes) -> tuple[int, int] | str:
        """As `image_size`; the reason for an image that it refuses, or if the process dies or takes too long.

        Raises:
            LostRegError: the process cannot be started.
        """
        answer = self._ask({"header": True}, image)
        return answer["reason"] if "reason" in answer else tuple(answer["size_hw"])

    def _ask(self, request: dict[str, Any], image: str | Path | bytes) -> dict[str, Any]:
        """The answer to a request, a reason if the process died."""
        process = self._process or self._start()
        self._deadline = time.monotonic() + self._seconds
        try:
            _send(process, request, image)
            answer = _receive(process)
        except OSError:  # a pipe whose other end is gone
            answer = None
        with self._lock:
            was_late = time.monotonic() > self._deadline
            self._deadline = math.inf
        if was_late or answer is None:  # it may have been killed just after it answered
            self._process = None
            _end(process)
        return answer or {"reason": _how_it_ended(process, self._seconds if was_late else None)}

    def postpone(self, seconds: float) -> None:
        """Allow this many more seconds for the current image."""
        with self._lock:
            self._deadline += seconds

    def end_if_late(self) -> None:
        """End the process if its image takes too long."""
        with self._lock:
            if self._process and time.monotonic() > self._deadline:
                self._process.kill()

    def close(self) -> None:
        """End the process at once, whatever it is doing."""
        self._closed = True
        if process := self._process:
            _end(process)

    def _start(self) -> subprocess.Popen:
        if self._closed:
            raise LostRegError("decoding has been stopped")
        self._deadline = time.monotonic() + max(self._seconds, SECONDS_PER_IMAGE)  # starting takes its time
        try:
            # What image libraries print about files is dropped: each file's reason is recorded instead.
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
            self._process = process
            process.stdin.write(line_of(self._settings))
            process.stdin.flush()
            is_ready = process.stdout.readline() == b"ready\n"
        except OSError:
            is_ready = False
        if not is_ready:
            raise LostRegError(
                "processes that decode images cannot be started here: `workers` 0 decodes without them"
            )
        if self._closed:  # while it started
            _end(process)
        return process


def _send(process: Any, request: dict[str, Any], image: str | Path | bytes) -> None:
    if isinstance(image, bytes):
        process.stdin.write(line_of({**request, "bytes": len(image)}))
        process.stdin.write(image)
    else:
        process.stdin.write(line_of({**request, "path": os.fspath(image)}))
    process.stdin.flush()


def line_of(content: dict) -> bytes:
    """A message to or from a process, as a line of JSON."""
    return json.dumps(content).encode() + b"\n"


def _receive(process: Any) -> dict[str, Any] | None:
    """The answer, with its pixels if it has any, or None if the process died."""
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        return None
    answer = json.loads(line)
    if "shape" in answer:
        answer["pixels"] = np.empty(answer["shape"], dtype=np.uint8)
        if process.stdout.readinto(answer["pixels"].data.cast("B")) != answer["pixels"].nbytes:
            return None
    return answer


def _how_it_ended(process: subprocess.Popen, seconds: float | None) -> str:
    if seconds is not None:
        return f"took more than {seconds:g} s to decode and was stopped"
    code = process.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"crashed its decoder ({how})"


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
