"""Tokens of images on disk, so that a command that was interrupted continues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.files import read_regular, whole_file
from lost_reg.json_files import MALFORMED, as_json, parse_record

_TOKENS_FILE, _SETTINGS_FILE = "tokens.bin", "tokens.json"


def remove_tokens(folder: Path) -> None:
    """Remove the tokens in a folder, if there are any."""
    (folder / _SETTINGS_FILE).unlink(missing_ok=True)  # first: tokens without settings are never used
    (folder / _TOKENS_FILE).unlink(missing_ok=True)


class TokenCache:
    """One token of each kind of each image, as records of one length; what a killed process left is used.

    Args:
        folder: created if missing.
        settings: what the tokens depend on; those of other settings are removed.
        kinds, width: how many kinds of tokens there are, and of how many numbers each.

    Raises:
        LostRegError: a folder that cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], kinds: int, width: int):
        self._tokens, self._settings = folder / _TOKENS_FILE, folder / _SETTINGS_FILE
        self._record = np.dtype([("image", "<i8"), ("tokens", "<f4", (kinds, width))])
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            if _settings_in(self._settings) != settings:
                remove_tokens(folder)
                with whole_file(self._settings) as part:
                    part.write_text(as_json(settings), encoding="utf-8")
            with self._tokens.open("ab") as file:  # a record that was not written to its end is cut off
                file.truncate(file.tell() // self._record.itemsize * self._record.itemsize)

    def add(self, images: np.ndarray, tokens: np.ndarray) -> None:
        """Keep tokens, (b, kinds, width) float32, of images, (b,) int64; NaN where an image has none.

        Raises:
            LostRegError: the disk is full, or the like.
        """
        records = np.empty(len(images), self._record)
        records["image"], records["tokens"] = images, tokens
        with self._writing(), self._tokens.open("ab") as file:
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
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = str(self._tokens.parent)
            raise LostRegError(f"cannot write to {where!r}: {error.strerror or error}") from None


def _settings_in(path: Path) -> dict[str, Any] | None:
    try:
        return parse_record(read_regular(path))
    except (OSError, *MALFORMED):
        return None
