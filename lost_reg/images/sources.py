"""The images of a run, whatever they come from: what files, lists and shards have in common."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from lost_reg.images.decoding import ImageInput, NamedImage
from lost_reg.images.reading import SUFFIXES
from lost_reg.types import Failure

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """The part of the images that one of several processes does: every count-th from the index-th on.

    The shares of all processes together are all images, each once.
    """

    index: int = 0
    count: int = 1

    def of(self, items: Iterable[T]) -> Iterator[T]:
        return islice(items, self.index, None, self.count)


ALL = Share()


class Images(Protocol):
    """The images of a run: what `ImageFiles`, `ListedFiles` and `TarShards` have in common.

    root: the folder that their names start from.
    count: how many there are, or None where only reading them all would tell.
    are_files: whether root / name is a file.
    """

    @property
    def root(self) -> Path: ...

    @property
    def count(self) -> int | None: ...

    @property
    def are_files(self) -> bool: ...

    def todo(
        self, done: Container[str], share: Share = ALL, limit: int | None = None
    ) -> Iterator[NamedImage | Failure]:
        """Those of the first `limit` images that are not done and belong to this share."""
        ...

    def sample(self, most: int) -> Iterable[ImageInput]:
        """A few of them, by which the cost of a run is estimated."""
        ...


def is_image(file: str) -> bool:
    """Whether a file name has the suffix of an image."""
    return os.path.splitext(file)[1].lower() in SUFFIXES


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder, or lies below it; both absolute."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
