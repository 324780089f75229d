"""Patch features of images on disk, within a budget: computed once, read many times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from lost_reg.errors import LostRegError
from lost_reg.json_files import MALFORMED, as_json, parse_json

FEATURE_FILES = _VALUES_FILE, _INDEX_FILE = "features.bin", "features.jsonl"
_TYPE = np.dtype("<f2")
_LARGEST = float(np.finfo(_TYPE).max)


@dataclass(frozen=True)
class ImageFeatures:
    """The features of one image.

    values: (P + N, D) float32, or float16 if they come from a cache; the N patches in row-major order, after
        P tokens before the patches, such as the class token, if there are any.
    grid_hw: rows and columns of patches. spans_hw: the height and width that they cover, in pixels of the
        original image; see `Mask`.
    """

    image: str
    values: np.ndarray
    grid_hw: tuple[int, int]
    spans_hw: tuple[float, float]


_Positive = Annotated[int, Meta(gt=0)]
_Span = Annotated[float, Meta(gt=0)]


@dataclass(frozen=True)
class _Entry:
    """A line of the index: an image, and where its features begin in the file, in bytes.

    prefix: how many tokens come before the patches.
    """

    image: str
    start: Annotated[int, Meta(ge=0)]
    width: _Positive
    grid_hw: tuple[_Positive, _Positive]
    spans_hw: tuple[_Span, _Span]
    prefix: Annotated[int, Meta(ge=0)] = 0

    @property
    def end(self) -> int:
        rows, columns = self.grid_hw
        return self.start + (self.prefix + rows * columns) * self.width * _TYPE.itemsize


class FeatureCache:
    """Features in a folder, as float16; what a killed process left is used again.

    Args:
        folder: created if missing.
        budget: bytes of features that it may hold.
        continues: what continues the work after an error, for its message.

    Raises:
        LostRegError: a folder that cannot be written.
    """

    def __init__(self, folder: Path, budget: float, continues: str = "`resume`"):
        self._folder, self._budget, self._continues = folder, budget, continues
        self._entries: dict[str, _Entry] = {}
        self._end = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._values = (folder / _VALUES_FILE).open("a+b")
            self._index = (folder / _INDEX_FILE).open("a+b")
            self._recover()
        except OSError as error:
            raise self._cannot_write(error) from None

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._values.close()
        self._index.close()

    def __contains__(self, image: str) -> bool:
        return image in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """How many bytes of features it holds."""
        return self._end

    def add(self, features: ImageFeatures) -> bool:
        """Keep the features of an image.

        Returns:
            Whether they fit in the budget; if not, nothing is kept.

        Raises:
            LostRegError: the disk is full, or the like.
        """
        tokens, width = features.values.shape
        prefix = tokens - math.prod(features.grid_hw)
        entry = _Entry(features.image, self.bytes, width, features.grid_hw, features.spans_hw, prefix)
        if entry.end > self._budget:
            return False
        try:
            # the index last: what it names is whole
            self._values.write(features.values.clip(-_LARGEST, _LARGEST).astype(_TYPE).tobytes())
            self._values.flush()
            self._index.write((as_json(vars(entry)) + "\n").encode())
            self._index.flush()
        except OSError as error:
            raise self._cannot_write(error) from None
        self._keep(entry)
        return True

    def get(self, image: str) -> ImageFeatures:
        """The features of an image that is in the cache."""
        entry = self._entries[image]
        self._values.seek(entry.start)
        content = self._values.read(entry.end - entry.start)
        values = np.frombuffer(content, _TYPE).reshape(-1, entry.width)
        return ImageFeatures(image, values, entry.grid_hw, entry.spans_hw)

    def _recover(self) -> None:
        """Read the index up to the first line that is not whole, and cut off what follows."""
        length, whole = (self._folder / _VALUES_FILE).stat().st_size, 0
        for entry, line_end in self._lines():
            if entry.start != self.bytes or entry.end > length:
                break
            self._keep(entry)
            whole = line_end
        self._index.truncate(whole)
        self._values.truncate(self.bytes)

    def _keep(self, entry: _Entry) -> None:
        self._entries[entry.image], self._end = entry, entry.end

    def _lines(self) -> Iterator[tuple[_Entry, int]]:
        """The entries of the index, and where the line of each ends."""
        self._index.seek(0)
        end = 0
        for line in self._index:
            end += len(line)
            try:
                yield parse_json(line, _Entry), end
            except MALFORMED:
                return

    def _cannot_write(self, error: OSError) -> LostRegError:
        return LostRegError(
            f"cannot write to {str(self._folder)!r}: {error.strerror or error}; what was done is kept, "
            f"{self._continues} continues"
        )
