"""A set of very many names in little memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_DIGEST = np.dtype("S16")


class NameSet:
    """A great many names, in 16 bytes each: their hashes, of which no two are alike in practice."""

    def __init__(self, names: Iterable[str] = ()):
        digests = bytearray()
        for name in names:
            digests += _digest(name)
        self._digests = np.unique(np.frombuffer(digests, dtype=_DIGEST))

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, name: object) -> bool:
        if not len(self) or not isinstance(name, str):
            return False
        digest = np.frombuffer(_digest(name), dtype=_DIGEST)
        index = np.searchsorted(self._digests, digest)[0]
        return bool(index < len(self) and self._digests[index] == digest[0])


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
