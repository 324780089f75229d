"""Files that are written as a whole, or not at all: beside their place first, then put into it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lost_reg.errors import LostRegError


@contextlib.contextmanager
def whole_file(target: Path, what: str = "", *, durable: bool = False) -> Iterator[Path]:
    """A path to write to, which takes the target's place once the block has ended well.

    The folder of the target is made. What a killed process leaves behind, the next one writes over.

    Args:
        what: it is, in an error: "the picture".
        durable: whether it is to be there even if the power goes right after.

    Raises:
        LostRegError: what cannot be written, in the block too; then nothing is left behind.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        named = f"{what} {target}".strip()
        raise LostRegError(f"cannot write {named}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
