"""Files that are written as a whole, or not at all: beside their place first, then put into it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from lost_reg.errors import LostRegError


@contextlib.contextmanager
def whole_file(target: Path, what: str = "", *, durable: bool = False) -> Iterator[Path]:
    """A path to write to, which takes the target's place once the block has ended well.

    The folder of the target is made. A process that is killed can leave a hidden file beside it.

    Args:
        what: it is, in an error: "the picture".
        durable: whether the target is whole, the old or the new one, even if the power goes.

    Raises:
        LostRegError: what cannot be written, in the block too; then nothing is left behind.
    """
    # random: nobody else's file, and no link that somebody has laid; short, as names may not be any longer
    part = target.with_name(f".{secrets.token_hex(8)}.part")
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
