"""The inside of a process that decodes images for `decoding.py`, over its standard input and output.

First it reads a line of settings and answers "ready". Then each request is a line of JSON, {"path": ...}, or
{"bytes": n} with n bytes of an encoded image after it; each answer is a line of JSON, {"reason": ...}, or the
shapes with the pixels after it. It ends with its input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from lost_reg.images.decoding import Decoding
from lost_reg.types import Failure

# Above what the process has when it starts. An image of the largest size that is read takes a half of it.
_BYTES_PER_IMAGE = 6 * 2**30


def main() -> None:
    """Serve requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to act on
    requests, answers = sys.stdin.buffer, _private_output()
    decoding = Decoding(**json.loads(requests.readline()))
    _limit_memory()
    answers.write(b"ready\n")
    answers.flush()
    while line := requests.readline():
        _answer(answers, decoding, _image(json.loads(line), requests))
        answers.flush()


def _private_output() -> BinaryIO:
    """The standard output, which nothing else in this process can write to any more."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=2**16)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return output


def _image(request: dict, requests: BinaryIO) -> Path | bytes:
    return requests.read(request["bytes"]) if "bytes" in request else Path(request["path"])


def _answer(answers: BinaryIO, decoding: Decoding, image: Path | bytes) -> None:
    outcome = decoding.prepare("", image)
    if isinstance(outcome, Failure):
        answers.write(_line({"reason": outcome.reason}))
        return
    shapes = {"shape": outcome.pixels.shape, "size_hw": outcome.size_hw, "original_hw": outcome.original_hw}
    answers.write(_line(shapes))
    answers.write(outcome.pixels.data.cast("B"))


def _line(content: dict) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _limit_memory() -> None:
    """Keep one image from taking the machine's memory, where the system can."""
    import cv2
    import psutil

    cv2.setNumThreads(0)
    try:
        import resource

        now = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (now + _BYTES_PER_IMAGE,) * 2)
    except (ImportError, ValueError, OSError):  # not on this system
        pass
