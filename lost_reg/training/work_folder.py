"""The folder of unfinished work inside a results folder, which a command with the same settings continues."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lost_reg.errors import LostRegError
from lost_reg.files import read_regular, whole_file
from lost_reg.json_files import MALFORMED, as_json, parse_json
from lost_reg.runs.heads import WORK_FOLDER
from lost_reg.runs.writer import while_locked

_SETTINGS_FILE = "settings.json"


@contextlib.contextmanager
def work_folder(out: Path, settings: dict[str, Any]) -> Iterator[Path]:
    """The folder of unfinished work in `out`, which is locked meanwhile.

    Raises:
        LostRegError: there is work with other settings, or a folder that cannot be written or is in use.
    """
    work = out / WORK_FOLDER
    with while_locked(out):
        text = as_json(settings, indent=2)
        file = work / _SETTINGS_FILE
        if file.exists() and file.read_bytes() != text.encode():
            differ = _difference(file, settings)
            raise LostRegError(
                f"{str(out)!r} holds unfinished work with other settings ({differ}): choose another `out`"
            )
        with whole_file(file) as part:
            part.write_text(text, encoding="utf-8")
        yield work


def _difference(file: Path, settings: dict[str, Any]) -> str:
    """The names of the settings that differ from those in a file."""
    try:
        earlier = parse_json(read_regular(file), dict[str, Any])
    except MALFORMED:
        return f"{file.name} is damaged"
    if not isinstance(earlier.get("options", {}), dict):
        return f"{file.name} is damaged"
    flat, before = ({**one, **one.get("options", {})} for one in (settings, earlier))
    return ", ".join(name for name in flat if name != "options" and flat[name] != before.get(name))
