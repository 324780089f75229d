"""Files of which only a bounded part is read, so that no header can cost more than that."""

from __future__ import annotations

import io
from typing import Any

from lost_reg.errors import UnreadableImage

# As which the shortest read counts: a header of very many tiny parts takes time, not bytes.
_LEAST_PER_READ = 2**10


class BoundedFile(io.BufferedReader):
    """A binary file that raises UnreadableImage once too much of it has been read, from whatever positions.

    Attributes:
        left: how many bytes may still be read; None removes the limit.
    """

    def __init__(self, raw: Any, most: int):
        super().__init__(raw)
        self._most = most
        self.left: int | None = most

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file; `left` decreases by the bytes that were read, at least 1,024 for each read."""
        if self.left is None:
            return super().read(size)
        wanted = self.left + 1 if size is None or size < 0 else min(size, self.left + 1)
        content = super().read(wanted)
        self.left -= max(len(content), _LEAST_PER_READ)
        if self.left < 0:
            raise UnreadableImage(
                f"its header is longer than the {self._most / 2**20:,.0f} MiB that are read"
            )
        return content
