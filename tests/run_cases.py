"""What tests of run folders write: settings, outcomes and folders with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import found_object, prediction, run_settings

from lost_reg.runs.folder import read_outcomes
from lost_reg.runs.writer import RunWriter
from lost_reg.types import Failure, Prediction

SETTINGS = run_settings(backbone="tiny")
RECORD = {"images": 3, "versions": {"torch": "2.5"}}
A = prediction("a.jpg", found_object((32, 16, 96, 64), seed=(2, 3), degree=4))
B = Prediction(
    "folder/b.png",
    (50, 40),
    (4, 3),
    (found_object((0.5, 1.25, 39.75, 50.0), degree=0), found_object((0, 0, 9, 9), seed=(3, 2), score=None)),
)
NOTHING = Prediction("nothing.jpg", (96, 128), (6, 8), ())
BROKEN = Failure("broken.jpg", "cannot be decoded: image file is truncated")
MENDED = prediction("broken.jpg", (0, 0, 16, 16))


def write(folder: Path, *outcomes: Any, settings: dict = SETTINGS, resume: bool = False) -> set[str]:
    """Write outcomes into a run folder; the names of those of its images that were done before."""
    with RunWriter(folder, settings, RECORD, resume=resume) as writer:
        for outcome in outcomes:
            writer.write(outcome)
        done = {one.image for one in read_outcomes(folder) if one.image in writer.done}
        assert len(done) == len(writer.done)
        return done


def lines_of(folder: Path) -> list[dict]:
    """The predictions of a run folder, as JSON."""
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
