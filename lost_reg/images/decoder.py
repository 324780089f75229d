"""What a decoder process does: it answers the requests of `DecoderProcess`; see `decoding.py`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from lost_reg.errors import UnreadableImage
from lost_reg.images.batching import DecodedImage
from lost_reg.images.decoder_process import line_of
from lost_reg.images.decoding import Decoding
from lost_reg.images.reading import image_size
from lost_reg.types import Failure

# On top of what a process uses when it starts. The largest image that is read takes half of it.
_BYTES_PER_IMAGE = 6 * 2**30


def serve() -> None:
    """Answer the requests on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run itself handles Ctrl-C
    requests, answers = sys.stdin.buffer, _private_output()
    decoding = Decoding(**json.loads(requests.readline()))
    _limit_memory()
    answers.write(b"ready\n")
    answers.flush()
    while line := requests.readline():
        request = json.loads(line)
        image = requests.read(request["bytes"]) if "bytes" in request else Path(request["path"])
        if request.get("header"):
            answers.write(line_of(_size_answer(image)))
        else:
            _answer(answers, decoding.prepare("", image))
        answers.flush()


def _size_answer(image: Path | bytes) -> dict[str, Any]:
    try:
        return {"size_hw": image_size(image)}
    except (UnreadableImage, MemoryError) as error:
        return {"reason": str(error)}


def _private_output() -> BinaryIO:
    """The original standard output, to which nothing else in this process can write any more."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=2**16)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return output


def _answer(answers: BinaryIO, outcome: DecodedImage | Failure) -> None:
    if isinstance(outcome, Failure):
        answers.write(line_of({"reason": outcome.reason}))
    else:
        facts = {"size_hw": outcome.size_hw, "original_hw": outcome.original_hw, "note": outcome.note}
        answers.write(line_of({"shape": outcome.pixels.shape, **facts}))
        answers.write(outcome.pixels.data.cast("B"))


def _limit_memory() -> None:
    """Keep one image from exhausting the machine's memory, on systems that can limit it."""
    import cv2
    import psutil

    cv2.setNumThreads(0)
    try:
        import resource

        now = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (now + _BYTES_PER_IMAGE,) * 2)
    except (ImportError, ValueError, OSError):  # not on this system
        pass
