"""Decodes image files in separate processes, so that no file can crash a run.

If a decoder crashes, hangs or asks for too much memory, only its process ends and is replaced; the image is
recorded and the others continue. The processes are fresh interpreters without torch: they start quickly,
share no state with the run, and end when their input does, however the run ended.

A process communicates over its standard input and output. First it reads a line of settings and answers
"ready". Each request is a line of JSON: {"path": ...}, or {"bytes": n} followed by the n bytes of an encoded
image; with "header", only its size is asked for. Each answer is a line of JSON: {"reason": ...}, {"size_hw":
...}, or the shapes, followed by the pixels.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from lost_reg.errors import LostRegError, UnreadableImage
from lost_reg.images.batching import DecodedImage
from lost_reg.images.colours import WHITE
from lost_reg.images.crops import centre_crop
from lost_reg.images.reading import (
    array_to_rgb,
    pad_to_patches,
    patches_of,
    read_noted,
    scaled,
    scaled_size,
)
from lost_reg.types import Failure

ImageInput = str | Path | bytes | np.ndarray
NamedImage = tuple[str, ImageInput]

SECONDS_PER_IMAGE = 60.0  # after which a decoder counts as hanging
_BYTES_AHEAD = 2**28  # of encoded images and arrays that wait
_SECONDS_BETWEEN_CHECKS = 0.2
_SECONDS_OF_SLEEP = 2.0  # between two checks: a busy machine alone never delays them this long
_MOST_PROCESSES = 8
# `-c` with this interpreter's sys.path: the working directory is never searched for modules.
_COMMAND = "import sys; sys.path[:] = {path!r}; from lost_reg.images.decoder import serve; serve()"


@dataclass(frozen=True)
class Decoding:
    """How images are prepared for a backbone.

    apply_exif: whether the EXIF orientation of files is applied.
    max_side: the longer side, in pixels, to which larger images are scaled down, or None.
    patch_size: sides are padded to multiples of it.
    square: the side of a square to which all images are scaled instead, or None.
    crop: the shorter side, in pixels, to which all images are scaled instead, and the side of the square that
        is cut from their centre; or None. See `centre_crop`.
    background: the colour under transparent images, see `read_image`.
    max_patches: images with more patches, once scaled, are refused without decoding them; None for any.
    """

    apply_exif: bool
    max_side: int | None
    patch_size: int
    square: int | None = None
    background: str | None = WHITE
    max_patches: int | None = None
    crop: tuple[int, int] | None = None

    def prepare(self, name: str, image: ImageInput) -> DecodedImage | Failure:
        """Decode one image in this process."""
        try:
            if isinstance(image, np.ndarray):
                pixels, note = array_to_rgb(image), None
                self.check(pixels.shape[:2])
            else:
                pixels, note = read_noted(
                    image, apply_exif=self.apply_exif, background=self.background, check=self.check
                )
            resized = self._scaled(pixels)
            padded = pad_to_patches(resized, self.patch_size)
        except UnreadableImage as error:
            return Failure(name, str(error))
        except MemoryError:
            return Failure(name, "takes too much memory to decode")
        return DecodedImage(name, padded, resized.shape[:2], pixels.shape[:2], note)

    def check(self, size_hw: tuple[int, int]) -> None:
        """Raises UnreadableImage for an image of this size, in pixels, that has too many patches."""
        square = self.crop[1] if self.crop else self.square
        height, width = scaled_size(size_hw, self.max_side, square)
        patches = patches_of((height, width), self.patch_size)
        if self.max_patches is not None and patches > self.max_patches:
            raise UnreadableImage(
                f"{width:,} x {height:,} pixels are {patches:,} patches, and at most {self.max_patches:,} "
                "are used: `max_side` scales it down"
            )

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        return centre_crop(pixels, *self.crop) if self.crop else scaled(pixels, self.max_side, self.square)


def decode(
    images: Iterable[NamedImage | Failure],
    decoding: Decoding,
    *,
    workers: int | None = None,
    seconds: float = SECONDS_PER_IMAGE,
    command: Sequence[str] | None = None,
) -> Iterator[DecodedImage | Failure]:
    """Decode images in their order, a few ahead of the caller.

    Args:
        images: names, and paths, encoded files (bytes) or arrays; streamed. A Failure among them is
            passed on unchanged.
        workers: number of processes; None fits the machine, 0 decodes in this process, without protection.
        seconds: the longest that one image may take in a process.
        command: starts a process, for tests.

    Yields:
        One outcome for each image.

    Raises:
        LostRegError: processes cannot be started.
    """
    if workers is None:
        workers = min(_MOST_PROCESSES, os.cpu_count() or 1)
    if not workers:
        yield from (one if isinstance(one, Failure) else decoding.prepare(*one) for one in images)
        return
    processes = [DecoderProcess(decoding, seconds, command) for _ in range(workers)]
    idle: SimpleQueue[DecoderProcess] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def work(one: NamedImage | Failure) -> DecodedImage | Failure:
        if isinstance(one, Failure):
            return one
        name, image = one
        if isinstance(image, np.ndarray):
            return decoding.prepare(name, image)
        process = idle.get()
        try:
            return process.decode(name, image)
        finally:
            idle.put(process)

    threads = ThreadPoolExecutor(workers)
    try:
        with watched(processes):
            yield from _ahead(images, lambda one: threads.submit(work, one), 2 * workers)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _ahead(
    images: Iterable[NamedImage | Failure], submit: Callable[..., Future], most: int
) -> Iterator[DecodedImage | Failure]:
    """The results of the images in order, with at most `most`, and _BYTES_AHEAD, in progress."""
    images = iter(images)
    under_way: deque[tuple[Future, int]] = deque()
    while True:
        while len(under_way) < most and sum(size for _, size in under_way) < _BYTES_AHEAD:
            if (one := next(images, None)) is None:
                break
            under_way.append((submit(one), 0 if isinstance(one, Failure) else _bytes_of(one[1])))
            del one  # it may be large
        if not under_way:
            return
        yield under_way.popleft()[0].result()


def _bytes_of(image: ImageInput) -> int:
    """What an image in memory takes."""
    return image.nbytes if isinstance(image, np.ndarray) else len(image) if isinstance(image, bytes) else 0


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
    """A line of JSON, as requests and answers are."""
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
