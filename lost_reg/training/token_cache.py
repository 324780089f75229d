"""The class tokens of a run's boxes, kept in its folder, so that a killed command resumes."""

from __future__ import annotations

import contextlib
import hashlib
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lost_reg.errors import LostRegError
from lost_reg.files import whole_file
from lost_reg.json_files import as_json
from lost_reg.runs.folder import TOKENS_FILE
from lost_reg.types import Box

SECONDS_BETWEEN_SAVES = 30.0


def box_key(image: str, box_xyxy: Box) -> bytes:
    """16 bytes that stand for a box of an image."""
    text = as_json([image, [float(side) for side in box_xyxy]])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class TokenCache:
    """The class tokens made so far, by `box_key`, saved now and then; a context manager saves at its end.

    Those of other settings (backbone, weights, precision) or of a damaged file are forgotten.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self._path, self._settings = folder / TOKENS_FILE, as_json(settings, sort_keys=True)
        self._tokens = _read(self._path, self._settings)
        self._saved, self._since = len(self._tokens), time.monotonic()

    def __contains__(self, key: bytes) -> bool:
        return key in self._tokens

    def add(self, key: bytes, token: np.ndarray) -> None:
        """Keep a token, (D,) float32.

        Raises:
            LostRegError: a file that cannot be written, such as on a full disk.
        """
        self._tokens[key] = token
        if time.monotonic() - self._since > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write what is new, completely or not at all. Raises LostRegError if that fails."""
        if len(self._tokens) == self._saved:
            return
        keys = np.frombuffer(b"".join(self._tokens), np.uint8).reshape(-1, 16)
        with whole_file(self._path) as part, part.open("wb") as file:
            np.savez(file, settings=np.array(self._settings), keys=keys, tokens=self.rows(self._tokens))
        self._saved, self._since = len(self._tokens), time.monotonic()

    def rows(self, keys: Iterable[bytes]) -> np.ndarray:
        """The tokens of these keys: (N, D)."""
        return np.stack([self._tokens[key] for key in keys])

    def __enter__(self) -> TokenCache:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_) -> None:
        with contextlib.suppress(LostRegError) if failed else contextlib.nullcontext():
            self.save()  # the first error is reported


def _read(path: Path, settings: str) -> dict[bytes, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["settings"]) != settings:
                return {}
            keys, tokens = file["keys"], file["tokens"]
        if keys.shape != (len(tokens), 16) or tokens.ndim != 2 or not np.isfinite(tokens).all():
            return {}
        return {key.tobytes(): token for key, token in zip(keys, tokens)}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return {}
