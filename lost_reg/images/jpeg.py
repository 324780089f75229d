"""JPEG files without their end marker, which are taken if all of their pixels are there.

Pillow refuses most of them. But it fills in grey rows where zeros follow, as in a file that was allotted and
not completely downloaded, or where an end marker was added, as some programs do; and it takes a progressive
image whose last scans are missing. These are refused here.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from PIL import Image

from lost_reg.errors import UnreadableImage

NO_END_MARKER = "without its end marker"
_END, _SCAN = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_COEFFICIENTS = 64  # of a block
_END_MARKER = bytes([0xFF, _END])
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")  # but for the restarts within the data of a scan
# If pixels are missing, a decoder makes them from what it is given in place of them: noise with restarts, of
# which a decoder passes over those that are one or two ahead of what it expects.
_RESTARTS = [bytes([0xFF, 0xD0 + number]) for number in range(8)] * 8
_FILLERS = (
    b"".join(b"\x5a\x96" * 32 + restart for restart in _RESTARTS),
    b"".join(b"\xa5\x3c" * 32 + restart for restart in _RESTARTS[4:]),
)
_ZEROS = bytes(16)  # more of them than the data of an image ends with


def load(image: Image.Image, file: BinaryIO) -> tuple[Image.Image, str | None]:
    """Decode an image; a JPEG that is only without its end marker, too.

    Returns:
        The decoded image, and NO_END_MARKER or None.

    Raises:
        UnreadableImage: a JPEG some of whose pixels or scans are missing, with an end marker or without.
        OSError, SyntaxError, ...: whatever Pillow raises for other damage.
    """
    if image.format not in ("JPEG", "MPO"):
        image.load()
        return image, None
    file.seek(0)
    content = file.read()
    end, scans = _walk(content)
    if not scans.are_complete:
        raise _cut_off("scans")
    if end is None:
        return _completed(content), NO_END_MARKER
    image.load()
    # a decoder makes missing pixels grey, and leaves those of a progressive image as earlier scans have them
    if (scans.is_progressive or _ends_grey(image)) and not _is_complete(image, content[:end]):
        raise _cut_off("rows")
    return image, None


@dataclass
class _Scans:
    """What the headers of a JPEG's scans say that they hold.

    wanted: its components, known from its frame header. held: for each component, the coefficients that have
    arrived in full precision; a scan of a sequential image holds all.
    """

    wanted: set[int] = field(default_factory=set)
    is_progressive: bool = False
    held: dict[int, set[int]] = field(default_factory=dict)

    @property
    def are_complete(self) -> bool:
        return all(len(self.held.get(one, ())) == _COEFFICIENTS for one in self.wanted)

    def add_frame(self, kind: int, header: bytes) -> None:
        self.is_progressive = kind % 4 == 2
        self.wanted = {header[at] for at in range(6, min(len(header), 6 + 3 * header[5]), 3)}

    def add_scan(self, header: bytes) -> None:
        first, last, precision = (header[-3], header[-2], header[-1]) if self.is_progressive else (0, 63, 0)
        if precision % 16 == 0:  # no lower bits follow in another scan
            for at in range(1, len(header) - 3, 2):
                self.held.setdefault(header[at], set()).update(range(first, min(last, 63) + 1))


def _walk(content: bytes) -> tuple[int | None, _Scans]:
    """Where the end marker of a JPEG itself begins, not that of a thumbnail within it, and its scans."""
    at, scans = 2, _Scans()
    while marker := _MARKER.search(content, at):
        at, kind = marker.end(), content[marker.end() - 1]
        if kind == _END:
            return at - 2, scans
        length = int.from_bytes(content[at : at + 2], "big")
        header = content[at + 2 : at + length]
        if kind in _FRAMES and len(header) >= 6:
            scans.add_frame(kind, header)
        elif kind == _SCAN and len(header) >= 4:
            scans.add_scan(header)
        at += length  # over the marker's own data
    return None, scans


def _completed(content: bytes) -> Image.Image:
    if content.endswith(_ZEROS):
        content = content.rstrip(b"\0")
    content = content.rstrip(b"\xff")  # half a marker
    try:
        image = _decoded(content + _END_MARKER)
        is_complete = _is_complete(image, content)
    except (OSError, SyntaxError):
        is_complete = False
    if not is_complete:
        raise _cut_off("rows")
    return image


def _is_complete(image: Image.Image, content: bytes) -> bool:
    """Whether the content, without an end marker, gives an image's pixels whatever follows it."""
    pixels = np.asarray(image)
    try:
        others = (np.asarray(_decoded(content + filler + _END_MARKER)) for filler in _FILLERS)
        return all(np.array_equal(pixels, other) for other in others)
    except (OSError, SyntaxError):
        return False


def _ends_grey(image: Image.Image) -> bool:
    """Whether the last block is uniformly grey, as decoders fill in missing ones; few whole images are."""
    height, width = image.height, image.width
    last = np.asarray(image.crop((width - 1 - (width - 1) % 8, height - 1 - (height - 1) % 8, width, height)))
    return bool((abs(last.astype(int) - 128) <= 1).all())


def _cut_off(what: str) -> UnreadableImage:
    return UnreadableImage(
        f"cut off: its last {what} are missing; its download or copy probably failed, so get it again"
    )


def _decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=("JPEG",))
    image.load()
    return image
