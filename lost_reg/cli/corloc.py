"""The command `corloc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lost_reg.cli.options import (
    one_of_json_and_csv,
    print_unscored,
    scoring_options,
    scoring_options_of,
    shown_rows,
    table_options,
)
from lost_reg.cli.output import print_notes


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@scoring_options
@table_options
def corloc(path: Path, as_json: bool, as_csv: bool, **options: Any) -> None:
    """Score runs, LOST pickles or COCO files by CorLoc.

    CorLoc is the share of images whose box has IoU >= 0.5 with any ground-truth box. PATH is a folder (all
    runs in it are scored), a LOST pickle (.pkl), or COCO detections or annotations (.json), such as
    `lost-reg export --to coco` writes. Two trivial baselines on the same images are shown next to each score.
    So is a published number, if there is one for the same weights, method, features, options and split.
    """
    from lost_reg.scoring import score_runs

    one_of_json_and_csv(as_json, as_csv)
    rows, errors = score_runs.score_path(path, scoring_options_of(**options))
    if rows:
        click.echo(shown_rows(score_runs, rows, as_json, as_csv))
    print_notes(note for row in rows for note in row.notes)
    print_unscored(errors, any_scored=bool(rows))
