"""What tests of the images of a run share."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from lost_reg.images.fetching import fetched
from lost_reg.runs.writer import NameSet


def listed(images, done=(), **options) -> list[tuple[str, object]]:
    """The images that are not done."""
    return list(images.todo(NameSet(done), **options))


def read(images, done=(), **options) -> list[tuple[str, object]]:
    """As `listed`, those at addresses with what their files hold."""
    return list(fetched(listed(images, done, **options)))


def make_shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """Write a tar archive of these names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
