"""Plain file names for the images of an export."""

from __future__ import annotations

import os
import re
from collections import Counter

_LONGEST_STEM = 180  # bytes, of the 255 that a file name can have


class Stems:
    """File names without suffix that are plain and unique in one folder, whatever the images are called.

    The same images in the same order get the same names.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def of(self, image: str) -> str:
        """The next image's name, such as a_x for a/x.jpg, and then a_x_png for a/x.png."""
        stem, with_suffix = _plain(os.path.splitext(image)[0]), _plain(image.replace(".", "_"))
        if stem.casefold() in self._taken:  # some file systems do not distinguish a from A
            stem = with_suffix
        while stem.casefold() in self._taken:
            self._numbers[with_suffix] += 1
            stem = f"{with_suffix}-{self._numbers[with_suffix] + 1}"
        self._taken.add(stem.casefold())
        return stem


def _plain(text: str) -> str:
    """Letters, digits, _, - and inner dots: nothing that has a meaning in a path, a list or XML."""
    plain = re.sub(r"[^\w.-]+", "_", text).strip("._")
    return plain.encode()[:_LONGEST_STEM].decode(errors="ignore") or "image"
