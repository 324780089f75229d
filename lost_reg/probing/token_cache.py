"""Tokens of images on disk, so that a command that was interrupted continues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lost_reg.errors import LostRegError

TOKENS_FILE = "tokens.bin"


class TokenCache:
    """One token of each kind of each image, as records of one length; what a killed process left is used.

    Args:
        folder: of unfinished work, whose settings are those that the tokens depend on: see `work_folder`.
        kinds, width: how many kinds of tokens there are, and of how many numbers each.

    Raises:
        LostRegError: a folder that cannot be written.
    """

    def __init__(self, folder: Path, kinds: int, width: int):
        self._tokens = folder / TOKENS_FILE
        self._record = np.dtype([("image", "<i8"), ("tokens", "<f4", (kinds, width))])
        with self._appended() as file:  # a record that was not written to its end is cut off
            file.truncate(file.tell() // self._record.itemsize * self._record.itemsize)

    def add(self, images: np.ndarray, tokens: np.ndarray) -> None:
        """Keep tokens, (b, kinds, width) float32, of images, (b,) int64; NaN where an image has none.

        Raises:
            LostRegError: the disk is full, or the like.
        """
        records = np.empty(len(images), self._record)
        records["image"], records["tokens"] = images, tokens
        with self._appended() as file:
            file.write(records.tobytes())

    def images(self) -> np.ndarray:
        """The images whose tokens it has, in their order, (n,) int64."""
        return np.array(self._read()["image"])

    def tokens(self, kind: int) -> np.ndarray:
        """The tokens of one kind, (n, width) float32, in the order of `images`."""
        return np.array(self._read()["tokens"][:, kind])

    def _read(self) -> np.ndarray:
        if not self._tokens.stat().st_size:
            return np.empty(0, self._record)
        return np.memmap(self._tokens, self._record, mode="r")

    @contextmanager
    def _appended(self) -> Iterator[BinaryIO]:
        try:
            with self._tokens.open("ab") as file:
                yield file
        except OSError as error:
            raise LostRegError(
                f"cannot write {str(self._tokens)!r}: {error.strerror or error}; what was done is kept, the "
                "same command continues"
            ) from None
