"""JPEG files without their end marker, which are taken if all of their pixels are there.

Pillow refuses most of them, but fills in grey rows where zeros follow, as in a file that was allotted and not
completely downloaded.
"""

from __future__ import annotations

import io
import os
import re
from typing import BinaryIO

import numpy as np
from PIL import Image

from lost_reg.errors import UnreadableImage

NO_END_MARKER = "without its end marker"
_END = 0xD9
_END_MARKER = bytes([0xFF, _END])
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # but for the restarts within the data of a scan
# If pixels are missing, a decoder makes them from what it is given in place of them: noise with restarts, of
# which a decoder passes over those that are one or two ahead of what it expects.
_RESTARTS = [bytes([0xFF, 0xD0 + number]) for number in range(8)] * 8
_FILLERS = (
    b"",
    b"".join(b"\x5a\x96" * 32 + restart for restart in _RESTARTS),
    b"".join(b"\xa5\x3c" * 32 + restart for restart in _RESTARTS[4:]),
)
_ZEROS = bytes(16)  # more of them than the data of an image ends with


def load(image: Image.Image, file: BinaryIO) -> tuple[Image.Image, str | None]:
    """Decode an image; a JPEG that is only without its end marker, too.

    Returns:
        The decoded image, and NO_END_MARKER or None.

    Raises:
        UnreadableImage: a JPEG some of whose pixels are missing.
        OSError, SyntaxError, ...: whatever Pillow raises for other damage.
    """
    if image.format in ("JPEG", "MPO"):
        file.seek(-2, os.SEEK_END)
        if file.read() != _END_MARKER and not _has_end(content := _whole(file)):
            return _completed(content), NO_END_MARKER
    image.load()
    return image, None


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _has_end(content: bytes) -> bool:
    """Whether a JPEG has an end marker of its own, and not only in a thumbnail within it."""
    at = 2
    while marker := _MARKER.search(content, at):
        at = marker.end()
        if content[at - 1] == _END:
            return True
        at += int.from_bytes(content[at : at + 2], "big")  # over the marker's own data
    return False


def _completed(content: bytes) -> Image.Image:
    if content.endswith(_ZEROS):
        content = content.rstrip(b"\0")
    content = content.rstrip(b"\xff")  # half a marker
    try:
        first, *others = (_decoded(content + filler + _END_MARKER) for filler in _FILLERS)
        is_complete = all(np.array_equal(np.asarray(first), np.asarray(other)) for other in others)
    except (OSError, SyntaxError):
        is_complete = False
    if not is_complete:
        raise UnreadableImage(
            "cut off: its last rows are missing; its download or copy probably failed, so get it again"
        )
    return first


def _decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=("JPEG",))
    image.load()
    return image
