"""What tests on Ray share: runs by an engine, and their lines."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import lost_reg
from lost_reg import LoaderOptions, load_backbone
from lost_reg.images.sources import list_images
from lost_reg.ray import RayEngine
from lost_reg.runs.options import RunOptions
from lost_reg.runs.run import run
from lost_reg.runs.sources import source_of_files

TINY = {"backbone": "tiny", "device": "cpu"}
REPOSITORY = os.path.dirname(lost_reg.__path__[0])


def source_of(folder: Path):
    return source_of_files(list_images([str(folder)]), [str(folder)])


def on_ray(source, out: Path, arguments=TINY, *, actors: int = 2, workers: int = 1, progress=lambda *_: None):
    load = partial(load_backbone, **arguments)
    options = RunOptions(
        loader=LoaderOptions(workers=workers), engine=RayEngine(load, actors=actors), resume=True
    )
    return run(source, load(), out, options=options, progress=progress)


def lines(out: Path) -> list[bytes]:
    return sorted((out / "predictions.jsonl").read_bytes().splitlines())
