"""The command `score`."""

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
@click.argument("runs", nargs=-1, required=True, metavar="RUNS...", type=click.Path(path_type=Path))
@scoring_options
@table_options
def score(runs: tuple[Path, ...], as_json: bool, as_csv: bool, **options: Any) -> None:
    """Score runs by CorLoc, by AP of all boxes, and by their masks.

    RUNS are folders, all runs in which are scored, or files: COCO-style detections (.json), as detectors of
    other programs write them, or a LOST pickle, with --dataset. A file's images without a box are misses. AP
    and AR are COCO's, without classes, over all objects of each image. If the dataset has masks (COCO, or a
    folder of PNG masks) and the run was made with --masks, the first object's mask is compared with that of
    the largest true object (IoU, F-beta, pixel accuracy), and AP of all masks is computed, too.
    """
    from lost_reg.scoring import all_scores_text
    from lost_reg.scoring.all_scores import score_runs

    one_of_json_and_csv(as_json, as_csv)
    rows, errors = score_runs(runs, scoring_options_of(**options))
    if rows:
        click.echo(shown_rows(all_scores_text, rows, as_json, as_csv))
    print_notes(note for row in rows for note in row.run.notes)
    print_unscored(errors, any_scored=bool(rows))
