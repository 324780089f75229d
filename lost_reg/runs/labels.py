"""Giving the objects of a finished run labels, in its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lost_reg.files import whole_file
from lost_reg.runs.folder import (
    CLUSTERS,
    PREDICTIONS_FILE,
    RUN_FILE,
    read_outcomes,
    read_record,
)
from lost_reg.runs.writer import line_of, record_text, while_locked
from lost_reg.types import FoundObject

Relabel = Callable[[str, int, FoundObject], FoundObject]  # (image, index among its objects, object)


def relabel(folder: Path, change: Relabel, clusters: dict[str, Any]) -> None:
    """Change each object of a run, and record its clusters in run.json: both or neither.

    Only a process that is killed between the two renames can leave new objects beside an old record.

    Raises:
        LostRegError: a folder that is in use, malformed, or cannot be written.
    """
    with while_locked(folder):
        record = {**read_record(folder / RUN_FILE), CLUSTERS: clusters}
        with (
            whole_file(folder / RUN_FILE, durable=True) as new_record,
            whole_file(folder / PREDICTIONS_FILE, durable=True) as new_lines,
        ):
            with new_lines.open("wb") as file:
                for one in read_outcomes(folder):
                    changed = tuple(change(one.image, *numbered) for numbered in enumerate(one.objects))
                    file.write(line_of(replace(one, objects=changed)))
            new_record.write_text(record_text(record), encoding="utf-8")
