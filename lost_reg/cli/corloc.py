"""The command `corloc`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lost_reg.cli.options import one_of_json_and_csv, scoring_options, scoring_options_of, table_options
from lost_reg.cli.output import print_message


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@scoring_options
@table_options
def corloc(path: Path, as_json: bool, as_csv: bool, **options: Any) -> None:
    """CorLoc of the runs below a folder, of a LOST pickle, or of COCO-style detections (.json).

    Beside each stand the trivial baselines on the same images, and a published number if there is one of
    the same weights, method, features, options and split.
    """
    from lost_reg.scoring import score_runs

    one_of_json_and_csv(as_json, as_csv)
    rows, errors = score_runs.score_path(path, scoring_options_of(**options))
    if rows:
        name = "json_text" if as_json else "csv_text" if as_csv else "text_table"
        click.echo(getattr(score_runs, name)(rows))
    for error in errors:
        print_message("Error", str(error))
    if errors:
        sys.exit(1)
