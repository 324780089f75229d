"""The folder of unfinished work inside a results folder, which a command with the same settings continues."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.files import read_regular, remove_files, remove_parts, whole_file
from lost_reg.json_files import MALFORMED, as_json, parse_json
from lost_reg.runs.heads import WORK_FOLDER, WORK_SETTINGS
from lost_reg.runs.writer import while_locked


@dataclass(frozen=True)
class WorkKind:
    """What a command keeps of unfinished work.

    command: its name. files: all that it can write, by their paths in the folder.
    """

    command: str
    files: tuple[str, ...]

    def remove(self, work: Path) -> None:
        """Remove the work, but no other file in its folder; the settings go last.

        Raises:
            LostRegError: a file that cannot be removed.
        """
        remove_parts(work, {str(Path(name).parent) for name in self.files} - {"."})
        remove_files(work, (*self.files, WORK_SETTINGS))
        with contextlib.suppress(OSError):
            work.rmdir()


@contextlib.contextmanager
def work_folder(
    out: Path, kind: WorkKind, settings: dict[str, Any], *, overwrite: bool = False
) -> Iterator[Path]:
    """The folder of unfinished work in `out`, which is locked meanwhile; removed once the block has finished.

    Args:
        overwrite: work of this kind with other settings is removed.

    Raises:
        LostRegError: there is work of another kind, or with other settings; or a folder that cannot be
            written or is in use.
    """
    work = out / WORK_FOLDER
    with while_locked(out):
        text = as_json({"command": kind.command, **settings}, indent=2)
        file = work / WORK_SETTINGS
        if file.is_file() and file.read_bytes() != text.encode():
            differ = _difference(file, kind, settings)
            if not overwrite:
                raise LostRegError(
                    f"{str(out)!r} holds unfinished work with other settings ({differ}): choose another "
                    "`out`, or `overwrite` it"
                )
            kind.remove(work)
        with whole_file(file) as part:
            part.write_text(text, encoding="utf-8")
        yield work
        with contextlib.suppress(LostRegError):  # what matters is written
            kind.remove(work)


def _difference(file: Path, kind: WorkKind, settings: dict[str, Any]) -> str:
    """The names of the settings that differ from those in a file.

    Raises:
        LostRegError: it is damaged, or of another command.
    """
    try:
        earlier = parse_json(read_regular(file), dict[str, Any])
    except MALFORMED:
        earlier = {}
    options = earlier.get("options", {})
    if earlier.get("command") != kind.command or not isinstance(options, dict):
        raise LostRegError(
            f"{str(file.parent)!r} holds the unfinished work of another command, or is damaged: delete it, "
            "or choose another `out`"
        )
    flat, before = ({**one, **one.get("options", {})} for one in (settings, earlier))
    return ", ".join(name for name in flat if name != "options" and flat[name] != before.get(name))
